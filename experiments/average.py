"""`average RUN`: the mean of several checkpoints (section 6.1), written as a run of its own.

`translate` and `evaluate` take the mean by themselves; this is to keep it, to hand it on, and to see what it gained.
"""

from collections.abc import Callable
from pathlib import Path

from data.folders import appears_whole, remove_abandoned
from data.held_out import held_out
from data.tokens import Split
from experiments.train import batch_plan, make_validation
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.checkpoint import Checkpoint, read_meta, save_averaged
from transformer.config import UserError


def average_run(run: WorkDir, checkpoint: str, output: Path, log: Callable[[str], None]) -> Path:
    """Writes the mean of the checkpoints that `checkpoint` names (as in Translator.load) -> the new run's path.

    UserError if anything stands in `output` already, or the checkpoints have no mean.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists: choose another --output")
    if run.is_mean():
        raise UserError(f"{run.path} is a mean already")
    mean = Translator.load(run.path, checkpoint, log)
    experiment = mean.experiment
    dev = held_out(experiment.data, "dev", mean.tokenizer, mean.meta["data"], log=log).tokens
    for step in mean.steps:
        before = read_meta(run.checkpoints, str(step))["dev_loss"]
        log(f"step {step}: {'not validated' if before is None else f'validation loss {before:.4f}'}")
    loss = validation_loss(mean, dev)
    log(f"mean of {len(mean.steps)}: validation loss {loss:.4f}")
    say_if_worse(mean, loss, log)
    meta = mean.meta | {"dev_loss": loss, "selection": mean.selection}
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output.parent)
    with appears_whole(output) as folder:
        new = WorkDir(folder)
        with new.claim(experiment, mean.tokenizer):
            save_averaged(new.checkpoints, Checkpoint(mean.params, meta, mean.steps))
    return output


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
