"""The user's own parts: files of code that put them into their tables, and what a checkpoint says of those it needs.

A checkpoint names a part and the file that defined it, and the class of each module of its model, for a class can also
be put in the place of another by plain assignment. Loading one runs no code: the file has to be given.
"""

import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flax import nnx

from data.corpora import CORPORA
from experiments.workdir import value_of
from transformer.attention import ATTENTIONS
from transformer.checkpoint import brief
from transformer.config import Experiment, UserError
from transformer.layers import NORMS
from transformer.model import Transformer
from transformer.optimizer import OPTIMIZERS, SCHEDULES
from transformer.positions import POSITIONS
from transformer.registry import Registry, origin_of

FLAG = "--parts"

REGISTRIES: tuple[Registry[Any], ...] = (POSITIONS, ATTENTIONS, NORMS, SCHEDULES, OPTIMIZERS, CORPORA)
"""Those that a setting of an experiment chooses from."""

Own = dict[str, dict[str, str]]
"""By setting: the name of a part that is not of this code, and the file that put it in and its SHA-256, if any did."""

Made = dict[str, dict[str, str]]
"""What a model is made of: by the place of a module, its "class"; of one that is not of this code the "file" too, if
there is one, and the "sha256" of that. And by their names the functions, classes and methods of this code that were
replaced, described in the same way."""


def load_parts_files(arguments: list[str]) -> list[str]:
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


def custom_parts(experiment: Experiment) -> Own:
    """Of an experiment's parts those that are not of this code."""
    settings, found = asdict(experiment), {}
    for table in REGISTRIES:
        name = value_of(settings, table.setting)
        if name in table and name not in table.built_in:
            found[table.setting] = {"name": name} | table.origins[name]
    return found


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
    for table in REGISTRIES:
        if not (part := needed.get(table.setting)):
            continue
        what, file = f"{table.setting} = {part['name']!r}", part.get("file")
        if part["name"] not in table:
            where = f"{file} defined it: {FLAG} {file}" if file else "a notebook defined it: run that cell first"
            raise UserError(f"this was trained with {what}, which is not a part of this code; {where}")
        if file and table.origins.get(part["name"], {}).get("sha256") != part["sha256"]:
            log(f"warning: this was trained with {what} of {file}, and that file has changed since, or is another one")


def made_of(model: Transformer) -> Made:
    """The classes of a model's modules, and what of this code is replaced at this moment.

    "*" stands for the number of a layer, where all layers have one class there. It does not see: a constant that was
    changed, a function of a library that was replaced, what a function finds by other ways than by name.
    """
    made: Made = {}
    for path, module in nnx.iter_modules(model):
        if not _of(type(module), "flax"):
            place = ".".join("*" if isinstance(part, int) else str(part) for part in path) or "the model"
            if made.setdefault(place, described(type(module))) != described(type(module)):
                made[".".join(map(str, path))] = described(type(module))
    return made | replaced()


def of_users(made: Made) -> Made:
    """Those that are not of this code."""
    return {place: each for place, each in made.items() if not each["class"].startswith("transformer.")}


def replaced() -> Made:
    """The functions, classes and methods of transformer/ that were put in the place of those that stand there."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "transformer":
            continue
        for key, value in vars(module).copy().items():
            if _is_users(value):
                found[f"{name}.{key}"] = described(value)
            elif isinstance(value, type) and value.__module__ == name:
                methods = {k: v.fget if isinstance(v, property) else v for k, v in vars(value).items()}
                found |= {f"{name}.{key}.{k}": described(v) for k, v in methods.items() if _is_users(v)}
    return found


def described(thing: Any) -> dict[str, str]:
    """A class or a function: its name; and if it is not of this code its file and that file's hash, or its own."""
    thing = _unwrapped(thing)
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    if _of(thing, "transformer"):
        return {"class": f"{thing.__module__}.{name}"}
    module = sys.modules.get(thing.__module__)
    if origin := origin_of(vars(module)) if module else {}:
        return {"class": name} | origin
    try:
        return {"class": name, "sha256": hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()}
    except (OSError, TypeError):  # there is no text of it
        return {"class": name}


def _unwrapped(thing: Any) -> Any:
    """The function itself, of a partial one, of one that jax.jit or a decorator has wrapped, or of a method."""
    while True:
        inner = thing.func if isinstance(thing, functools.partial) else getattr(thing, "__wrapped__", None)
        if inner is None or isinstance(thing, type):
            return thing
        thing = inner


def _of(thing: Any, package: str) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == package


def _is_users(value: Any) -> bool:
    """Whether something that can be called comes from a notebook, from --parts, or from a module of the user's."""
    value = _unwrapped(value)
    if not (callable(value) or isinstance(value, staticmethod | classmethod)) or _of(value, "transformer"):
        return False
    module = sys.modules.get(str(getattr(value, "__module__", "")))
    if module is None or module.__name__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    return module.__name__ == "__main__" or not _INSTALLED & set(Path(getattr(module, "__file__", None) or "").parts)


_INSTALLED = {"site-packages", "dist-packages"}


def check_made_of(meta: dict[str, Any], model: Transformer, log: Callable[[str], object]) -> None:
    """UserError where a checkpoint's model, by its meta, had another class than `model` has.

    Of this code's own classes the name alone counts. Warns of a file that was changed, unless `check_parts` does.
    Nothing is said of a checkpoint from before classes were noted.
    """
    if not (needed := meta.get("made_of")):
        return
    now, changed = made_of(model), set()
    said = {part.get("file") for part in meta.get("parts", {}).values()}
    for place in [*needed, *(place for place in now if place not in needed)]:
        old, new = needed.get(place, {}), now.get(place, {})
        if old.get("class") != new.get("class"):
            raise UserError(
                f"this was trained with {_told(old)} as {place}, which is {_told(new)} now: {_remedy(old, new)}"
            )
        if old.get("sha256") != new.get("sha256") and old.get("file") not in said - {None}:
            changed.add(_told(old))
    for what in sorted(changed):
        log(f"warning: this was trained with {what}, and that has changed since, or is another one")


def _told(made: dict[str, str]) -> str:
    return " of ".join(made[name] for name in ("class", "file") if name in made) or "the original"


def _remedy(old: dict[str, str], new: dict[str, str]) -> str:
    """What to do that `new` becomes `old`."""
    if not old or old["class"].startswith("transformer."):
        return "start again without what replaced it"
    return f"{FLAG} {old['file']}" if "file" in old else "a notebook defined it, run that cell first"
