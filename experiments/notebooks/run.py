"""Executes the notebooks of this folder, in order and in one directory: `make notebooks`, `make notebooks-save`.

    python experiments/notebooks/run.py [NAME ...] [--save | --quick] [--directory FOLDER]

A notebook is a script (jupytext's percent format), and beside it the .ipynb with its outputs. The script is what one
edits; --save makes the .ipynb from it.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jupytext
import nbformat
import tyro
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

QUICK = """
from dataclasses import replace

import experiments.training.loop

whole = experiments.training.loop.train


def cut(experiment, *others, **named):
    settings = experiment.train
    quick = replace(
        experiment,
        data=replace(experiment.data, batch_tokens=min(experiment.data.batch_tokens, 512)),
        train=replace(settings, steps=min(settings.steps, 30), eval_every=min(settings.eval_every, 10)),
        decode=replace(experiment.decode, extra_length=min(experiment.decode.extra_length, 5)),
    )
    return whole(quick, *others, **named)


experiments.training.loop.train = cut
"""
"""Before the first cell of a quick run: what is trained is trained for seconds, to no good. Such a model ends no
output by itself: they are cut off early."""


COMPILE_FAST = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
}
"""Of a quick run, whose time is the compiler's."""


@dataclass(frozen=True)
class Flags:
    """What to execute, and where."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Only these, as in "1_the_paper". None: all."""
    save: bool = False
    """Write each .ipynb, with its outputs, beside its script."""
    quick: bool = False
    """Train for 30 steps where a notebook trains for longer: shows that its cells run, and not what it shows."""
    directory: Path | None = None
    """Where they run, and leave their runs. None: a fresh directory, which is removed at the end."""


def scripts() -> list[Path]:
    """The notebooks' scripts, in order: those whose names begin with a digit."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def read_script(path: Path) -> NotebookNode:
    """The notebook that a script is, without outputs. Its cells are numbered, so that it is the same each time."""
    notebook = jupytext.read(path, fmt="py:percent")
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id = f"cell-{number}"
    return notebook


def execute(notebook: NotebookNode, directory: Path, environment: dict[str, str]) -> None:
    """Runs every cell in a process of its own in `directory`; the outputs go into the cells.

    Args:
        environment: variables of that process, besides this one's.

    CellExecutionError at the first cell that fails; KeyboardInterrupt at SIGINT and SIGTERM.
    """
    client = NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(directory)}},
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )
    # The code beside the notebooks, and not another version that is installed.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        client.execute(env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(paths)})
    except AssertionError as error:
        if client.kc is not None:
            raise
        raise KeyboardInterrupt from error  # nbclient has ended the kernel, and only then finds that it is gone


def main(flags: Flags) -> None:
    """Stops at the first notebook that fails."""
    if flags.save and flags.quick:
        sys.exit("--quick makes other outputs than a notebook shows: it cannot be saved")
    there = {path.stem: path for path in scripts()}
    if unknown := set(flags.names) - set(there):
        sys.exit(f"no notebook {min(unknown)!r}; there are: {', '.join(there)}")
    with tempfile.TemporaryDirectory() as fresh:
        directory = flags.directory or Path(fresh)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"{directory} cannot be a folder: {error.strerror}")
        environment = COMPILE_FAST | {"JAX_COMPILATION_CACHE_DIR": str(Path(fresh) / "compiled")} if flags.quick else {}
        for name, path in there.items():
            if flags.names and name not in flags.names:
                continue
            notebook, start = read_script(path), time.monotonic()
            if flags.quick:
                for cell in notebook.cells:  # two seeds are the fewest that have an interval
                    cell.source = cell.source.replace("SEEDS = 300, range(3)", "SEEDS = 300, range(2)")
                notebook.cells.insert(0, nbformat.v4.new_code_cell(QUICK))
            try:
                execute(notebook, directory, environment)
            except CellExecutionError as error:
                sys.exit(f"{name} failed:\n{error}")
            except KeyboardInterrupt:
                print(f"{name}: interrupted", file=sys.stderr)
                sys.exit(130)
            print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
            if flags.save:
                nbformat.write(notebook, path.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
