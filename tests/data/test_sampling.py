"""Subword sampling: other pieces of the same text in each epoch, which depend on nothing but seed and epoch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from data.batching import Batches, BatchPlan, Epoch, stream
from data.dataset import PreparedData, prepare
from data.sampling import SampledPlan, training_plan
from data.tokens import Split, Tokens
from tests.text import write_text
from transformer.config import UNK, DataConfig, UserError


@pytest.fixture(scope="module", params=["bpe", "unigram", "separate"])
def prepared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[PreparedData, DataConfig]:
    folder = tmp_path_factory.mktemp("text")
    write_text(folder, {"train": 600, "dev": 12, "test": 12})
    files = {
        f"{split}_{side}": str(folder / f"{split}.{language}")
        for split in ("train", "dev", "test")
        for side, language in (("src", "en"), ("tgt", "de"))
    }
    kind = "unigram" if request.param == "unigram" else "bpe"
    config = DataConfig(
        corpus="files", vocab_type=kind, vocab_size=160, max_length=40, batch_tokens=512, subword_sampling=0.2, **files
    )
    if request.param == "separate":
        config = replace(config, vocabularies="separate", source_vocab_size=120)
    return prepare(config, folder / "prepared", log=lambda line: None), config


def texts_of(data: PreparedData, split) -> list[tuple[str, str]]:
    sides = (data.tokenizer.source, split.source), (data.tokenizer, split.target)
    return list(zip(*(tok.decode([tokens[i] for i in range(len(tokens))]) for tok, tokens in sides), strict=True))


def test_an_epoch_has_each_sentence_once_in_pieces_of_its_own(prepared) -> None:
    data, config = prepared
    plan = training_plan(data, config, 0)
    usual, shape = texts_of(data, data.train), plan.shape
    pieces = []
    for number in (0, 1, 5):
        epoch = plan.epoch(number)
        assert len(epoch) == len(plan)
        batches = list(epoch)
        assert sorted(np.concatenate([b.indices for b in batches])) == list(range(len(data.train)))
        assert all(len(b.indices) and b.rows[-1] < shape.rows for b in batches)
        for batch in batches:
            for side, width in (("source", shape.source), ("target", shape.target)):
                assert np.bincount(batch.rows, epoch.split.lengths(side)[batch.indices]).max() <= width
        assert texts_of(data, epoch.split) == usual
        pieces.append([epoch.split.target[i].tolist() for i in range(len(usual))])
    for one, other in ((pieces[0], pieces[1]), (pieces[1], pieces[2]), (pieces[0], usual)):
        assert np.mean([a == b for a, b in zip(one, other, strict=True)]) < 0.5


def test_a_run_that_starts_anywhere_sees_the_batches_of_one_that_did_not_stop(prepared) -> None:
    data, config = prepared
    plan = training_plan(data, config, 3)
    steps = 2 * len(plan) + 3
    whole = list(stream(Batches(data.train, plan), 0, steps))
    for start in (1, len(plan) - 1, len(plan), steps - 1):
        again = Batches(data.train, SampledPlan(data.train, data.tokenizer, config, 3))
        for step, batch in enumerate(stream(again, start, min(3, steps - start)), start):
            for side in ("source", "target"):
                np.testing.assert_array_equal(batch[side], whole[step][side])
            assert again.target_tokens(step) == (whole[step]["target"] != 0).sum()
    mine, others = (training_plan(data, config, seed).epoch(0).split.source for seed in (3, 4))
    assert np.mean([a.tolist() == b.tolist() for a, b in zip(mine, others, strict=True)]) < 0.9


def test_a_sentence_that_would_not_fit_or_has_unknown_characters_keeps_its_pieces(prepared) -> None:
    data, config = prepared
    plan = training_plan(data, config, 0)
    usual = data.train
    longest = tuple(int(np.median(usual.lengths(side))) for side in ("source", "target"))
    drawn = plan._sample(1, longest)
    same = np.array([a.tolist() == b.tolist() for a, b in zip(drawn.source, usual.source, strict=True)])
    for side, most in zip(("source", "target"), longest, strict=True):
        tokens, before = getattr(drawn, side), getattr(usual, side)
        long = [i for i in range(len(tokens)) if len(tokens[i]) > most]
        assert long and all(tokens[i].tolist() == before[i].tolist() for i in long)
    unread = int(np.flatnonzero(~same)[0])
    flat = data.train.source[unread].copy()
    flat[0] = UNK
    changed = type(data.train.source)(flat.astype(np.uint16), np.array([0, len(flat)]))
    assert plan._sample_side(changed, data.tokenizer.source, 40, (1, 0))[0].tolist() == flat.tolist()


@pytest.mark.parametrize("batch_tokens", [40, 10_000], ids=["rows of one batch each", "one batch"])
@pytest.mark.parametrize("sentences", [1, 7])
def test_no_batch_of_a_small_text_is_empty(prepared, batch_tokens: int, sentences: int) -> None:
    data, config = prepared
    sides = [getattr(data.train, side) for side in ("source", "target")]
    few = Split(*(Tokens(side._flat, side._offsets[: sentences + 1]) for side in sides))
    plan = SampledPlan(few, data.tokenizer, replace(config, batch_tokens=batch_tokens), 0)
    for number in range(8):
        epoch = plan.epoch(number)
        assert len(epoch) == len(plan) <= sentences
        assert all(len(batch.indices) for batch in epoch)
        seen = set(np.concatenate([batch.indices for batch in epoch]).tolist())
        assert seen == set(range(sentences)) or len(epoch.starts) - 1 > len(plan) * plan.shape.rows
    fewer = Epoch(np.arange(1), np.array([0, 1]), np.arange(1), np.array([0, 1]))
    with patch.object(BatchPlan, "epoch", lambda plan, number: fewer):
        assert all(len(batch.indices) for batch in plan.epoch(20))


@pytest.mark.parametrize("batches", [1, 3])
def test_a_text_that_fills_its_batches_has_no_more_of_them(prepared, batches: int) -> None:
    data, config = prepared
    sides = [getattr(data.train, side) for side in ("source", "target")]
    few = Split(*(Tokens(side._flat, side._offsets[:121]) for side in sides))
    whole = SampledPlan(few, data.tokenizer, replace(config, batch_tokens=100_000), 0)
    rows = len(whole.epoch(0).starts) - 1
    assert len(whole) == 1 and rows <= whole.shape.rows < rows + 9 and rows < 32
    each = -(-rows // batches)
    limit = each * max(whole.shape.source, whole.shape.target)
    full = SampledPlan(few, data.tokenizer, replace(config, batch_tokens=limit), 0)
    assert len(full.epoch(0).starts) - 1 == rows and (len(full), full.shape.rows) == (batches, each)
    for number in range(4):
        assert len(np.unique(np.concatenate([batch.indices for batch in full.epoch(number)]))) > 0.9 * 120


@pytest.mark.slow
@pytest.mark.parametrize("prepared", ["bpe"], indirect=True)
def test_a_program_can_end_while_the_next_epoch_is_encoded(prepared) -> None:
    data, config = prepared
    program = f"""
