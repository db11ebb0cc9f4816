"""Arguments of a command: the name of an experiment or a run, and flags that set the fields of a dataclass."""

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
    """Raised to print the usage, because the user asked for it or gave too few arguments."""

    def __init__(self, asked: bool) -> None:
        self.asked = asked


class Named(NamedTuple):
    """The settings that a command starts from, and its remaining flags."""

    experiment: Experiment
    run: Path | None
    """The work directory, if a run was named."""
    flags: Arguments


def experiment_of(verb: str, arguments: Arguments) -> Named:
    """Splits [NAME, flags...] into settings and flags.

    NAME is an experiment, or a run whose settings are used. `--config FILE` overrides some of these settings; without a
    NAME, the file provides all of them. UserError if the name or the file does not exist.
    """
    config, arguments = take_config(arguments)
    if config and (not arguments or arguments[0].startswith("--")):
        return Named(Experiment.from_dict({"name": config.stem} | read_settings(config)), None, arguments)
    name, flags = run_of(verb, arguments)
    if name in EXPERIMENTS or not is_run(name):  # if both exist, NAME is the experiment, and runs/NAME is the run
        return Named(configured(find(name), config), None, flags)
    run = find_workdir(name)
    return Named(configured(Experiment.from_dict(run.settings()), config), run.path, flags)


def configured(experiment: Experiment, config: Path | None) -> Experiment:
    """Returns an experiment with the settings of a `--config` file, if there is one, in place of its own."""
    return Experiment.from_dict(merged(asdict(experiment), read_settings(config))) if config else experiment


def take_config(arguments: Arguments) -> tuple[Path | None, Arguments]:
    """Returns the file of `--config FILE`, at any position, and the other arguments."""
    rest, found, waiting = [], None, iter(arguments)
    for argument in waiting:
        name, _, value = argument.partition("=")
        if name != "--config":
            rest.append(argument)
            continue
        if found is not None:
            raise UserError("--config is given twice: put all settings into one file")
        value = value or next(waiting, "")
        if not value:
            raise UserError("--config needs a JSON file, such as config.json of a run")
        found = Path(value)
    return found, rest


def read_settings(path: Path) -> dict[str, Any]:
    """Reads settings from a JSON file: all, as in config.json, or some. UserError if it cannot be read."""
    if not path.is_file():
        raise UserError(f"--config {path}: no such file")
    return read_json(path)


def merged(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns nested settings, overridden by those in `changes`."""
    nested = {
        name for name, value in changes.items() if isinstance(value, dict) and isinstance(settings.get(name), dict)
    }
    return settings | changes | {name: merged(settings[name], changes[name]) for name in nested}


def run_of(verb: str, arguments: Arguments) -> tuple[str, Arguments]:
    """Splits [RUN, flags...] into the name and the flags. UsageError without a name."""
    if not arguments or arguments[0] in ("-h", "--help"):
        raise UsageError(asked=bool(arguments))
    if arguments[0].startswith("-"):
        raise UserError(f"`{verb}` needs a name before {arguments[0]}: names come before flags")
    return arguments[0], arguments[1:]


def no_more(arguments: Arguments) -> None:
    """Raises UserError if any arguments are left."""
    if arguments:
        raise UserError(f"unexpected arguments: {' '.join(arguments)}")


def parse(kind: type, arguments: Arguments, default: Any, command: str) -> Any:
    """Parses flags into a dataclass. UserError for an unknown flag, with similar ones, and for an invalid value."""
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
