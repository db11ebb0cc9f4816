"""Custom components: loads the files that register them, and checks that a checkpoint finds the ones it needs.

A checkpoint stores the name of each custom component and the file that defined it. It also stores the class of every
module of its model, because a class can be replaced by plain assignment, without a registry. Loading a checkpoint runs
no code from it: the user passes the file with --parts.
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
from experiments.task import TASKS
from experiments.workdir import value_of
from transformer.attention import ATTENTIONS
from transformer.checkpoint import brief
from transformer.config import Experiment, UserError
from transformer.initializers import INITIALIZERS
from transformer.layers import ACTIVATIONS, FEED_FORWARDS, NORMS
from transformer.model import ARCHITECTURES, Transformer
from transformer.optimizer import OPTIMIZERS, SCHEDULES
from transformer.positions import POSITIONS
from transformer.registry import Registry, origin_of
from transformer.train import LOSSES

FLAG = "--parts"

REGISTRIES: tuple[Registry[Any], ...] = (
    ARCHITECTURES,
    POSITIONS,
    ATTENTIONS,
    FEED_FORWARDS,
    ACTIVATIONS,
    NORMS,
    INITIALIZERS,
    SCHEDULES,
    OPTIMIZERS,
    LOSSES,
    CORPORA,
    TASKS,
)
"""The registries that the settings of an experiment select from."""

CustomParts = dict[str, dict[str, str]]
"""Custom components by setting: "name", and "file" and "sha256" of the file that registered it, if there was one."""

ModelOrigins = dict[str, dict[str, str]]
"""Where the code of a model comes from: the "class" of each module by its path in the model. A custom class also has
its "file", if there is one, and "sha256". Functions, classes and methods of this code that were replaced are listed by
their qualified names in the same form."""


def run_file(path: Path) -> None:
    """Runs a Python file that registers components. UserError if it cannot be run."""
    if not path.is_file():
        raise UserError(f"{FLAG} {path}: {'not a file' if path.exists() else 'no such file'}")
    name = f"parts of {path.resolve()}"  # the whole path: two files with the same name are two modules
    spec = importlib.util.spec_from_file_location(name, path) if path.suffix == ".py" else None
    if spec is None or spec.loader is None:
        raise UserError(f"{FLAG} {path}: the name of a Python file must end in .py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"{FLAG} {path} cannot be run: {describe_error(error, [str(path)])}") from error


def describe_error(error: BaseException, files: list[str]) -> str:
    """Returns an error as one line of text, with the innermost line of its traceback that is in one of `files`."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    where = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
    return ": ".join([type(error).__name__, *([brief(error)] if str(error) else [])]) + where


def custom_parts(experiment: Experiment) -> CustomParts:
    """Returns the components of an experiment that are not built in."""
    settings, found = asdict(experiment), {}
    for registry in REGISTRIES:
        name = value_of(settings, registry.setting)
        if name in registry and name not in registry.built_in:
            found[registry.setting] = {"name": name} | registry.origins[name]
    return found


def with_relative_paths(parts: CustomParts) -> CustomParts:
    """Replaces absolute paths, since a record is read on other machines too."""
    return {
        setting: part | {"file": relative_path(part["file"])} if "file" in part else part
        for setting, part in parts.items()
    }


def relative_path(file: str) -> str:
    """Returns a path that is absolute as relative to the current folder, or as the name alone if it is outside."""
    path, here = Path(file), Path.cwd()
    if not path.is_absolute():
        return file
    return str(path.relative_to(here)) if path.is_relative_to(here) else path.name


def check_parts(needed: CustomParts, log: Callable[[str], object]) -> None:
    """Raises UserError if a component that a checkpoint needs is not registered; warns if its file has changed."""
    for registry in REGISTRIES:
        if not (part := needed.get(registry.setting)):
            continue
        what, file = f"{registry.setting} = {part['name']!r}", part.get("file")
        if part["name"] not in registry:
            where = f"{file} defined it: {FLAG} {file}" if file else "a notebook defined it: run that cell first"
            raise UserError(f"this was trained with {what}, which is not built in; {where}")
        if file and registry.origins.get(part["name"], {}).get("sha256") != part["sha256"]:
            log(f"warning: this was trained with {what} from {file}, which has changed since or is a different file")


