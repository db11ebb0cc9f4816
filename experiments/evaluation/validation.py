"""The loss on the validation text: in training, of a mean of checkpoints, and of both beside each other."""

from collections.abc import Callable
from functools import partial

import jax
from jax.sharding import Mesh

from data.batching import Batches, BatchPlan, batch_plan
from data.held_out import held_out
from data.tokens import Split
from experiments.translator import Translator
from transformer.config import Experiment, UserError
from transformer.parallel import own_rows, padded_rows, put_rows
from transformer.train import Params, make_eval_step


def make_validation(
    experiment: Experiment, dev: Split, plan: BatchPlan, mesh: Mesh | None = None
) -> Callable[[Params], float]:
    """The function params -> cross-entropy per token of the validation text, without smoothing.

    The parameters live on the mesh, or without one on the device that JAX takes by default.
    """
    eval_step = jax.jit(make_eval_step(experiment.model))
    rows = padded_rows(plan.shape.rows, mesh, parts=1) if mesh else plan.shape.rows
    batches = Batches(dev, plan, own_rows(rows, mesh) if mesh else None)

    def validate(params: Params) -> float:
        put = partial(put_rows, mesh=mesh, rows=rows) if mesh else dict
        sums = [eval_step(params, put(batches[i])) for i in range(len(plan))]
        return float(sum(loss for loss, _ in sums) / sum(count for _, count in sums))

    return validate


def validation_loss(translator: Translator, dev: Split) -> float:
    """Cross-entropy per token of the validation text, as in training."""
    experiment = translator.experiment
    return make_validation(experiment, dev, batch_plan(dev, experiment.data, None))(translator.params)


def warn_if_worse(translator: Translator, log: Callable[[str], None]) -> None:
    """Says so if a mean of checkpoints is worse than the last of them, by the validation text. Nothing if it is none.

    Where that text is not there any more, this is said instead.
    """
    if len(translator.steps) < 2 or "averaged" in translator.meta:  # one that `average` made said it then
        return
    try:
        dev = held_out(translator.experiment.data, "dev", translator.tokenizer, translator.meta["data"], log=log).tokens
    except UserError as error:
        log(f"the mean of {len(translator.steps)} checkpoints is not compared with the last of them: {error}")
        return
    say_if_worse(translator, validation_loss(translator, dev), log)


def say_if_worse(mean: Translator, loss: float, log: Callable[[str], None]) -> None:
    """Of a mean with this validation loss: a mean helps when a run has settled, and not while its loss falls."""
    last = mean.meta["dev_loss"]
    if last is not None and loss > last:
        log(
            f"warning: the mean of {len(mean.steps)} checkpoints is worse than the last of them (validation loss "
            f"{loss:.4f} and {last:.4f}): take --checkpoint last, or train on until the loss has settled"
        )
