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
from transformer.parts import Parts


class Score(NamedTuple):
    """A corpus score, in percent, and the signature without which it means nothing."""

    name: str
    value: float
    signature: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f}   {self.signature}"


Measured = tuple[float, str]
"""A score, in percent where the metric has it so, and its signature."""

MetricPart = Callable[[list[str], list[str], str | None], Measured | None]
"""(translations, references, target language or None) -> the score. None: it says nothing of this language."""


def by_sacrebleu(metric: Callable[[], Metric], hypotheses: list[str], references: list[str], _: str | None) -> Measured:
    """A metric of sacrebleu's."""
    made = metric()
    return made.corpus_score(hypotheses, [references]).score, str(made.get_signature())


def by_the_papers_protocol(hypotheses: list[str], references: list[str], language: str | None) -> Measured | None:
    """The protocol of the paper's numbers, by the steps of experiments.moses; of its two target languages alone."""
    if language not in LANGUAGES:
        return None
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    tokens = [[paper_tokens(line, language) for line in lines] for lines in (hypotheses, references)]
    value = metric.corpus_score(tokens[0], [tokens[1]]).score
    return value, f"{metric.get_signature()}|input:moses-{language}+compounds-split"


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


def score(hypotheses: list[str], references: list[str], language: str | None = None) -> list[Score]:
    """All scores of a translation, the one to publish first.

    Args:
        language: the target's, as in "de"; None where nobody said.
    """
    measured = {name: metric(hypotheses, references, language) for name, metric in METRICS.items()}
    return [Score(name, *found) for name, found in measured.items() if found is not None]
