"""Scores of a translation: sacreBLEU and chrF on detokenised text, and the paper's own protocol, each by its name.

    BLEU        sacreBLEU, 13a tokens, cased: the one to publish
    BLEU-intl   its "intl" tokens
    BLEU-lc     13a, lowercased
    BLEU-split  the paper's: Moses tokens of normalised text, compounds split at hyphens, as multi-bleu counts
    chrF2       character n-grams

A BLEU means nothing without its protocol: the same output differs by more than a point between the first and the last.
"""

from typing import NamedTuple

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from experiments.moses import LANGUAGES, paper_tokens


class Score(NamedTuple):
    """A corpus score, in percent, and the signature without which it means nothing."""

    name: str
    value: float
    signature: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f}   {self.signature}"


def score(hypotheses: list[str], references: list[str], language: str | None = None) -> list[Score]:
    """All scores of a translation, the one to publish first.

    Args:
        language: the target's, "de" or "fr"; the paper's protocol needs it, and is left out for any other.
    """
    metrics: dict[str, Metric] = {
        "BLEU": BLEU(),
        "BLEU-intl": BLEU(tokenize="intl"),
        "BLEU-lc": BLEU(lowercase=True),
        "chrF2": CHRF(),
    }
    scores = {
        name: Score(name, metric.corpus_score(hypotheses, [references]).score, str(metric.get_signature()))
        for name, metric in metrics.items()
    }
    if language in LANGUAGES:
        scores["BLEU-split"] = paper_score(hypotheses, references, language)
    order = ("BLEU", "BLEU-intl", "BLEU-lc", "BLEU-split", "chrF2")
    return [scores[name] for name in order if name in scores]


def paper_score(hypotheses: list[str], references: list[str], language: str) -> Score:
    """The protocol of the paper's numbers, by the steps of experiments.moses."""
    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    tokens = [[paper_tokens(line, language) for line in lines] for lines in (hypotheses, references)]
    value = metric.corpus_score(tokens[0], [tokens[1]]).score
    return Score("BLEU-split", value, f"{metric.get_signature()}|input:moses-{language}+compounds-split")
