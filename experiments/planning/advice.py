"""What `plan` advises where the settings do not suit the text: most of all, where there is little of it.

The thresholds are rules of thumb. What helps was measured by Sennrich and Zhang (2019, "Revisiting Low-Resource Neural
Machine Translation"): a smaller vocabulary, a smaller model, more dropout.
"""

from collections.abc import Iterator
from typing import Any

from transformer.config import Experiment
from transformer.model import count_parameters

EPOCHS = 60
"""Passes over the text after which little is learned and much is memorised, where there is not much text."""
USES = 50
"""Occurrences that a piece of the vocabulary has on average, for its embedding to be learned."""
PARAMETERS = 10
"""Parameters for each token of the text, both sides counted, above which a model can memorise it."""
DROPOUT = 0.3


def advice(experiment: Experiment, splits: dict[str, Any], batches: int) -> Iterator[str]:
    """Sentences on an experiment and its prepared text.

    Args:
        splits: the counts in the manifest of the prepared data.
        batches: of one epoch.
    """
    train, model = splits["train"], experiment.model
    tokens, epochs = train["source_tokens"] + train["target_tokens"], experiment.train.steps / batches
    steps = experiment.train.steps
    if epochs > EPOCHS:
        steps = max(1, int(round(batches * EPOCHS, -2)))
        yield (
            f"each pair is seen {epochs:,.0f} times: the validation loss will rise again long before the end. "
            f"--train.steps {steps} is {steps / batches:.0f} epochs; evaluate with --checkpoint best"
        )
    vocabulary = experiment.data.vocab_size
    if (uses := tokens / vocabulary) < USES:
        pieces = max(500, int(round(tokens / USES, -2)))
        yield (
            f"each of the {vocabulary:,} pieces occurs {uses:.0f} times on average: those of a smaller one occur "
            f"more often (--data.vocab-size {pieces} --model.vocab-size {pieces})"
        )
    parameters = count_parameters(model)
    if parameters > PARAMETERS * tokens and model.dropout < DROPOUT:
        yield (
            f"{parameters:,} parameters for {tokens:,} tokens: the model can memorise the text. More dropout helps "
            f"(--model.dropout {DROPOUT}), or a smaller model (--model.num-layers, --model.d-model with d_k and d_v)"
        )
    optimizer = experiment.optimizer
    if optimizer.schedule == "inverse_sqrt" and optimizer.warmup_steps > steps / 2:
        yield (
            f"the learning rate would still rise after half of {steps:,} steps: "
            f"--optimizer.warmup-steps {max(1, steps // 10)}"
        )
