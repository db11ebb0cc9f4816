"""`average RUN`: the mean of several checkpoints (section 6.1), written as a run of its own.

`translate` and `evaluate` take the mean by themselves; this is to keep it, to hand it on, and to see what it gained.
"""

from collections.abc import Callable
from pathlib import Path

from data.folders import atomic_folder, remove_abandoned
from data.held_out import held_out
from experiments.evaluation.validation import say_if_worse, validation_loss
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
    with atomic_folder(output) as folder:
        new = WorkDir(folder)
        with new.claim(experiment, mean.tokenizer):
            save_averaged(new.checkpoints, Checkpoint(mean.params, meta, mean.steps))
    return output
