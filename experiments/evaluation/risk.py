"""Minimum Bayes risk decoding: of several samples, the one that is most like the others.

Eikema and Aziz (2020), Is MAP Decoding All You Need? The Inadequacy of the Mode in Neural Machine Translation.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

from sacrebleu.metrics import CHRF

from data.tokenizer import Tokenizer
from experiments.evaluation.metrics import bleu
from experiments.sentences import Translation
from transformer.config import UserError, counted

Utility = Callable[[str, str], float]
"""How good a translation is if another one is the reference."""

MetricName = Literal["chrf", "bleu"]


def utility_of(metric: MetricName, language: str | None = None) -> Utility:
    """Returns sacreBLEU's sentence-level chrF or BLEU. UserError if BLEU has no tokenizer for the language here."""
    scorer = bleu(language, effective_order=True) if metric == "bleu" else CHRF()
    return lambda output, reference: scorer.sentence_score(output, [reference]).score


def utilities(texts: Sequence[str], utility: Utility) -> list[float]:
    """Returns the mean utility of each text with each of the others as the reference; 0 for a single text."""
    counts = Counter(texts)
    if len(texts) == 1:
        return [0.0]
    mean = {}
    for one in counts:  # each pair of different texts is compared once, however often they were drawn
        others = (counts - Counter([one])).items()
        mean[one] = sum(utility(one, other) * count for other, count in others) / (len(texts) - 1)
    return [mean[text] for text in texts]


def least_risk(samples: Sequence[Translation], utility: Utility) -> Translation:
    """Returns the sample with the highest mean utility; of several, the first."""
    found = utilities([one.text for one in samples], utility)
    return samples[found.index(max(found))]


class MinimumRisk(NamedTuple):
    """How a translation is chosen."""

    samples: int
    """Number of samples of each sentence."""
    metric: MetricName = "chrf"

    def check(self, tokenizer: Tokenizer) -> None:
        """Raises UserError if the outputs are no texts, which the metrics compare."""
        if tokenizer.of_trees:
            raise UserError("minimum Bayes risk (--mbr) compares texts, and the outputs of this run are trees")

    def choose(self, language: str | None = None) -> Callable[[list[Translation]], Translation]:
        """Returns the choice, for `Translator.n_best`. UserError if BLEU has no tokenizer for the language here."""
        return partial(least_risk, utility=utility_of(self.metric, language))

    def __str__(self) -> str:
        return f"minimum Bayes risk of {counted(self.samples, 'sample')} by {self.metric}"
