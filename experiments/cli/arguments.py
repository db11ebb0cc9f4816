"""What stands after a verb: a name, and flags that fill a dataclass."""

import io
import re
from contextlib import redirect_stderr
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import tyro

from experiments.presets import find
from transformer.config import Experiment, UserError

Arguments = list[str]


class UsageError(Exception):
    """Raised to have the usage shown: asked for, or because nothing was given."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked


def experiment_of(verb: str, arguments: Arguments) -> tuple[Experiment, Arguments]:
    """Splits [NAME, flags...]."""
    name, flags = run_of(verb, arguments)
    return find(name), flags


def run_of(verb: str, arguments: Arguments) -> tuple[str, Arguments]:
    """Splits [RUN, flags...]. UsageError without a RUN."""
    if not arguments or arguments[0] in ("-h", "--help"):
        raise UsageError(asked=bool(arguments))
    if arguments[0].startswith("-"):
        raise UserError(f"`{verb}` wants a name where {arguments[0]} stands: names come before flags")
    return arguments[0], arguments[1:]


def no_more(arguments: Arguments) -> None:
    """UserError for arguments that nobody reads."""
    if arguments:
        raise UserError(f"unexpected {' '.join(arguments)}")


def parse(kind: type, arguments: Arguments, default: Any, command: str) -> Any:
    """Reads flags into a dataclass. UserError for an unknown flag, with the nearest ones, and for a bad value."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=arguments, default=default, prog=f"python -m experiments {command}")
    except SystemExit as end:
        if not end.code:  # --help
            raise
        # tyro draws a box with a title: its sentences, on one line.
        lines = (line.strip("│╰╯─ ") for line in said.getvalue().splitlines() if not line.startswith("╭"))
        raise UserError(in_words(" ".join(filter(None, lines)).split(" For full helptext")[0], kind)) from None


def in_words(said: str, kind: type) -> str:
    """What tyro says of a flag without a value, or with one that cannot be, in this program's words."""
    if missing := re.match(r"Missing value for argument '(--[\w.-]+)'", said):
        return f"{missing[1]} wants {wanted(kind, missing[1])}"
    if wrong := re.match(r"invalid choice (?P<value>.+) for argument '(?P<flag>--[\w.-]+)'", said) or re.match(
        r"Error parsing (?P<flag>--[\w.-]+): .*?(?:base 10: |to float: |instantiated from \[)(?P<value>.+?)"
        r"(?:\]\. Got errors| Argument helptext)",
        said,
    ):
        return f"{wrong['flag']} wants {wanted(kind, wrong['flag'])}, not {wrong['value']}"
    return said


def wanted(kind: type, flag: str) -> str:
    """What a flag of `kind` takes."""
    found: Any = kind
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        fields = get_type_hints(found)
        # An experiment's flags begin with the names of its parts; `evaluate` has some of these, and no experiment.
        if name in fields or "experiment" in fields:
            found = fields[name] if name in fields else get_type_hints(fields["experiment"])[name]
    types = [one for one in (get_args(found) or [found]) if one is not NoneType]
    if get_origin(found) is Literal or get_origin(types[0]) is Literal:
        choices = get_args(found if get_origin(found) is Literal else types[0])
        return f"one of {', '.join(choices)}"
    return {int: "a whole number", float: "a number", Path: "a path"}.get(types[0], "a value")
