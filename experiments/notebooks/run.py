"""Executes the notebooks of this folder, in order and in one directory: `make notebooks`, `make notebooks-save`.

    python experiments/notebooks/run.py [NAME ...] [--save | --quick] [--directory FOLDER]

A notebook is a script in jupytext's percent format, with an .ipynb with its outputs next to it. Edit the script;
--save creates the .ipynb from it.
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
"""Code before the first cell of a quick run: training takes seconds, and outputs are cut off early, since such a model
does not end them by itself."""


COMPILE_FAST = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
}
"""Environment of a quick run, in which most of the time is compilation."""


@dataclass(frozen=True)
class Flags:
    """What to execute, and where."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of notebooks, such as "1_the_paper". Default: all."""
    save: bool = False
    """Write each .ipynb, with its outputs, next to its script."""
    quick: bool = False
    """Train for at most 30 steps: tests that all cells run, but gives other outputs."""
    directory: Path | None = None
    """Working directory of the notebooks, which keeps their runs. Default: a temporary directory."""


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
    """Executes a notebook in a new process in `directory`, and stores the outputs in its cells.

    Args:
        environment: additional environment variables of that process.

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
    # Use the code of this checkout, and not another version that may be installed.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        client.execute(env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(paths)})
    except AssertionError as error:
        if client.kc is not None:
            raise
        raise KeyboardInterrupt from error  # nbclient ends the kernel, and then fails since there is none


def main(flags: Flags) -> None:
    """Executes the notebooks, and stops at the first one that fails."""
    if flags.save and flags.quick:
        sys.exit("--quick gives other outputs than a full run: it cannot be combined with --save")
    there = {path.stem: path for path in scripts()}
    if unknown := set(flags.names) - set(there):
        sys.exit(f"no notebook {min(unknown)!r}; there are: {', '.join(there)}")
    with tempfile.TemporaryDirectory() as fresh:
        directory = flags.directory or Path(fresh)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            sys.exit(f"cannot create the folder {directory} ({error.strerror})")
        environment = COMPILE_FAST | {"JAX_COMPILATION_CACHE_DIR": str(Path(fresh) / "compiled")} if flags.quick else {}
        for name, path in there.items():
            if flags.names and name not in flags.names:
                continue
            notebook, start = read_script(path), time.monotonic()
            if flags.quick:
                for cell in notebook.cells:  # an interval needs at least two seeds
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
