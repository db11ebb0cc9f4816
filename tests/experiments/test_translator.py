import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import experiments
from data.tokenizer import train_tokenizer
from experiments.inspection.attention import pair_of
from experiments.programs import batches, height_for, width_for
from experiments.reader import MAX_TOKENS
from experiments.sentences import Translation, first_of_each_text, one_line
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.config import EOS, UserError
from transformer.decode import Hypotheses


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


@pytest.fixture(scope="module")
def ending(translator) -> Translator:
    """The same translator, but some hypotheses end: EOS is made similar to the piece that it generates most often."""
    pieces = translator.n_best(["A"], 1)[0][0].pieces
    (often,) = translator.tokenizer.ids([max(pieces, key=pieces.count)])
    embedding = translator.params["embedding"]
    params = translator.params | {"embedding": embedding.at[EOS].set(0.7 * embedding[often])}
    return Translator(params, translator.experiment, translator.tokenizer, log=lambda line: None)


@pytest.mark.parametrize("beam", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_output_does_not_depend_on_batch_size_or_order(translator, sentences, beam):
    expected = with_decode(translator, beam=beam, batch_size=64).translate(sentences)
    assert with_decode(translator, beam=beam, batch_size=7).translate(sentences) == expected
    assert with_decode(translator, beam=beam, batch_size=1).translate(sentences[:5]) == expected[:5]
    order = np.random.default_rng(0).permutation(len(sentences))
    shuffled = with_decode(translator, beam=beam).translate([sentences[i] for i in order])
    assert shuffled == [expected[i] for i in order]


def test_one_translation_for_each_sentence_and_blank_stays_blank(translator):
    outputs = translator.translate(["", "The man sees the dog.", "   "])
    assert len(outputs) == 3 and outputs[0] == outputs[2] == "" and outputs[1]
    assert translator.translate([]) == []


def test_n_best_gives_different_texts_finished_ones_first(translator, ending, sentences):
    wide, sources = with_decode(ending, beam=16, extra_length=1), ["A", *sentences[:3]]
    found = wide.n_best(sources, 16)
    assert {one.finished for best in found for one in best} == {True, False}  # otherwise this test checks nothing
    for best in found:
        assert 1 <= len(best) <= 16 and len({one.text for one in best}) == len(best)
        keys = [(not one.finished, -one.score) for one in best]
        assert keys == sorted(keys)
    assert [best[:3] for best in found] == wide.n_best(sources, 3)
    with pytest.raises(UserError, match="an n-best list of 5 does not fit a beam of 4"):
        translator.n_best(sentences[:1], 5)


def test_the_best_does_not_depend_on_how_many_are_asked_for(translator, sentences):
    assert [best[0].text for best in translator.n_best(sentences[:4], 4)] == translator.translate(sentences[:4])


def test_a_score_is_that_of_the_pieces_that_were_found(ending, sentences):
    wide, sources = with_decode(ending, beam=16, extra_length=1), ["A", *sentences[:3]]
    found = [(source, one) for source, best in zip(sources, wide.n_best(sources, 16), strict=True) for one in best]
    scores = wide.score([source for source, _ in found], [one.pieces for _, one in found])
    np.testing.assert_allclose(scores, [one.score for _, one in found], atol=1e-4)
    assert any(not one.finished for _, one in found) and any(one.finished for _, one in found)


def test_a_text_of_several_hypotheses_is_given_once(translator):
    tokenizer = translator.tokenizer
    whole = tokenizer.encode(["The man"])[0]
    letters = [*tokenizer.ids(["▁", *"The", "▁", *"man"]), EOS]
    other = tokenizer.encode(["The dog"])[0]
    rows = np.zeros((4, 16), np.int32)
    for row, ids in zip(rows, (letters, whole, other, []), strict=True):
        row[: len(ids)] = ids
    hypotheses = Hypotheses(rows, np.array([-1.0, -2.0, -3.0, -np.inf]), None)
    found = first_of_each_text(translator.translations(hypotheses, ""))
    assert [(one.text, one.score) for one in found] == [("The man", -1.0), ("The dog", -3.0)]
    assert tokenizer.ids(found[0].pieces) == letters != whole
    # Each is scored with its own pieces.
    source = ["Der Mann"]
    spelled, split = (translator.score(source, [given])[0] for given in (found[0].pieces, "The man"))
    assert spelled != pytest.approx(split, abs=0.1)
    assert translator.score(source, [tokenizer.pieces(whole)]) == translator.score(source, ["The man"])


def test_pieces_that_cannot_be_scored_are_refused(translator):
    for pieces, message in (
        (["nopiece"], "'nopiece' is not a piece of the vocabulary"),
        (["<pad>"], "</s> at the end"),
        (["</s>", "e"], "</s> at the end"),
        ([3], "not a list of pieces"),
        (Translation("e", -1.0, ("e",)), "give its .pieces"),
    ):
        with pytest.raises(UserError, match=f"target line 2.*{message}"):
            translator.score(["a", "b"], ["c", pieces])


@pytest.mark.parametrize("given", ["a text", b"bytes", None, 3, [None], ["a", 3], [["a"]]])
def test_what_is_no_list_of_sentences_is_refused(translator, given):
    calls = [
        translator.translate,
        lambda given: translator.n_best(given, 2),
        lambda given: translator.score(given, ["b"]),
        lambda given: translator.log_probs(given, ["b"]),
        lambda given: translator.align(given, [Translation("b", 0.0, ("</s>",))]),
    ]
    if given != [["a"]]:
        calls.append(lambda given: translator.score(["a"], given))
    for call in calls:
        with pytest.raises(UserError, match=r"expected a list of sentences|line [12] is not a string"):
            call(given)
    if not isinstance(given, str):
        with pytest.raises(UserError, match="is not a string"):
            translator.attention(given)
        if given is not None:
            with pytest.raises(UserError, match=r"is not a string|list of pieces|not a piece"):
                translator.attention("a", given)


def test_any_iterable_of_sentences_will_do(translator, sentences):
    expected = translator.translate(sentences[:3])
    assert translator.translate(tuple(sentences[:3])) == expected
    assert translator.translate(f"{line}\r\n" for line in sentences[:3]) == expected  # as a file gives them
    assert translator.score(iter(sentences[:2]), iter(expected[:2])) == translator.score(sentences[:2], expected[:2])


@pytest.mark.parametrize("blank", ["", " \t", "\u200b", "\ufeff", "\u2581 \u2581", "\u00a0\u200d\n"])
def test_what_cannot_be_seen_stays_blank(translator, blank):
    (best,) = translator.n_best([blank], 4)
    assert [(one.text, one.score, one.finished) for one in best] == [("", 0.0, True)]
    assert translator.score([blank, blank], [blank, "Haus"]) == [0.0, -math.inf]
    assert translator.score(["A dog."], [blank]) == translator.score(["A dog."], [["</s>"]])  # log P(EOS | source)
    with pytest.raises(UserError, match="blank"):
        translator.attention(blank)


def test_characters_without_a_piece_are_named_line_by_line_and_then_counted(translator):
    said: list[str] = []
    quick = Translator(translator.params, translator.experiment, translator.tokenizer, log=said.append)
    quick.read(["A dog.", "A café \u200b.", *["你"] * 9], "line")
    unknown = f"'é', {chr(0x200B)!r}"
    assert said[0] == f"warning: line 2 has characters that are not in the vocabulary and read as <unk>: {unknown}"
    assert len(said) == 6 and said[-1] == "warning: and 5 more of this kind"
    said.clear()
    quick.score(["A dog.", "你"], ["你", "Haus"], first=7)
    assert [line.split(" has ")[0] for line in said] == ["warning: source line 8", "warning: target line 7"]


def test_a_translation_with_unknown_pieces_or_no_end_is_warned_of():
    said: list[str] = []
    translator = Translator.__new__(Translator)
    translator.log = said.append
    cut, fine = (Translation("e", -1.0, pieces) for pieces in (("e",), ("e", "</s>")))
    odd, copied = (Translation(text, -1.0, ("<unk>", "</s>")) for text in (" ⁇ ", "Łódź"))
    translator.warn_of_outputs([fine, cut, odd, copied], [1, 3, 4, 5])
    assert [line.split(":")[1] for line in said] == [" line 3", " line 4"]
    assert "cut off" in said[0] and "⁇" in said[1]


def test_attention_without_a_target_is_that_of_the_pieces_found(translator, monkeypatch):
    letters = ("▁", *"Hund", "</s>")
    monkeypatch.setattr(translator, "n_best", lambda *_, **__: [[Translation("Hund", -1.0, letters)]])
    assert translator.attention("A dog.").target == list(letters)
    assert pair_of(translator, "micro", "A dog.", None).attention.target == list(letters)


def test_scoring_prefers_the_true_translation_of_a_memorised_pair(translator):
    with pytest.raises(UserError, match=r"2 sources but 1 target$"):
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


@pytest.mark.slow
def test_a_line_longer_than_the_training_lines_translates_with_a_warning(run):
    warnings: list[str] = []
    translator = Translator.load(run.path, log=warnings.append)
    long = "the man sees the dog and " * 12
    assert len(translator.translate([long])) == 1
    assert any("warning: line 1 has" in line and "trained on at most 40" in line for line in warnings)
    warnings.clear()
    translator.attention("dog " * 50)
    assert sum("warning: line 1 has" in line for line in warnings) == 1


def test_a_sentence_that_is_too_long_is_refused_or_skipped_by_number(translator):
    said: list[str] = []
    quick = Translator(translator.params, translator.experiment, translator.tokenizer, log=said.append)
    assert quick.max_tokens == MAX_TOKENS
    with pytest.raises(UserError, match=rf"line 2 has \d+ tokens; the limit is {MAX_TOKENS}"):
        quick.translate(["short", "word " * MAX_TOKENS])
    quick.max_tokens = 12
    lines = ["A dog.", "word " * 12, "A man."]
    before, skipped, after = quick.n_best(lines, 1, first=7, bad_lines="skip")
    assert [before, after] == translator.n_best(["A dog.", "A man."], 1)
    assert skipped[0].text == "" and math.isnan(skipped[0].score)
    assert any(line.startswith("warning: line 8 has") and line.endswith("skipped") for line in said)
    for pair in ((lines, ["Haus."] * 3), (["Haus."] * 3, lines)):
        scores = quick.score(*pair, bad_lines="skip")
        assert np.isnan(scores).tolist() == [False, True, False]
        with pytest.raises(UserError, match=r"line 2 has \d+ tokens; the limit is 12"):
            quick.score(*pair)


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