from pathlib import Path
from data import sampling
from data.dataset import open_prepared
from transformer.config import DataConfig

sampling._CHUNK = 1  # slow
sampling.training_plan(open_prepared(Path({str(data.path)!r})), {config!r}, 0).epoch(0)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_epoch_is_the_same_when_it_is_encoded_again(prepared) -> None:
    data, config = prepared
    plan = training_plan(data, config, 0)
    for number in (0, 1):
        before = plan.epoch(number)
        plan._known = {}
        again = plan.epoch(number)
        assert before is not again
        for name in ("sentences", "starts", "order", "cuts"):
            np.testing.assert_array_equal(getattr(before, name), getattr(again, name))
        for side in ("source", "target"):
            tokens = zip(getattr(before.split, side), getattr(again.split, side), strict=True)
            assert all(a.tolist() == b.tolist() for a, b in tokens)


def test_without_sampling_it_is_the_plan_of_the_prepared_tokens(prepared) -> None:
    data, config = prepared
    plan = training_plan(data, replace(config, subword_sampling=0.0), 0)
    assert type(plan) is not SampledPlan and plan.epoch(3).split is None


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_rate_that_is_no_rate_is_refused(rate: float, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.subword_sampling must lie in \[0, 1\)"):
        DataConfig(subword_sampling=rate)
