"""EVALB's scores: cases made by hand, and random trees, with the counts of the program itself."""

from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from data.treebanks.trees import Tree, bracketed, read_trees, words_of
from experiments.evaluation.evalb import F1, Bracketing, bracketing, by_label, by_length, with_punctuation_of
from experiments.evaluation.intervals import margin_of
from transformer.config import UserError

CASES = Path(__file__).with_name("evalb_cases.tsv").read_text().splitlines()
"""Reference, output, and seven numbers: 0, or 1 for an error, or 2 for a skipped sentence; words; brackets of the
reference, of the output, and in both; crossing brackets; right tags. The scoring functions of EVALB's C program printed
them, compiled with the labels of COLLINS.prm."""

GOLD = "(TOP (S (NP (DT The) (NN cat)) (VP (VBZ sits) (ADVP (RB here))) (. .)))"


def tree(text: str) -> Tree:
    (found,) = read_trees([text], "here")
    return found


def text(word) -> str:
    return word.text


def test_counts_are_those_of_the_program():
    for gold, output, printed in (case.split("\t") for case in CASES):
        status, words, ours, theirs, matched, crossing, tagged = map(int, printed.split())
        expected = {
            0: Bracketing(matched, ours, theirs, int(matched == ours == theirs), crossing, words, tagged, sentences=1),
            1: Bracketing(errors=1),
            2: Bracketing(skipped=1),
        }
        assert bracketing(tree(gold), tree(output)) == expected[status], (gold, output)


@pytest.mark.parametrize(
    "output, matched, predicted",
    [
        (GOLD, 4, 4),
        ("(TOP (S (NP (DT The) (NN cat)) (VP (VBZ sits) (PRT (RB here))) (. .)))", 4, 4),  # as good as ADVP
        ("(TOP (S (NP-SBJ (DT The) (NN cat)) (VP (VBZ sits) (ADVP (RB here)) (. .))))", 4, 4),  # tags, full stop
        ("(TOP (S (NP (DT The)) (NN cat) (VP (VBZ sits) (ADVP (RB here))) (. .)))", 3, 4),
        ("(TOP (S (NP (NP (DT The) (NN cat))) (VP (VBZ sits) (ADVP (RB here))) (. .)))", 4, 5),  # each matches one
        ("(TOP (DT The) (NN cat) (VBZ sits) (RB here) (. .))", 0, 0),
    ],
)
def test_cases_made_by_hand(output, matched, predicted):
    counts = bracketing(tree(GOLD), tree(output))
    assert (counts.matched, counts.gold, counts.predicted) == (matched, 4, predicted)
    assert counts.complete == (matched == predicted == 4) and counts.words == counts.tagged == 4
    assert counts.recall == pytest.approx(25 * matched)
    precision = counts.precision
    assert precision == pytest.approx(100 * matched / predicted if predicted else 0)
    assert counts.f1 == pytest.approx(2 * precision * counts.recall / (precision + counts.recall) if matched else 0)


def test_crossing_brackets_are_those_that_overlap():
    crossing = "(TOP (S (DT The) (VP (NN cat) (VBZ sits)) (RB here) (. .)))"
    assert bracketing(tree(GOLD), tree(crossing)).crossing == 1
    assert bracketing(tree(crossing), tree(GOLD)).crossing == 2  # NP and VP


def test_a_sentence_with_normalised_tags_is_scored_as_with_the_right_ones():
    """EVALB alone would find different words in the two trees, and leave the sentence out."""
    normalised = tree("(TOP (S (NP (XX The) (XX cat)) (VP (XX sits) (ADVP (XX here))) (XX .)))")
    assert bracketing(tree(GOLD), normalised) == Bracketing(errors=1)
    counts = bracketing(tree(GOLD), with_punctuation_of(tree(GOLD), normalised))
    assert (counts.f1, counts.complete, counts.words, counts.tagged, counts.errors) == (100.0, 1, 4, 0, 0)
    wrong = tree("(TOP (S (NP (DT The) (, cat)) (VP (VBZ sits) (ADVP (RB here))) (NN .)))")
    counts = bracketing(tree(GOLD), with_punctuation_of(tree(GOLD), wrong))
    assert (counts.f1, counts.words, counts.tagged, counts.errors) == (100.0, 4, 3, 0)


