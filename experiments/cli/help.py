"""What `--help` shows: the arguments of a command, and its flags."""

import sys
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from experiments.presets import EXPERIMENTS
from experiments.speedrun.tracks import TRACKS

REGISTRY = ConstructorRegistry()
"""Tyro's rules for reading the fields of a dataclass, with those of this module."""

_pending: list[type] = []


def program() -> str:
    """The command that this was called by: `aiayn`, or `python -m experiments`."""
    return "aiayn" if Path(sys.argv[0]).stem == "aiayn" else "python -m experiments"


def argument_help(argument: str) -> str:
    """Describes an argument that the usage line of a command names in capitals."""
    return {
        "NAME": f"NAME is one of: {', '.join(EXPERIMENTS)}; or a RUN, to use its settings; or omitted, if "
        "--config FILE provides the settings. If a name is both, NAME is the experiment.",
        "RUN": "RUN is a work directory, or its name under runs/.",
        "DIR": "DIR is a folder that `export` wrote, or one with a Marian model of Hugging Face transformers, as those "
        "of OPUS-MT.",
        "TEXT": "TEXT is one sentence, in quotes.",
        "A": "A and B are runs: work directories, or their names under runs/.",
        "TRACK": f"TRACK is one of: {', '.join(TRACKS)}.",
        "N": "N is 1, 2, 3 or 4. Table 1 has only the flags --render and --results.",
    }[argument]


def describe(verb: Callable[..., None], names: tuple[str, ...]) -> str:
    """Returns the description of a verb: the help text in its docstring, and its arguments."""
    usage, about = (verb.__doc__ or "").split(": ", 1)
    arguments = [argument for argument in usage.split()[1:] if argument != "B"]
    lines = [about[0].upper() + about[1:] + ".", *map(argument_help, arguments)]
    if names == ("NAME",):
        lines += ["The defaults below are those of base; with the name of an experiment or run, its own are shown."]
    return "\n\n".join(lines)  # Tyro joins lines that a single line break separates


@REGISTRY.struct_rule
def optional_flags(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Describes an optional flag as `--flag PATH`, where Tyro writes `--flag {None}|PATH ... (default: None)`."""
    if not is_dataclass(info.type) or info.type in _pending:
        return None
    _pending.append(info.type)  # so that this rule does not apply again, and Tyro's own does
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _pending.pop()
    if not isinstance(spec, StructConstructorSpec):
        return None
    return replace(spec, fields=tuple(map(_without_none, spec.fields)))


def _without_none(field: StructFieldSpec) -> StructFieldSpec:
    annotated: Any = field.type
    kind, *metadata = get_args(annotated) if get_origin(annotated) is Annotated else [annotated]
    if get_origin(kind) not in (Union, UnionType) or len(options := set(get_args(kind)) - {NoneType}) != 1:
        return field
    if options == {bool}:  # on and off are two flags
        both: Any = Annotated[(kind, tyro.conf.arg(help_behavior_hint=_default), *metadata)]
        return replace(field, type=both)
    value = ConstructorRegistry.get_primitive_spec(PrimitiveTypeInfo.make(options.pop(), set()))
    if not isinstance(value, PrimitiveConstructorSpec):
        return field
    shown = tyro.conf.arg(metavar=value.metavar, help_behavior_hint=_default)
    described: Any = Annotated[(kind, shown, *metadata)]
    return replace(field, type=described)


def _default(label: str) -> str:
    return "" if label == "None" else f"(default: {label})"
