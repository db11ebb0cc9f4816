"""The validation loss: during training, of a checkpoint average, and a comparison of the two."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from data.batching import Batches, BatchPlan, batch_plan
from data.held_out import held_out
from data.tokens import Split
from experiments.translator import Translator
from transformer.config import Experiment, UserError
from transformer.parallel import own_rows, padded_rows, parallel_eval_steps, put_rows
from transformer.parameters import Params
from transformer.train import make_eval_steps


class Validation:
    """The function params -> cross-entropy per token of the validation text, without label smoothing.

    One compiled program runs over all batches. The text stays in device memory, with 4 bytes a token: 120 MB for half
    a million pairs of 30 tokens a side. The parameters are on the mesh or, without one, on JAX's default device.
    """

    def __init__(self, experiment: Experiment, dev: Split, plan: BatchPlan, mesh: Mesh | None = None):
        self.eval_steps = parallel_eval_steps(experiment, mesh) if mesh else jax.jit(make_eval_steps(experiment))
        rows = padded_rows(plan.shape.rows, mesh, parts=1) if mesh else plan.shape.rows
        batches = Batches(dev, plan, own_rows(rows, mesh) if mesh else None)
        stacked = jax.tree.map(lambda *ids: np.stack(ids), *(batches[i] for i in range(len(plan))))
        self.text = put_rows(stacked, mesh, rows) if mesh else jax.device_put(stacked)

    def compile(self, shapes: Params) -> None:
        """Compiles the program for parameters of these shapes and shardings, before there are any."""
        self.eval_steps.lower(shapes, self.text).compile()

    def __call__(self, params: Params) -> float:
        losses, counts = jax.device_get(self.eval_steps(params, self.text))
        return float(losses.sum(dtype=np.float64) / counts.sum(dtype=np.float64))


def validation_loss(translator: Translator, dev: Split) -> float:
    """Returns the cross-entropy per token of the validation text, computed as in training."""
    experiment = translator.experiment
    return Validation(experiment, dev, batch_plan(dev, experiment.data, None))(translator.params)


def warn_if_worse(translator: Translator, log: Callable[[str], None]) -> None:
    """Warns if a checkpoint average has a higher validation loss than its last checkpoint.

    If the validation text is no longer available, the log says so instead. A single checkpoint is not checked.
    """
    if len(translator.steps) < 2 or "averaged" in translator.meta:  # `average` has already compared its own
        return
    try:
        dev = held_out(translator.experiment.data, "dev", translator.tokenizer, translator.meta["data"], log=log).tokens
    except UserError as error:
        log(f"the average of {len(translator.steps)} checkpoints is not compared with the last of them: {error}")
        return
    warn_if_higher(translator, validation_loss(translator, dev), log)


def warn_if_higher(average: Translator, loss: float, log: Callable[[str], None]) -> None:
    """Warns if the validation loss of a checkpoint average is higher than that of its last checkpoint.

    Averaging helps once a run has converged, not while its loss still falls quickly.
    """
    last = average.meta["dev_loss"]
    if last is not None and loss > last:
        log(
            f"warning: the average of {len(average.steps)} checkpoints is worse than the last of them (validation loss "
            f"{loss:.4f} and {last:.4f}): use --checkpoint last, or train until the loss has settled"
        )
