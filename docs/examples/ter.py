"""Translation edit rate (Snover et al., 2006), by sacrebleu. The lower, the better."""

from sacrebleu.metrics import TER

from experiments.scoring import METRICS


def edit_rate(hypotheses, references, language):
    metric = TER()
    return metric.corpus_score(hypotheses, [references]).score, str(metric.get_signature())


METRICS["TER"] = edit_rate
