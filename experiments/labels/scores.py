"""Scores of labels, as metrics of sacreBLEU, whose bootstrap and significance tests apply to them.

Outputs and references are lines of labels separated by spaces: one of a text, one for each word of a sentence. An
output with fewer labels, such as an empty one of a sentence that was skipped, is wrong where a label is missing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric, Score, Signature

from transformer.config import UserError

Entity = tuple[str, int, int]
"""Type, first word, and the word after the last."""


class Found(NamedTuple):
    """How many of something were found, in the reference and in the output; all can be added."""

    right: int = 0
    gold: int = 0
    predicted: int = 0

    def __add__(self, other: "Found") -> "Found":  # type: ignore[override]
        return Found(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def precision(self) -> float:
        """Percentage of what the output has that is right."""
        return percent(self.right, self.predicted)

    @property
    def recall(self) -> float:
        """Percentage of what the reference has that was found."""
        return percent(self.right, self.gold)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in percent."""
        return percent(2 * self.right, self.gold + self.predicted)


def percent(part: float, whole: float) -> float:
    """100 part / whole; 0 of nothing."""
    return 100.0 * part / whole if whole else 0.0


def found_labels(output: str, reference: str) -> dict[str, Found]:
    """Compares a line of labels with its reference, by label."""
    golds, outputs = reference.split(), output.split()
    right = Counter(gold for gold, one in zip(golds, outputs, strict=False) if gold == one)
    gold, predicted = Counter(golds), Counter(outputs)
    return {label: Found(right[label], gold[label], predicted[label]) for label in gold | predicted}


def found_entities(output: str, reference: str) -> dict[str, Found]:
    """Compares the entities of a line of tags with those of its reference, by type: one is right if all of it is."""
    golds, outputs = entities(reference.split()), entities(output.split())
    right, gold, predicted = (
        Counter(kind for kind, _, _ in each) for each in (set(golds) & set(outputs), golds, outputs)
    )
    return {kind: Found(right[kind], gold[kind], predicted[kind]) for kind in gold | predicted}


def entities(tags: Sequence[str]) -> list[Entity]:
    """Returns the entities that tags describe: B-PER I-PER O, or B I E S, as conlleval reads them.

    B and S begin an entity; I and E continue one of their type, and begin one where there is none. E and S end it. Any
    other tag is outside of entities.
    """
    found: list[Entity] = []
    kind, start, is_open = "", 0, False
    for at, tag in enumerate([*tags, "O"]):
        prefix, hyphen, this = tag.partition("-")
        inside = bool(hyphen and this) and prefix in ("B", "I", "E", "S")
        goes_on = is_open and inside and prefix in ("I", "E") and this == kind
        if is_open and not goes_on:
            found.append((kind, start, at))
        if inside and not goes_on:
            kind, start = this, at
        is_open = inside and prefix in ("B", "I")
        if inside and not is_open:  # E or S: it ends here
            found.append((kind, start, at + 1))
    return found


def is_tag(tag: str) -> bool:
    """Whether a label is O, or the beginning, inside, end or whole of an entity of a type."""
    prefix, hyphen, kind = tag.partition("-")
    return tag == "O" or (prefix in ("B", "I", "E", "S") and bool(hyphen and kind))


def totals(each: Iterable[dict[str, Found]]) -> dict[str, Found]:
    """Adds up the counts of lines, by label; the most frequent of the references first."""
    found: dict[str, Found] = {}
    for line in each:
        for label, counts in line.items():
            found[label] = found.get(label, Found()) + counts
    return dict(sorted(found.items(), key=lambda item: (-item[1].gold, item[0])))


class LabelMetric(Metric):
    """A metric whose statistics are sums over lines."""

    class _Signature(Signature):
        def __init__(self, args: dict[str, Any]):
            super().__init__(args)
            self.info.update({"score": args["name"]})

    _SIGNATURE_TYPE = _Signature
    name: str

    def get_signature(self) -> Signature:
        """Returns how the score was computed."""
        return self._Signature(vars(self) | {"num_refs": 1, "name": self.name})

    def _preprocess_segment(self, sent: str) -> str:
        return sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        (line,) = refs
        return {"gold": line}

    def _aggregate_and_compute(self, stats: list[list[int]]) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])


class Accuracy(LabelMetric):
    """Percentage of the labels of the reference that the output has in their places."""

    name = "accuracy"

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[int]:
        golds = ref_kwargs["gold"].split()
        return [sum(a == b for a, b in zip(golds, hypothesis.split(), strict=False)), len(golds)]

    def _compute_score_from_stats(self, stats: list[int]) -> Score:
        return Score("accuracy", percent(*stats))


class MacroF1(LabelMetric):
    """The mean of the F1 of all labels of the references and the outputs, each with the same weight."""

    name = "macro F1"

    def _extract_corpus_statistics(
        self, hypotheses: Sequence[str], references: Sequence[Sequence[str]] | None
    ) -> list[list[int]]:
        if not references:
            raise UserError("macro F1 needs the references")
        lines = [found_labels(*pair) for pair in zip(hypotheses, references[0], strict=True)]
        labels = list(totals(lines))
        return [[count for label in labels for count in line.get(label, Found())] for line in lines]

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[int]:
        raise NotImplementedError  # the labels of all lines are needed

    def _compute_score_from_stats(self, stats: list[int]) -> Score:
        each = [Found(*map(int, stats[i : i + 3])) for i in range(0, len(stats), 3)]
        seen = [found.f1 for found in each if found.gold or found.predicted]
        return Score("macro F1", sum(seen) / len(seen) if seen else 0.0)


class EntityF1(LabelMetric):
    """F1 of the entities of all types, as conlleval and seqeval compute it: an entity is right if all of it is."""

    name = "F1"

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[int]:
        return list(sum(found_entities(hypothesis, ref_kwargs["gold"]).values(), Found()))

    def _compute_score_from_stats(self, stats: list[int]) -> Score:
        return Score("F1", Found(*map(int, stats)).f1)
