"""sacreBLEU and chrF on detokenised text. Nothing else in this project is called BLEU."""

from typing import NamedTuple

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric


class Score(NamedTuple):
    """A corpus score and the signature without which it means nothing."""

    name: str
    value: float
    signature: str

    def __str__(self) -> str:
        return f"{self.name} = {self.value:.2f}   {self.signature}"


def score(hypotheses: list[str], references: list[str]) -> list[Score]:
    """Cased BLEU (13a tokenisation) and chrF, in percent, as the `sacrebleu` command gives them."""
    metrics: list[Metric] = [BLEU(), CHRF()]
    results = [(metric, metric.corpus_score(hypotheses, [references])) for metric in metrics]
    return [Score(result.name, result.score, str(metric.get_signature())) for metric, result in results]
