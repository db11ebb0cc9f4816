"""What stands after a verb: an experiment or a run by name, and flags that fill a dataclass."""

import io
import re
from contextlib import redirect_stderr
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import tyro

from experiments.presets import EXPERIMENTS, find
from experiments.workdir import find_workdir, is_run
from transformer.checkpoint import read_json
from transformer.config import Experiment, UserError

Arguments = list[str]


class UsageError(Exception):
    """Raised to have the usage shown: asked for, or because nothing was given."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked


class Named(NamedTuple):
    """The settings that a command starts from, and its flags."""

    experiment: Experiment
    run: Path | None
    """The work directory that was named, if one was."""
    flags: Arguments


def experiment_of(verb: str, arguments: Arguments) -> Named:
    """Splits [NAME, flags...]: NAME is an experiment, or a run whose settings are meant; `--config FILE` changes them,
    or stands alone, for all of them. UserError for a name or a file that there is not."""
    config, arguments = take_config(arguments)
    changes = read_settings(config) if config else {}
    if config and (not arguments or arguments[0].startswith("--")):
        return Named(Experiment.from_dict({"name": config.stem} | changes), None, arguments)
    name, flags = run_of(verb, arguments)
    run = None
    if name in EXPERIMENTS or not is_run(name):  # a name of both means the experiment: runs/NAME is the other
        experiment = find(name)
    else:
        run = find_workdir(name).path
        experiment = Experiment.from_dict(find_workdir(name).settings())
    if changes:
        experiment = Experiment.from_dict(merged(asdict(experiment), changes))
    return Named(experiment, run, flags)


def take_config(arguments: Arguments) -> tuple[Path | None, Arguments]:
    """The file of `--config FILE`, wherever that stands, and the other arguments."""
    rest, found, waiting = [], None, iter(arguments)
    for argument in waiting:
        name, _, value = argument.partition("=")
        if name != "--config":
            rest.append(argument)
            continue
        if found is not None:
            raise UserError("--config is given twice: one file has all settings")
        value = value or next(waiting, "")
        if not value:
            raise UserError("--config wants a JSON file, as config.json of a run is one")
        found = Path(value)
    return found, rest


def read_settings(path: Path) -> dict[str, Any]:
    """The settings in a JSON file: all, as in config.json, or some. UserError if it cannot be read."""
    if not path.is_file():
        raise UserError(f"--config {path}: there is no such file")
    return read_json(path)


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, with those in `changes` in place of theirs."""
    nested = {
        name for name, value in changes.items() if isinstance(value, dict) and isinstance(settings.get(name), dict)
    }
    return settings | changes | {name: merged(settings[name], changes[name]) for name in nested}


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
        drawn = [line[2:].rstrip("│╰╯─ ") for line in said.getvalue().splitlines() if not line.startswith("╭")]
        text = " ".join(filter(None, (line.strip("─ ") for line in drawn))).split(" For full helptext")[0]
        if text.startswith("Unrecognized options: "):
            # Flags that are alike are indented by four, and what they do by more.
            near = [line.split()[0].rstrip(",") for line in drawn if re.match(r" {4}--", line)]
            raise UserError(unknown(text, near)) from None
        raise UserError(in_words(text, kind)) from None


def unknown(said: str, near: list[str]) -> str:
    """What tyro says of arguments that nobody reads, in this program's words."""
    words = said.split(" Perhaps you meant")[0].split(" Arguments similar")[0].split(": ", 1)[1].split(", ")
    if not (flags := [word for word in words if word.startswith("-")]):
        return f"unexpected {' '.join(words)}"
    return f"there is no flag {' and no '.join(flags)}" + (
        f"; perhaps {' or '.join(dict.fromkeys(near))}" if near else ""
    )


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
