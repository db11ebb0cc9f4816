"""The user's own parts: files of code that put them into their tables, and what a checkpoint says of those it needs.

A checkpoint names a part and the file that defined it. Loading one runs no code: the file has to be given.
"""

import importlib.util
import inspect
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.corpora import CORPORA
from data.fetch import sha256_of
from experiments.workdir import value_of
from transformer.attention import ATTENTIONS
from transformer.config import Experiment, ModelConfig, UserError
from transformer.layers import NORMS
from transformer.optimizer import OPTIMIZERS, SCHEDULES
from transformer.parts import Parts
from transformer.positions import POSITIONS

FLAG = "--parts"

TABLES: tuple[Parts[Any], ...] = (POSITIONS, ATTENTIONS, NORMS, SCHEDULES, OPTIMIZERS, CORPORA)
"""Those that a setting of an experiment chooses from."""


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
    name = f"parts_{path.stem}"  # by which `inspect` finds the file of a class again
    spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None
    if not path.is_file() or spec is None or spec.loader is None:
        raise UserError(f"{FLAG} {path}: there is no such Python file")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{FLAG} {path} cannot be run: {type(error).__name__}: {error}") from error


def classes_of(model: ModelConfig) -> tuple[Any, ...]:
    """What the names of a model's parts mean now: in a notebook a name may get another meaning."""
    return POSITIONS.find(model.positions), ATTENTIONS.find(model.attention), NORMS.find(model.norm_type)


def own_parts(experiment: Experiment) -> dict[str, dict[str, str]]:
    """Of an experiment's parts those that are not of this code, by setting: name, and the file and its SHA-256."""
    settings, found = asdict(experiment), {}
    for table in TABLES:
        name = value_of(settings, table.setting)
        if name in table and name not in table.built_in:
            found[table.setting] = {"name": name} | origin(table[name])
    return found


def origin(part: Any) -> dict[str, str]:
    """The file that a part's class or function stands in. None (of a notebook, say): nothing."""
    code = part if inspect.isclass(part) or inspect.isfunction(part) else type(part)
    try:
        path = Path(inspect.getfile(code))
    except (TypeError, OSError):
        return {}
    if not path.is_file():
        return {}
    here = Path.cwd()
    name = path.relative_to(here) if path.is_relative_to(here) else path  # a record is read on other machines too
    return {"file": str(name), "sha256": sha256_of(path)}


def check_parts(needed: dict[str, dict[str, str]], log: Any) -> None:
    """UserError for a part that a checkpoint needs and that is not there. Warns of one whose file was changed."""
    for table in TABLES:
        if not (part := needed.get(table.setting)):
            continue
        what, file = f"{table.setting} = {part['name']!r}", part.get("file")
        if part["name"] not in table:
            where = f"{file} defined it: {FLAG} {file}" if file else "a notebook defined it: run that cell first"
            raise UserError(f"this was trained with {what}, which is not a part of this code; {where}")
        if file and origin(table[part["name"]]).get("sha256") != part["sha256"]:
            log(f"warning: this was trained with {what} of {file}, and that file has changed since, or is another one")
