"""Scores of labels against cases computed by hand, and against other implementations."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.evaluation.intervals import margin_of
from experiments.labels.scores import Accuracy, EntityF1, MacroF1, entities, found_entities, found_labels, totals
from experiments.labels.task import Classification, Entities, Tagging
from experiments.task import TASKS, Translated
from transformer.config import LABELLED, UserError


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("I-PER I-PER O I-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),  # an I without a B begins an entity
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),
        ("S-PER B-LOC E-LOC E-LOC", [("PER", 0, 1), ("LOC", 1, 3), ("LOC", 3, 4)]),
        ("B- X B-PER", [("PER", 2, 3)]),
        ("", []),
    ],
)
def test_entities_by_hand(tags, expected):
    assert entities(tags.split()) == expected


def test_f1_of_entities_by_hand():
    golds = ["B-PER I-PER O B-LOC", "O B-ORG"]
    outputs = ["B-PER I-PER O B-ORG", "B-ORG I-ORG"]
    # Right: PER. In the references PER, LOC and ORG; in the outputs PER, ORG and ORG.
    assert EntityF1().corpus_score(outputs, [golds]).score == pytest.approx(100 * 2 * 1 / (3 + 3))
    scores, _ = Entities().score(Translated(["a b c d", "a b"], outputs, golds))
    assert {score.name: round(score.value, 4) for score in scores} == {
        "F1": 33.3333, "precision": 33.3333, "recall": 33.3333, "accuracy": 50.0, "complete match": 0.0,
    }  # fmt: skip
    found = totals(map(found_entities, outputs, golds))
    assert found["ORG"].gold == 1 and found["ORG"].predicted == 2 and found["ORG"].right == 0


def spans(tags: list[str]) -> set[tuple[str, int, int]]:
    """Entities of B, I and O, by a regular expression over the types of the words."""
    found = set()
    for kind in {tag[2:] for tag in tags if tag != "O"}:
        letters = "".join(tag[0] if tag[2:] == kind else "O" for tag in tags)
        found |= {(kind, match.start(), match.end()) for match in re.finditer("BI*|I+", letters)}
    return found


bio = st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), min_size=1, max_size=9)


@given(st.lists(st.tuples(bio, bio), min_size=1, max_size=6))
def test_f1_of_entities_is_that_of_another_implementation(pairs):
    pairs = [(gold, (output + gold)[: len(gold)]) for gold, output in pairs]
    right = gold_count = predicted = 0
    for gold, output in pairs:
        a, b = spans(gold), spans(output)
        right, gold_count, predicted = right + len(a & b), gold_count + len(a), predicted + len(b)
    expected = 200 * right / (gold_count + predicted) if gold_count + predicted else 0.0
    golds, outputs = ([" ".join(pair[side]) for pair in pairs] for side in (0, 1))
    assert EntityF1().corpus_score(outputs, [golds]).score == pytest.approx(expected)


labels = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abce")), min_size=1, max_size=20)


@given(labels)
def test_macro_f1_is_that_of_another_implementation(pairs):
    each = []
    for label in {one for pair in pairs for one in pair}:
        right = sum(gold == output == label for gold, output in pairs)
        gold, predicted = (sum(pair[side] == label for pair in pairs) for side in (0, 1))
        precision, recall = right / predicted if predicted else 0.0, right / gold if gold else 0.0
        each.append(2 * precision * recall / (precision + recall) if right else 0.0)
    golds, outputs = ([pair[side] for pair in pairs] for side in (0, 1))
    assert MacroF1().corpus_score(outputs, [golds]).score == pytest.approx(100 * sum(each) / len(each))
    accuracy = 100 * sum(gold == output for gold, output in pairs) / len(pairs)
    assert Accuracy().corpus_score(outputs, [golds]).score == pytest.approx(accuracy)
    assert sum(counts.right for counts in totals(map(found_labels, outputs, golds)).values()) == round(
        accuracy * len(pairs) / 100
    )


def test_scores_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    golds, outputs = list("aabbccd"), list("abbbcea")
    found = MacroF1().corpus_score(outputs, [golds]).score
    assert found == pytest.approx(100 * metrics.f1_score(golds, outputs, average="macro", zero_division=0))


def test_a_missing_label_is_wrong():
    assert Accuracy().corpus_score(["DT", ""], [["DT NN", "NN NN"]]).score == 25.0
    assert EntityF1().corpus_score([""], [["B-PER"]]).score == 0.0


@pytest.mark.parametrize("metric", [Accuracy, MacroF1, EntityF1])
def test_a_score_has_an_interval_over_lines(metric):
    golds = ["B-PER O"] * 60 + ["O B-LOC"] * 40
    half = ["O O" if i % 2 else gold for i, gold in enumerate(golds)]
    margin = margin_of(metric(), half, golds)
    assert margin is not None and 1 < margin < 20
    assert margin_of(metric(), golds, golds) == 0.0
    assert metric.name in str(metric().get_signature())


@pytest.mark.parametrize("name", LABELLED)
def test_a_task_of_labels_has_its_metric_and_a_table(name):
    task = TASKS[name]
    assert task.metric == next(iter(task.metrics(None)))
    ((title, rows),) = task.details(Translated(["x y"], ["B-A O"], ["B-A B-B"])).items()
    assert title in ("label", "tag", "type") and all({"F1", "count"} <= set(row) for row in rows.values())


def test_references_that_are_no_labels_are_refused_and_an_i_without_a_b_is_told():
    with pytest.raises(UserError, match="line 2: the reference is not one label: 'a b'"):
        Classification().warning(["x", "y"], ["a", "a b"], None)
    with pytest.raises(UserError, match="line 1: 2 tags for 3 words"):
        Tagging().warning(["x y z"], ["a b"], None)
    with pytest.raises(UserError, match="line 1: 'NN' is not a tag of entities"):
        Entities().warning(["x"], ["NN"], None)
    assert Entities().warning(["x y"], ["O I-PER"], None) == (
        "line 1: I-PER follows O: it is read as the beginning of an entity"
    )
    assert Entities().warning(["x y z"], ["B-PER I-PER I-PER"], None) is None
