"""Labelled bracketing scores of trees, as EVALB computes them with the parameters of COLLINS.prm.

EVALB (Sekine and Collins, 1997) is the program that has scored parsers on the Penn Treebank since Collins (1997); the
paper's Table 4 has its F1. The rules:

- Punctuation is deleted, by its tag: , : `` '' and . So are empty elements, and the root TOP.
- A bracket is a label and the words that it spans. A tree may have the same bracket several times, and each of them
  matches one. Brackets without words are left out.
- Only what precedes the first - or = of a label counts. ADVP and PRT are the same label.
- A pair of trees is an error, and not scored, if different words are left in them; and skipped, if none are.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric, Score, Signature

from data.treebanks.linear import XX
from data.treebanks.trees import EMPTY, ROOT, Node, Tree, Word, bare, tree_in, words_of
from transformer.config import UserError

DELETED = frozenset({ROOT, EMPTY, ",", ":", "``", "''", "."})
"""DELETE_LABEL of COLLINS.prm."""

SAME = {"PRT": "ADVP"}
"""EQ_LABEL of COLLINS.prm."""


class Bracketing(NamedTuple):
    """Counts of one sentence, which can be added over sentences."""

    matched: int = 0
    gold: int = 0
    """Number of brackets in the reference."""
    predicted: int = 0
    complete: int = 0
    """Sentences whose brackets are all right."""
    crossing: int = 0
    """Predicted brackets that overlap with one of the reference, neither inside the other."""
    words: int = 0
    """Words without punctuation."""
    tagged: int = 0
    """Words with the tag of the reference."""
    sentences: int = 0
    """Sentences that are scored."""
    errors: int = 0
    skipped: int = 0

    def __add__(self, other: "Bracketing") -> "Bracketing":  # type: ignore[override]
        return Bracketing(*(a + b for a, b in zip(self, other, strict=True)))

    @property
    def precision(self) -> float:
        """Percentage of the predicted brackets that are right."""
        return _percent(self.matched, self.predicted)

    @property
    def recall(self) -> float:
        """Percentage of the reference's brackets that were found."""
        return _percent(self.matched, self.gold)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, in percent."""
        return _percent(2 * self.matched, self.gold + self.predicted)

    @property
    def complete_match(self) -> float:
        """Percentage of the sentences whose brackets are all right."""
        return _percent(self.complete, self.sentences)

    @property
    def tagging(self) -> float:
        """Percentage of the words with the right tag."""
        return _percent(self.tagged, self.words)


def _percent(part: float, whole: float) -> float:
    return 100.0 * part / whole if whole else 0.0


Bracket = tuple[str, int, int]
"""Label, first word, and the word after the last."""


def brackets_of(tree: Tree) -> tuple[list[Bracket], list[Word]]:
    """Returns the brackets of a tree that are scored, and the words that they are counted over."""
    brackets: list[Bracket] = []
    words: list[Word] = []

    def visit(node: Node) -> None:
        if isinstance(node, Word):
            if node.tag not in DELETED:
                words.append(node)
            return
        start = len(words)
        for child in node.children:
            visit(child)
        label = bare(node.label)
        if len(words) > start and label not in DELETED:
            brackets.append((SAME.get(label, label), start, len(words)))

    visit(tree)
    return brackets, words


def bracketing(gold: Tree, predicted: Tree) -> Bracketing:
    """Compares a tree with its reference, as EVALB does."""
    (ours, our_words), (theirs, their_words) = brackets_of(predicted), brackets_of(gold)
    if not our_words:
        return Bracketing(skipped=1)
    if [word.text for word in our_words] != [word.text for word in their_words]:
        return Bracketing(errors=1)
    matched = (Counter(ours) & Counter(theirs)).total()
    spans = {(start, end) for _, start, end in theirs}
    tags = ((SAME.get(a.tag, a.tag), SAME.get(b.tag, b.tag)) for a, b in zip(our_words, their_words, strict=True))
    return Bracketing(
        matched=matched,
        gold=len(theirs),
        predicted=len(ours),
        complete=int(matched == len(ours) == len(theirs)),
        crossing=sum(any(a < start < b < end or start < a < end < b for a, b in spans) for _, start, end in ours),
        words=len(our_words),
        tagged=sum(a == b for a, b in tags),
        sentences=1,
    )


def with_punctuation_of(gold: Tree, predicted: Tree) -> Tree:
    """Returns a predicted tree in which exactly the words are deleted that are deleted in the reference.

    EVALB deletes punctuation in each tree by its own tags, and leaves a sentence out of the score if these differ. A
    parser that predicts no tags, or a wrong one, would lose such sentences. No word is tagged rightly by this.
    """
    tags = [word.tag for word in words_of(gold)]
    place = iter(range(len(tags)))

    def visit(node: Node) -> Node:
        if isinstance(node, Tree):
            return Tree(node.label, tuple(map(visit, node.children)))
        tag = tags[next(place)]
        if tag in DELETED:
            return Word(tag, node.text)
        return Word(XX, node.text) if node.tag in DELETED else node

    tree = visit(predicted)
    assert isinstance(tree, Tree)
    return tree


def by_label(golds: Sequence[Tree], predicted: Sequence[Tree]) -> dict[str, Bracketing]:
    """Returns the counts of the brackets of each label, the most frequent label of the references first."""
    matched, gold, ours = Counter[str](), Counter[str](), Counter[str]()
    for theirs, tree in zip(golds, predicted, strict=True):
        a, b = Counter(brackets_of(theirs)[0]), Counter(brackets_of(with_punctuation_of(theirs, tree))[0])
        for total, brackets in ((matched, a & b), (gold, a), (ours, b)):
            for (label, _, _), count in brackets.items():
                total[label] += count
    labels = sorted(gold | ours, key=lambda label: (-gold[label], label))
    return {label: Bracketing(matched=matched[label], gold=gold[label], predicted=ours[label]) for label in labels}


def by_length(golds: Sequence[Tree], predicted: Sequence[Tree], step: int = 10) -> dict[str, Bracketing]:
    """Returns the counts of the sentences of 1 to `step` words, of up to twice as many, and so on, with punctuation."""
    found: dict[int, Bracketing] = {}
    for theirs, tree in zip(golds, predicted, strict=True):
        group = (sum(1 for _ in words_of(theirs)) - 1) // step
        found[group] = found.get(group, Bracketing()) + bracketing(theirs, with_punctuation_of(theirs, tree))
    return {f"{group * step + 1}-{(group + 1) * step}": found[group] for group in sorted(found)}


class F1Score(Score):
    """F1 in percent, and the counts that it is made of."""

    def __init__(self, counts: Bracketing):
        super().__init__("F1", counts.f1)
        self.counts = counts


class F1(Metric):
    """Labelled bracketing F1 as a metric of sacreBLEU, whose significance tests apply to it.

    Hypotheses and references are bracketed trees, one per line, over the same words. Punctuation is deleted by the tags
    of the reference. A hypothesis that is empty, of a sentence that was not parsed, is skipped.
    """

    class _Signature(Signature):
        def __init__(self, args: dict[str, Any]):
            super().__init__(args)
            self.info.update({"score": "EVALB", "prm": "COLLINS", "punctuation": "by reference"})

    _SIGNATURE_TYPE = _Signature

    def _preprocess_segment(self, sent: str) -> str:
        return sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        (line,) = refs
        return {"gold": tree_in(line, "reference")}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[int]:
        if not hypothesis:
            return list(Bracketing(skipped=1))
        gold, predicted = ref_kwargs["gold"], tree_in(hypothesis, "output")
        if [word.text for word in words_of(gold)] != [word.text for word in words_of(predicted)]:
            raise UserError(f"a tree is not over the words of its reference: {hypothesis[:100]}")
        return list(bracketing(gold, with_punctuation_of(gold, predicted)))

    def _aggregate_and_compute(self, stats: list[list[int]]) -> F1Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])

    def _compute_score_from_stats(self, stats: list[int]) -> F1Score:
        return F1Score(Bracketing(*map(int, stats)))
