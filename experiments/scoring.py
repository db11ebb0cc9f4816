"""Scores of a translation: sacreBLEU and chrF on detokenised text, and the paper's own protocol, each by its name.

    BLEU        sacreBLEU, 13a tokens, cased: the one to publish
    BLEU-intl   its "intl" tokens
    BLEU-lc     13a, lowercased
    BLEU-split  the paper's: Moses tokens of normalised text, compounds split at hyphens, as multi-bleu counts
    chrF2       character n-grams

A BLEU means nothing without its protocol: the same output differs by more than a point between the first and the last.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from experiments.moses import LANGUAGES, paper_tokens
from transformer.checkpoint import brief
from transformer.config import UserError
from transformer.parts import Parts


class Score(NamedTuple):
    """A corpus score, in percent, and the signature without which it means nothing."""

    name: str
    value: float
    signature: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f}   {self.signature}"


class Translated(NamedTuple):
    """What a metric scores: the lines of a text, of its translation, and of the right one."""

    sources: list[str]
    outputs: list[str]
    references: list[str]
    language: str | None = None
    """The target's, as in "de"; None where nobody said."""


Measured = tuple[float, str]
"""A score, in percent where the metric has it so, and its signature."""

MetricPart = Callable[[Translated], Measured | None]
"""The score of a translation. None: the metric says nothing of this language."""


def by_sacrebleu(metric: Callable[[], Metric], text: Translated) -> Measured:
    """A metric of sacrebleu's."""
    made = metric()
    return made.corpus_score(text.outputs, [text.references]).score, str(made.get_signature())


def by_the_papers_protocol(text: Translated) -> Measured | None:
    """The protocol of the paper's numbers, by the steps of experiments.moses; of its two target languages alone."""
    if text.language not in LANGUAGES:
        return None
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    outputs, references = ([paper_tokens(line, text.language) for line in lines] for lines in text[1:3])
    value = metric.corpus_score(outputs, [references]).score
    return value, f"{metric.get_signature()}|input:moses-{text.language}+compounds-split"


METRICS: Parts[MetricPart] = Parts(
    "metric",
    {
        "BLEU": partial(by_sacrebleu, BLEU),
        "BLEU-intl": partial(by_sacrebleu, partial(BLEU, tokenize="intl")),
        "BLEU-lc": partial(by_sacrebleu, partial(BLEU, lowercase=True)),
        "BLEU-split": by_the_papers_protocol,
        "chrF2": partial(by_sacrebleu, CHRF),
    },
)


def score(text: Translated) -> tuple[list[Score], list[str]]:
    """All scores of a translation, the one to publish first, and why metrics of the user's own gave none."""
    scores, failed = [], []
    for name, metric in METRICS.items():
        try:
            if (found := metric(text)) is not None:
                scores.append(Score(name, *checked(found)))
        except Exception as error:
            if name in METRICS.built_in:
                raise
            failed.append(f"the metric {name!r} failed: {type(error).__name__}: {brief(error)}")
    return scores, failed


def checked(found: Measured) -> Measured:
    """The same, as a record can hold it. UserError for anything but a finite number and a text."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], str)):
        raise UserError(f"it wants to be a number and a signature, not {found!r}")
    value = float(found[0])
    if isinstance(found[0], str) or not math.isfinite(value):
        raise UserError(f"{found[0]!r} is no finite number")
    return value, found[1]
