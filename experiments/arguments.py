"""What stands after a verb: a name, and flags that fill a dataclass."""

import io
from contextlib import redirect_stderr
from typing import Any

import tyro

from experiments import find
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
        raise UserError(" ".join(filter(None, lines)).split(" For full helptext")[0]) from None
