"""`export RUN` and `import DIR`: a model in the format of another program, and back."""

from collections.abc import Callable, Sequence
from pathlib import Path

from data.held_out import held_out
from experiments.exchange.folder import read_folder, write_folder
from experiments.exchange.marian import verify_marian, write_marian
from experiments.translator import Translator
from experiments.workdir import new_folder, write_run
from transformer.checkpoint import Checkpoint
from transformer.config import UserError

Log = Callable[[str], None]

SENTENCES = 32
"""Number of sentences of the validation text that the check of an export translates."""


def export_run(
    translator: Translator, output: Path, log: Log, kind: str = "safetensors", sentences: Sequence[str] = ()
) -> Path:
    """Writes a model as a new folder, checks it, and returns its path.

    Args:
        kind: "safetensors" (our own) or "marian".
        sentences: what the check of the Marian format translates; none: the first of the run's validation text.

    Raises:
        UserError: `output` exists and is not empty, the model cannot be expressed in this format, or the check failed,
            and nothing is left.
    """
    with new_folder(output) as folder:
        if kind == "marian":
            write_marian(translator, folder)
            verify_marian(translator, folder, list(sentences) or validation_sentences(translator), log)
        else:
            write_folder(translator, folder, log)
    return output


def validation_sentences(translator: Translator) -> list[str]:
    """Returns the first sentences of the validation text of a run."""
    data, trained = translator.experiment.data, translator.meta["data"]
    return held_out(data, "dev", translator.tokenizer, trained, log=translator.log).sources[:SENTENCES]


def import_folder(source: Path, output: Path) -> Path:
    """Writes an exported model as a new run, and returns its path.

    Raises:
        UserError: `output` exists and is not empty, or `source` is not such a folder or is damaged.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder that `export` wrote")
    with new_folder(output) as folder:
        model = read_folder(source)
        checkpoint = Checkpoint(model.params, model.meta, model.steps)
        write_run(folder, model.experiment, model.tokenizer, checkpoint)
    return output
