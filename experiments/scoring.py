"""Scores of a translation: sacreBLEU and chrF on detokenised text, and the paper's own protocol, each by its name.

    BLEU        sacreBLEU, 13a tokens, cased: the one to publish
    BLEU-intl   its "intl" tokens
    BLEU-lc     13a, lowercased
    BLEU-split  the paper's: Moses tokens of normalised text, compounds split at hyphens, as multi-bleu counts
    chrF2       character n-grams

A BLEU means nothing without its protocol: the same output differs by more than a point between the first and the last.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from experiments.moses import LANGUAGES, paper_tokens
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


def score(text: Translated) -> list[Score]:
    """All scores of a translation, the one to publish first. UserError for a metric of the user's own that fails."""
    measured = {name: measure(name, metric, text) for name, metric in METRICS.items()}
    return [Score(name, *found) for name, found in measured.items() if found is not None]


def measure(name: str, metric: MetricPart, text: Translated) -> Measured | None:
    """What one metric says."""
    if name in METRICS.built_in:
        return metric(text)
    try:
        if (found := metric(text)) is None:
            return None
        value, signature = found
        return float(value), str(signature)
    except Exception as error:
        raise UserError(
            f"the metric {name!r} has no number and signature for this text: {type(error).__name__}: {error}"
        ) from error
