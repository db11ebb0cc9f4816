"""The user's own parts: files of code that put them into their tables, and what a checkpoint says of those it needs.

A checkpoint names a part and the file that defined it. Loading one runs no code: the file has to be given.
"""

import importlib.util
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.corpora import CORPORA
from experiments.scoring import METRICS
from experiments.workdir import value_of
from transformer.attention import ATTENTIONS
from transformer.checkpoint import brief
from transformer.config import Experiment, ModelConfig, UserError
from transformer.layers import NORMS
from transformer.optimizer import OPTIMIZERS, SCHEDULES
from transformer.parts import Parts
from transformer.positions import POSITIONS

FLAG = "--parts"

TABLES: tuple[Parts[Any], ...] = (POSITIONS, ATTENTIONS, NORMS, SCHEDULES, OPTIMIZERS, CORPORA)
"""Those that a setting of an experiment chooses from."""

Own = dict[str, dict[str, str]]
"""By setting: the name of a part that is not of this code, and the file that put it in and its SHA-256, if any did."""


def take_parts(arguments: list[str]) -> list[str]:
    """Runs the files that follow --parts, wherever it stands, and returns the other arguments."""
    rest, waiting = [], iter(arguments)
    for argument in waiting:
        name, _, value = argument.partition("=")
        if name != FLAG:
            rest.append(argument)
            continue
        value = value or next(waiting, "")
        if not value:
            raise UserError(f"{FLAG} wants a Python file")
        run_file(Path(value))
    return rest


def run_file(path: Path) -> None:
    """Runs a Python file that puts parts into their tables. UserError if it cannot be run."""
    if not path.is_file():
        raise UserError(f"{FLAG} {path}: there is no such file")
    name = f"parts of {path.resolve()}"  # two files of one name are two modules
    spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None
    if spec is None or spec.loader is None:
        raise UserError(f"{FLAG} {path}: a Python file ends in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{FLAG} {path} cannot be run: {told(error, [str(path)])}") from error


def told(error: BaseException, files: list[str]) -> str:
    """An error on one line, and the last line of these files on the way to it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    where = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
    return ": ".join([type(error).__name__, *([brief(error)] if str(error) else [])]) + where


def classes_of(model: ModelConfig) -> tuple[Any, ...]:
    """What the names of a model's parts mean now: in a notebook a name may get another meaning."""
    return POSITIONS.find(model.positions), ATTENTIONS.find(model.attention), NORMS.find(model.norm_type)


def own_parts(experiment: Experiment) -> Own:
    """Of an experiment's parts those that are not of this code."""
    settings, found = asdict(experiment), {}
    for table in TABLES:
        name = value_of(settings, table.setting)
        if name in table and name not in table.built_in:
            found[table.setting] = {"name": name} | table.origins[name]
    return found


def own_metrics() -> Own:
    """The metrics that are not of this code, each as "metric.NAME"."""
    return {
        f"metric.{name}": {"name": name} | METRICS.origins[name] for name in METRICS if name not in METRICS.built_in
    }


def published(parts: Own) -> Own:
    """The same with a file's path from here, or its name alone: a record is read on other machines too."""
    here = Path.cwd()

    def shown(file: Path) -> str:
        return str(file.relative_to(here)) if file.is_relative_to(here) else file.name

    return {
        setting: own | {"file": shown(Path(own["file"]))} if "file" in own else own for setting, own in parts.items()
    }


def check_parts(needed: Own, log: Callable[[str], object]) -> None:
    """UserError for a part that a checkpoint needs and that is not there. Warns of one whose file was changed."""
    for table in TABLES:
        if not (part := needed.get(table.setting)):
            continue
        what, file = f"{table.setting} = {part['name']!r}", part.get("file")
        if part["name"] not in table:
            where = f"{file} defined it: {FLAG} {file}" if file else "a notebook defined it: run that cell first"
            raise UserError(f"this was trained with {what}, which is not a part of this code; {where}")
        if file and table.origins.get(part["name"], {}).get("sha256") != part["sha256"]:
            log(f"warning: this was trained with {what} of {file}, and that file has changed since, or is another one")
