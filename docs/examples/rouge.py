"""ROUGE (Lin, 2004), by the package rouge-score: how much of the reference's words a summary has. Higher is better.

It is the mean over the lines of the F1 of words (1), of pairs of words (2) and of the longest common subsequence (L),
after stemming, as is usual for English.
"""

from importlib.metadata import version
from statistics import mean

from rouge_score.rouge_scorer import RougeScorer

from experiments.evaluation.metrics import METRICS


def rouge(kind):
    def metric(text):
        scorer = RougeScorer([kind], use_stemmer=True)
        pairs = zip(text.references, text.outputs, strict=True)
        value = 100 * mean(scorer.score(reference, output)[kind].fmeasure for reference, output in pairs)
        return value, f"F1|stemmed|rouge-score:{version('rouge-score')}"

    return metric


METRICS.update({"ROUGE-1": rouge("rouge1"), "ROUGE-2": rouge("rouge2"), "ROUGE-L": rouge("rougeL")})