def origins_of(model: Transformer) -> ModelOrigins:
    """Returns the class of every module of a model, and the functions of this code that are currently replaced.

    "*" in a path means every layer, if all layers have the same class at that path. Not detected: a changed constant,
    a replaced function of a library, and anything that a function looks up other than by name.
    """
    origins: ModelOrigins = {}
    for path, module in nnx.iter_modules(model):
        if not _is_from(type(module), "flax"):
            name = ".".join("*" if isinstance(key, int) else str(key) for key in path) or "the model"
            if origins.setdefault(name, origin_of_code(type(module))) != origin_of_code(type(module)):
                origins[".".join(map(str, path))] = origin_of_code(type(module))
    return origins | replaced()


def custom_origins(origins: ModelOrigins) -> ModelOrigins:
    """Returns the entries that are not from this code."""
    return {name: origin for name, origin in origins.items() if not origin["class"].startswith("transformer.")}


def replaced() -> ModelOrigins:
    """Returns the replacements, by qualified name, of functions, classes and methods that transformer/ defines."""
    found = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] != "transformer":
            continue
        for key, value in vars(module).copy().items():
            if _is_custom(value):
                found[f"{name}.{key}"] = origin_of_code(value)
            elif isinstance(value, type) and value.__module__ == name:
                methods = {k: v.fget if isinstance(v, property) else v for k, v in vars(value).items()}
                found |= {f"{name}.{key}.{k}": origin_of_code(v) for k, v in methods.items() if _is_custom(v)}
    return found


def origin_of_code(thing: Any) -> dict[str, str]:
    """Returns the name of a class or function as "class".

    If it is not from this code: also "file" and the "sha256" of that file, or without a file that of its source.
    """
    thing = _unwrapped(thing)
    name = getattr(thing, "__qualname__", type(thing).__qualname__)
    if _is_from(thing, "transformer"):
        return {"class": f"{thing.__module__}.{name}"}
    module = sys.modules.get(thing.__module__)
    if origin := origin_of(vars(module)) if module else {}:
        return {"class": name} | origin
    try:
        return {"class": name, "sha256": hashlib.sha256(inspect.getsource(thing).encode()).hexdigest()}
    except (OSError, TypeError):  # its source is not available
        return {"class": name}


def _unwrapped(thing: Any) -> Any:
    """Returns the underlying function of a partial, of a function wrapped by jax.jit or a decorator, or of a method."""
    while True:
        inner = thing.func if isinstance(thing, functools.partial) else getattr(thing, "__wrapped__", None)
        if inner is None or isinstance(thing, type):
            return thing
        thing = inner


def _is_from(thing: Any, package: str) -> bool:
    return str(getattr(thing, "__module__", "")).partition(".")[0] == package


def _is_custom(value: Any) -> bool:
    """Returns whether a callable comes from a notebook, from a --parts file, or from a module of the user."""
    value = _unwrapped(value)
    if not (callable(value) or isinstance(value, staticmethod | classmethod)) or _is_from(value, "transformer"):
        return False
    module = sys.modules.get(str(getattr(value, "__module__", "")))
    if module is None or module.__name__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return False
    return module.__name__ == "__main__" or not _INSTALLED & set(Path(getattr(module, "__file__", None) or "").parts)


_INSTALLED = {"site-packages", "dist-packages"}


def check_origins(meta: dict[str, Any], model: Transformer, log: Callable[[str], object]) -> None:
    """Raises UserError if the model of a checkpoint, by its meta, had a different class at some path than `model`.

    Classes of this code are compared by name only. Warns if a file has changed, unless `check_parts` already does. A
    checkpoint that was written before classes were recorded is not checked.
    """
    if not (needed := meta.get("made_of")):
        return
    now, changed = origins_of(model), set()
    reported = {part.get("file") for part in meta.get("parts", {}).values()}
    for path in [*needed, *(path for path in now if path not in needed)]:
        old, new = needed.get(path, {}), now.get(path, {})
        if old.get("class") != new.get("class"):
            raise UserError(
                f"this was trained with {_label(old)} as {path}, which is {_label(new)} now: {_remedy(old, new)}"
            )
        if old.get("sha256") != new.get("sha256") and old.get("file") not in reported - {None}:
            changed.add(_label(old))
    for what in sorted(changed):
        log(f"warning: this was trained with {what}, which has changed since or is a different one")


def _label(origin: dict[str, str]) -> str:
    return " of ".join(origin[name] for name in ("class", "file") if name in origin) or "the original"


def _remedy(old: dict[str, str], new: dict[str, str]) -> str:
    """Returns what the user has to do so that `new` becomes `old`."""
    if not old or old["class"].startswith("transformer."):
        return "start again without the replacement"
    return f"{FLAG} {old['file']}" if "file" in old else "a notebook defined it, run that cell first"
