"""`export RUN` and `import DIR`: a model in the format of another program, and back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data.folders import atomic_folder, remove_abandoned
from experiments.exchange.folder import read_folder, write_folder, write_run
from experiments.translator import Translator
from transformer.config import UserError

Log = Callable[[str], None]


def export_run(translator: Translator, output: Path, log: Log) -> Path:
    """Writes a model as a new folder, checks it, and returns its path.

    Raises:
        UserError: `output` exists and is not empty, or the check failed, and nothing is left.
    """
    with new_folder(output) as folder:
        write_folder(translator, folder, log)
    return output


def import_folder(source: Path, output: Path) -> Path:
    """Writes an exported model as a new run, and returns its path.

    Raises:
        UserError: `output` exists and is not empty, or `source` is not such a folder or is damaged.
    """
    if not source.is_dir():
        raise UserError(f"{source} is not a folder that `export` wrote")
    with new_folder(output) as folder:
        write_run(read_folder(source), folder)
    return output


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yields a temporary folder that becomes `output`. UserError if there is something at that path."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists: choose another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(output.parent)
    with atomic_folder(output) as folder:
        yield folder
