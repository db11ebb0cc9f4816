"""Symbols of a user's own are pieces that are never split, and a tag is such a symbol before each source line."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from data.dataset import prepare
from data.tokenizer import Tokenizer, train_tokenizer
from experiments.cli import translating
from experiments.cli.arguments import parse
from experiments.cli.flags import Attending, Decoding, Evaluating, Scoring, Serving, Translating
from experiments.cli.output import lines_for
from experiments.inspection.heads import looks
from experiments.translator import Translator
from tests.text import write_text
from transformer.config import DataConfig, DecodeConfig, Experiment, UserError
from transformer.train import init_params

SYMBOLS = ("<2de>", "<2fr>")
LINES = ["The man sees the dog.", "", "A small house and a woman."]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("vocabulary")
    write_text(folder, {"train": 300})
    lines = [line for name in ("en", "de") for line in (folder / f"train.{name}").read_text().splitlines()]
    return train_tokenizer(lines, folder / "vocab.model", "bpe", 200, symbols=SYMBOLS)


@pytest.fixture(scope="module")
def plain(tokenizer, micro) -> Translator:
    model = replace(micro.model, vocab_size=tokenizer.size)
    decode = DecodeConfig(beam=1, extra_length=2, batch_size=4)
    experiment = Experiment("untrained", model=model, data=replace(micro.data, vocab_size=200), decode=decode)
    params = jax.tree.map(lambda x: 3 * x, init_params(model, 0))
    return Translator(params, experiment, tokenizer, log=lambda line: None)


def with_tag(plain: Translator, tag: str) -> Translator:
    decode = replace(plain.experiment.decode, tag=tag)
    return Translator(plain.params, replace(plain.experiment, decode=decode), plain.tokenizer, log=plain.log)


@pytest.mark.parametrize("line", ["<2de> The man", "The<2fr>man", "The man <2de>"])
def test_a_symbol_is_one_piece_wherever_it_is_and_comes_back(tokenizer, line):
    (ids,) = tokenizer.encode([line])
    assert sum(piece in SYMBOLS for piece in tokenizer.pieces(ids)) == 1
    assert not any("2" in piece for piece in tokenizer.pieces(ids) if piece not in SYMBOLS)
    assert tokenizer.decode([ids]) == [line]
    drawn = tokenizer.sample([line] * 20, 0.9, 0)
    assert all(sum(piece in SYMBOLS for piece in tokenizer.pieces(ids)) == 1 for ids in drawn)


@pytest.mark.slow
def test_a_tag_is_the_same_as_writing_it_in_each_line(plain):
    tagged, written = with_tag(plain, "<2de>"), [f"<2de> {line}" if line else "" for line in LINES]
    found = tagged.n_best(LINES, 1)
    assert found == plain.n_best(written, 1) != plain.n_best(LINES, 1)
    outputs = [best.pieces for (best,) in found]
    outputs[1] = []
    assert tagged.score(LINES, outputs) == plain.score(written, outputs)
    one, other = tagged.attention(LINES[0]), plain.attention(written[0])
    assert one.source == other.source and "<2de>" in one.source and one.target == other.target


def test_alignments_count_the_words_of_the_line_without_the_tag(plain):
    tagged = with_tag(plain, "<2de>")
    best = [one for (one,) in tagged.n_best(LINES, 1)]
    seen = {i for links in tagged.align(LINES, best) for i, _ in links}
    assert seen and min(seen) >= 0 and max(seen) < max(len(line.split()) for line in LINES)


def test_statistics_and_json_are_those_of_the_line_with_its_tag(plain):
    tagged, written = with_tag(plain, "<2de>"), [f"<2de> {line}" if line else "" for line in LINES]
    found = tagged.n_best(LINES, 1, log_probs=True)
    shown = [json.loads(line.text) for line in lines_for(tagged, Translating(json=True), LINES, found, 1)]
    log_probs = [one["translations"][0]["log_probs"] for one in shown]
    pieces = [best.pieces for (best,) in found]
    for mine, theirs in zip(log_probs, plain.log_probs(written, pieces), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    texts = [best.text for (best,) in found]
    one, other = looks(tagged, LINES[::2], texts[::2]), looks(plain, written[::2], texts[::2])
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("tag", ["<2es>", " ", "two words", "</s>", "<unk>", "<pad>"])
def test_a_tag_that_is_no_piece_is_refused(plain, tag, monkeypatch):
    with pytest.raises(UserError, match="is not a piece of the vocabulary"):
        with_tag(plain, tag).translate(LINES)
    monkeypatch.setattr(translating, "runs_of", lambda name: [])
    monkeypatch.setattr(translating.Translator, "load", lambda *_: with_tag(plain, "<2fr>"))
    with pytest.raises(UserError, match="is not a piece of the vocabulary"):  # before it reads, or serves
        translating.loaded("run", Serving(tag=tag))


def test_flags_switch_off_every_setting_of_the_run(plain, monkeypatch):
    searching = plain.experiment.decode
    sampling = {"sample": True, "temperature": 0.5, "top_k": 5, "top_p": 0.9, "seed": 3}
    other = {"tag": "<2de>", "min_length": 2, "no_repeat_ngram": 3, "forbid_unk": True, "replace_unk": True}
    other |= {"only_trees": True}
    of_search = {"beam", "alpha", "batch_size", "iterations", *sampling, *other}
    assert of_search == vars(DecodeConfig()).keys() & vars(Decoding()).keys()
    own = replace(plain.experiment, decode=replace(searching, **sampling, **other))
    monkeypatch.setattr(translating, "runs_of", lambda name: [])
    monkeypatch.setattr(
        translating.Translator, "load", lambda *_: Translator(plain.params, own, plain.tokenizer, log=plain.log)
    )

    def decode_of(kind: type, *flags: str) -> DecodeConfig:
        return translating.loaded("run", parse(kind, list(flags), kind(), "verb")).experiment.decode

    assert decode_of(Translating) == own.decode
    off = ["--tag", "", "--min-length", "0", "--no-repeat-ngram", "0", "--no-forbid-unk", "--no-replace-unk"]
    off += ["--no-only-trees"]
    assert decode_of(Translating, *off, "--no-sample") == searching
    assert decode_of(Translating, *off, "--no-sample", "--beam", "3") == replace(searching, beam=3)
    assert decode_of(Evaluating, *off) == replace(searching, **sampling)
    assert decode_of(Evaluating, "--mbr", "2") == own.decode  # it samples
    for kind in (Scoring, Attending):
        assert decode_of(kind, "--tag", "") == replace(own.decode, tag=None)
    with pytest.raises(UserError, match="needs --sample"):
        decode_of(Translating, "--no-sample", "--mbr", "2")
    with pytest.raises(UserError, match=r"--forbid-unk expects no value.* or --no-forbid-unk for False"):
        decode_of(Translating, "--forbid-unk", "False")


@pytest.mark.parametrize("symbols", ["<s>", "▁a", "<2de> <2de>", "a\x07"])
def test_symbols_that_cannot_be_are_refused(symbols):
    with pytest.raises(UserError, match=r"data\.symbols"):
        DataConfig(symbols=symbols)


def test_symbols_are_part_of_what_is_prepared(micro, tmp_path):
    config = replace(micro.data, symbols="<2fr> <2de>")
    data = prepare(config, tmp_path, log=lambda line: None)
    assert all(data.tokenizer.has_piece(symbol) for symbol in SYMBOLS)
    assert data.path == prepare(config, tmp_path, log=lambda line: None).path
    assert data.path != prepare(micro.data, tmp_path, log=lambda line: None).path
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="has no piece <2es>"):
        given = replace(config, vocabulary=str(data.path / "vocab.model"), symbols="<2es>")
        prepare(given, tmp_path / "other", log=lambda line: None)
