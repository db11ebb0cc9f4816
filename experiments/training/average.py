"""`average RUN`: the average of several checkpoints (section 6.1), saved as a new run.

`translate` and `evaluate` average checkpoints on the fly. This command saves the average, for example to share it, and
shows what averaging gains.
"""

from collections.abc import Callable
from pathlib import Path

from data.held_out import held_out
from experiments.evaluation.validation import validation_loss, warn_if_higher
from experiments.translator import Translator
from experiments.workdir import WorkDir, check_new, new_folder, write_run
from transformer.checkpoint import Checkpoint, read_meta
from transformer.config import UserError


def average_run(run: WorkDir, checkpoint: str, output: Path, log: Callable[[str], None]) -> Path:
    """Saves the average of checkpoints as a new run, and returns its path.

    Args:
        checkpoint: the checkpoints to average, as in Translator.load.

    Raises:
        UserError: `output` already exists and is not empty, or the checkpoints cannot be averaged.
    """
    check_new(output)
    if run.is_average():
        raise UserError(f"{run.path} is already an average: name the run that it was made from")
    average = Translator.load(run.path, checkpoint, log)
    experiment = average.experiment
    dev = held_out(experiment.data, "dev", average.tokenizer, average.meta["data"], log=log).tokens
    for step in average.steps:
        before = read_meta(run.checkpoints, str(step))["dev_loss"]
        log(f"step {step}: {'not validated' if before is None else f'validation loss {before:.4f}'}")
    loss = validation_loss(average, dev)
    log(f"average of {len(average.steps)}: validation loss {loss:.4f}")
    warn_if_higher(average, loss, log)
    meta = average.meta | {"dev_loss": loss, "selection": average.selection}
    with new_folder(output) as folder:
        write_run(folder, experiment, average.tokenizer, Checkpoint(average.params, meta, average.steps))
    return output
