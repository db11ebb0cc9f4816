"""Translation edit rate, TER (Snover et al., 2006), computed by sacreBLEU. Lower is better."""

from sacrebleu.metrics import TER

from experiments.evaluation.metrics import METRICS


def edit_rate(text):
    metric = TER()
    return metric.corpus_score(text.outputs, [text.references]).score, str(metric.get_signature())


METRICS["TER"] = edit_rate
