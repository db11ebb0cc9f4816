"""Advice of `plan` if the settings do not suit the corpus, above all if the corpus is small.

The thresholds are rules of thumb. The remedies are those of Sennrich and Zhang (2019, "Revisiting Low-Resource Neural
Machine Translation"): a smaller vocabulary, a smaller model, more dropout.
"""

from collections.abc import Iterator
from typing import Any

from transformer.config import Experiment, counted
from transformer.model import count_parameters
from transformer.optimizer import SCHEDULES

EPOCHS = 60
"""Epochs after which a model on a small corpus mostly memorises."""
USES = 50
"""Average number of occurrences of a piece below which its embedding is learned poorly."""
PARAMETERS = 10
"""Parameters per token of the corpus, both sides counted, above which a model can memorise it."""
DROPOUT = 0.3
"""Dropout that is recommended in that case."""


def advice(experiment: Experiment, splits: dict[str, Any], batches: int) -> Iterator[str]:
    """Yields sentences of advice on an experiment and its prepared corpus.

    Args:
        splits: the counts in the manifest of the prepared data.
        batches: number of batches in one epoch.
    """
    train, model = splits["train"], experiment.model
    tokens, epochs = train["source_tokens"] + train["target_tokens"], experiment.train.steps / batches
    steps = experiment.train.steps
    if epochs > EPOCHS:
        steps = max(1, int(round(batches * EPOCHS, -2)))
        yield (
            f"each pair is seen {epochs:,.0f} times: the validation loss will rise again long before the end. "
            f"Use --train.steps {steps} ({steps / batches:.0f} epochs), and evaluate with --checkpoint best"
        )
    separate = experiment.data.vocabularies == "separate"
    vocabulary = experiment.data.vocab_size + separate * experiment.data.source_pieces
    if (uses := tokens / vocabulary) < USES:
        pieces = max(500, int(round(tokens / USES / (1 + separate), -2)))
        names = ("vocab-size", "source-vocab-size")[: 1 + separate]
        flags = " ".join(f"--{section}.{name} {pieces}" for section in ("data", "model") for name in names)
        yield (
            f"each of the {vocabulary:,} pieces occurs {uses:.0f} times on average: in a smaller vocabulary they occur "
            f"more often ({flags})"
        )
    parameters = count_parameters(model)
    if parameters > PARAMETERS * tokens and model.dropout < DROPOUT:
        yield (
            f"{parameters:,} parameters for {tokens:,} tokens: the model can memorise the text. Use more dropout "
            f"(--model.dropout {DROPOUT}) or a smaller model (--model.num-layers, --model.d-model with d_k and d_v)"
        )
    optimizer = experiment.optimizer
    if optimizer.schedule in SCHEDULES.built_in and optimizer.warmup_steps > steps / 2:
        yield (
            f"the warm-up of the learning rate takes more than half of {counted(steps, 'step')}: "
            f"use --optimizer.warmup-steps {max(1, steps // 10)}"
        )
