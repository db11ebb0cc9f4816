from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import experiments
from data.tokenizer import train_tokenizer
from experiments.translator import MAX_TOKENS, Translator, batches, height_for, one_line, width_for
from experiments.workdir import WorkDir
from transformer.config import UserError


@pytest.fixture(scope="module")
def translator(run) -> Translator:
    return experiments.load(run.path)


@pytest.fixture(scope="module")
def sentences(text) -> list[str]:
    return (text / "train.en").read_text(encoding="utf-8").splitlines()[:64]


def with_decode(translator, **changes) -> Translator:
    experiment = translator.experiment
    experiment = replace(experiment, decode=replace(experiment.decode, **changes))
    return Translator(translator.params, experiment, translator.tokenizer, log=lambda line: None)


@pytest.mark.parametrize("beam", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_output_does_not_depend_on_batch_size_or_order(translator, sentences, beam):
    expected = with_decode(translator, beam=beam, batch_size=64).translate(sentences)
    assert with_decode(translator, beam=beam, batch_size=7).translate(sentences) == expected
    assert with_decode(translator, beam=beam, batch_size=1).translate(sentences[:12]) == expected[:12]
    order = np.random.default_rng(0).permutation(len(sentences))
    shuffled = with_decode(translator, beam=beam).translate([sentences[i] for i in order])
    assert shuffled == [expected[i] for i in order]


def test_one_translation_for_each_sentence_and_blank_stays_blank(translator):
    outputs = translator.translate(["", "The man sees the dog.", "   "])
    assert len(outputs) == 3 and outputs[0] == outputs[2] == "" and outputs[1]
    assert translator.translate([]) == []


def test_n_best_is_sorted_and_its_scores_are_those_of_forced_scoring(translator, sentences):
    for sentence, best in zip(sentences[:5], translator.n_best(sentences[:5], 4), strict=True):
        scores = [score for _, score in best]
        assert len(best) == 4 and scores == sorted(scores, reverse=True)
        assert best[0].text == translator.translate([sentence])[0]
    with pytest.raises(UserError, match="5 best of a beam of 4"):
        translator.n_best(sentences[:1], 5)


def test_scoring_prefers_the_true_translation_of_a_memorised_pair(translator):
    with pytest.raises(UserError, match="2 sources but 1 targets"):
        translator.score(["a", "b"], ["c"])
    scores = translator.score(["The man sees the dog."] * 2, ["Der Mann sieht den Hund.", "x" * 30])
    assert all(score < 0 for score in scores)
    assert scores[0] > scores[1]


def test_attention_of_a_pair(translator):
    attention = translator.attention("The man sees the dog.", "Der Mann sieht den Hund.")
    model = translator.experiment.model
    layers, heads = model.num_layers, model.num_heads
    assert attention.source[-1] == attention.target[-1] == "</s>"
    assert attention.weights.cross.shape == (layers, heads, len(attention.target), len(attention.source))
    for weights in attention.weights:
        np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-5)
    assert translator.attention("The man sees the dog.").target  # its own translation


def test_a_line_longer_than_the_training_lines_translates_with_a_warning(run):
    warnings: list[str] = []
    translator = Translator.load(run.path, log=warnings.append)
    long = "the man sees the dog and " * 12
    assert len(translator.translate([long])) == 1
    assert any("warning: line 1 has" in line and "trained on 40" in line for line in warnings)
    warnings.clear()
    translator.attention("dog " * 50)
    assert sum("warning: line 1" in line for line in warnings) == 1


def test_an_absurdly_long_line_is_refused_by_number(translator):
    with pytest.raises(UserError, match=rf"line 2 has \d+ tokens; {MAX_TOKENS} is the most"):
        translator.translate(["short", "word " * MAX_TOKENS])


def test_widths_are_few_and_never_too_small():
    widths = {length: width_for(length) for length in range(1, MAX_TOKENS + 1)}
    assert all(width >= length for length, width in widths.items())
    assert all(width < 2 * length + 16 for length, width in widths.items())
    assert len(set(widths.values())) < 25


def test_heights_are_few_and_one_sentence_is_no_batch():
    heights = {count: height_for(count) for count in range(1, 513)}
    assert all(count <= height < 2 * count for count, height in heights.items())
    assert heights[1] == 1 and len(set(heights.values())) <= 10


def test_every_sentence_is_in_one_batch_that_it_fits_and_only_the_last_has_empty_rows():
    ids = [[5] * (1 + 7 * i % 130) for i in range(200)]
    found = list(batches(list(range(200)), ids, 64))
    assert sorted(i for rows, _, _ in found for i in rows) == list(range(200))
    lengths = [[len(ids[i]) for i in rows] for rows, _, _ in found]
    assert [width for _, width, _ in found] == [width_for(max(one)) for one in lengths]
    assert all(min(before) >= max(after) for before, after in pairwise(lengths))
    assert all(len(rows) == height for rows, _, height in found[:-1])
    assert all(height * width <= 64 * max(width, 64) for _, width, height in found)
    rows, _, height = found[-1]
    assert len(rows) <= height < 2 * len(rows)


def test_every_checkpoint_can_be_asked_for(run):
    assert Translator.load(run.path, "average").steps == [20, 30, 40]
    assert Translator.load(run.path, "last").steps == [40]
    assert Translator.load(run.path, "30").steps == [30]
    with pytest.raises(UserError, match=r"no checkpoint '31'.*20, 30, 40"):
        Translator.load(run.path, "31")


def test_a_translation_is_one_line():
    assert one_line("one\ntwo\r\nthree") == "one two  three"


def test_no_such_run():
    with pytest.raises(UserError, match="no run at nowhere"):
        experiments.load("nowhere")


def test_a_vocabulary_that_is_not_the_checkpoints_is_refused(run, tmp_path):
    import shutil

    copy = WorkDir(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    train_tokenizer(["some other text", "with other pieces"], copy.vocabulary, "bpe", 30)
    with pytest.raises(UserError, match="not the vocabulary that the checkpoints"):
        experiments.load(copy.path)