def test_f1_is_over_all_brackets_and_has_the_significance_tests_of_sacrebleu():
    flat = "(TOP (S (DT The) (NN cat) (VBZ sits) (RB here) (. .)))"
    metric = F1()
    score = metric.corpus_score([GOLD, flat], [[GOLD, GOLD]])
    assert score.score == pytest.approx(2 * 5 / (8 + 5) * 100) and score.counts.complete_match == 50.0
    assert "score:EVALB|prm:COLLINS|punctuation:by reference" in str(metric.get_signature())
    systems = [("A", [GOLD] * 40), ("B", [GOLD, flat] * 20)]
    _, results = PairedTest(systems, {"F1": F1()}, [[GOLD] * 40], test_type="bs")()
    first, second = results["F1"]
    assert first.score == 100.0 and second.score < 100.0 and second.p_value < 0.05


def test_outputs_that_are_no_trees_over_the_words_are_refused():
    for output in ("(TOP (S (NP (DT The))))", "(TOP (S (NN The", f"{GOLD} {GOLD}"):
        with pytest.raises(UserError, match=r"over the words|never closed|must be one tree"):
            F1().corpus_score([output], [[GOLD]])


def test_words_are_kept_where_punctuation_is_exchanged():
    gold = tree(GOLD)
    assert with_punctuation_of(gold, gold) == gold
    other = with_punctuation_of(gold, tree(GOLD.replace("NN", ",")))
    assert [word.text for word in words_of(other)] == [word.text for word in words_of(gold)]
    assert "(XX cat)" in bracketed(other)


def test_f1_does_not_depend_on_the_tags_that_are_predicted():
    output = "(TOP (S (NP (DT The) (NN cat)) (VP (VBZ sits) (NP (RB here))) (. .)))"
    for tags in (("(. .)", "(XX .)"), ("(DT The)", "(. The)"), ("(RB here)", "(, here)")):
        assert F1().corpus_score([output.replace(*tags)], [[GOLD]]).score == 75.0


def test_a_sentence_without_output_is_skipped():
    found = F1().corpus_score([GOLD, ""], [[GOLD, GOLD]])
    assert found.score == 100.0 and (found.counts.sentences, found.counts.skipped) == (1, 1)


def test_the_margin_of_a_score_shrinks_with_the_number_of_sentences():
    right, wrong = "(TOP (NP (NN a) (NN b)))", "(TOP (VP (NN a) (NN b)))"
    references = [right] * 40
    outputs = [right, wrong] * 20
    margin = margin_of(F1(), outputs, references)
    assert margin == pytest.approx(1.96 * 100 * 0.5 / 40**0.5, rel=0.15)
    assert margin_of(F1(), outputs * 16, references * 16) == pytest.approx(margin / 4, rel=0.15)
    assert margin_of(F1(), references, references) == 0
    assert margin_of(F1(), outputs[:1], references[:1]) is None


def test_labels_and_lengths_add_up_to_the_whole():
    pairs = [(tree(gold), tree(output)) for gold, output, _ in (line.split("\t") for line in CASES)]
    golds, outputs = zip(
        *((a, b) for a, b in pairs if [*map(text, words_of(a))] == [*map(text, words_of(b))]), strict=True
    )
    whole = Bracketing()
    for gold, output in zip(golds, outputs, strict=True):
        whole += bracketing(gold, with_punctuation_of(gold, output))
    for parts in (by_label(golds, outputs), by_length(golds, outputs, 2)):
        assert len(parts) > 2
        total = sum(parts.values(), start=Bracketing())
        assert total[:3] == whole[:3]


def test_lengths_are_grouped_by_words():
    trees = [tree(f"(TOP (NP {' '.join('(NN a)' for _ in range(words))}))") for words in (1, 10, 11, 20, 21)]
    assert {name: counts.sentences for name, counts in by_length(trees, trees).items()} == {
        "1-10": 2,
        "11-20": 2,
        "21-30": 1,
    }


def test_any_metric_has_a_margin_even_where_samples_score_nothing():
    outputs, references = ["a b c d e", "v w x", ""] * 2, ["a b c d e", "k l m", "n"] * 2
    for metric in (CHRF(), BLEU()):
        assert margin_of(metric, outputs, references) > 10
