"""Arguments of a command: the name of an experiment or a run, and flags that set the fields of a dataclass."""

import io
import re
from contextlib import redirect_stderr
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import tyro

from experiments.cli.help import REGISTRY
from experiments.presets import EXPERIMENTS, find
from experiments.workdir import find_workdir, is_run
from transformer.checkpoint import read_json
from transformer.config import Experiment, UserError

Arguments = list[str]

HELP = {"-h", "--help"}


class UsageError(Exception):
    """Raised to print the usage, because the user gave too few arguments."""


class Named(NamedTuple):
    """The settings that a command starts from, and its remaining flags."""

    experiment: Experiment
    run: Path | None
    """The work directory, if a run was named."""
    flags: Arguments


def experiment_of(verb: str, arguments: Arguments) -> Named:
    """Splits [NAME, flags...] into settings and flags.

    NAME is an experiment, or a run whose settings are used. `--config FILE` overrides some of these settings; without a
    NAME, the file provides all of them. `--help` without a NAME shows the settings of the base model. UserError if the
    name or the file does not exist.
    """
    config, arguments = take_config(arguments)
    if config and (not arguments or arguments[0].startswith("-")):
        return Named(Experiment.from_dict({"name": config.stem} | read_settings(config)), None, arguments)
    name, flags = run_of(verb, arguments, "NAME")
    if name == "NAME" and HELP & set(flags):
        return Named(replace(find("base"), name=name), None, flags)
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


def run_of(verb: str, arguments: Arguments, placeholder: str = "RUN") -> tuple[str, Arguments]:
    """Splits [RUN, flags...] into the name and the flags. UsageError without a name.

    With `--help` in place of the name, the name is the placeholder.
    """
    if not arguments:
        raise UsageError
    if not arguments[0].startswith("-"):
        return arguments[0], arguments[1:]
    if HELP & set(arguments):
        return placeholder, ["--help"]
    raise UserError(f"`{verb}` needs a name before {arguments[0]}: names come before flags")


def parse(kind: type, arguments: Arguments, default: Any, command: str, about: str = "") -> Any:
    """Parses flags into a dataclass. `--help` prints the description `about` and all flags, and exits.

    UserError for an unknown flag, with similar ones, and for an invalid value.
    """
    said, prog = io.StringIO(), f"python -m experiments {command}"
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=arguments, default=default, prog=prog, description=about, registry=REGISTRY)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        # Tyro draws a box with a title: put its sentences on one line.
        drawn = [line[2:].rstrip("│╰╯─ ") for line in said.getvalue().splitlines() if not line.startswith("╭")]
        text = " ".join(filter(None, (line.strip("─ ") for line in drawn))).split(" For full helptext")[0]
        if text.startswith("Unrecognized options: "):
            # Similar flags are indented by four spaces, and their help texts by more.
            near = [line.split()[0].rstrip(",") for line in drawn if re.match(r" {4}--", line)]
            raise UserError(unknown(text, near)) from None
        raise UserError(in_words(text, kind)) from None


def unknown(said: str, near: list[str]) -> str:
    """Rephrases Tyro's message about arguments that no flag takes."""
    words = said.split(" Perhaps you meant")[0].split(" Arguments similar")[0].split(": ", 1)[1].split(", ")
    if not (flags := [word for word in words if word.startswith("-")]):
        return f"unexpected {' '.join(words)}"
    return f"there is no flag {' and no '.join(flags)}" + (
        f"; perhaps {' or '.join(dict.fromkeys(near))}" if near else ""
    )


def in_words(said: str, kind: type) -> str:
    """Rephrases Tyro's message about a flag with a missing or invalid value."""
    if missing := re.match(r"Missing value for argument '(--[\w.-]+)'", said):
        return f"{missing[1]} expects {expected(kind, missing[1])}"
    if wrong := re.match(r"invalid choice (?P<value>.+) for argument '(?P<flag>--[\w.-]+)'", said) or re.match(
        r"Error parsing (?P<flag>--[\w.-]+): .*?(?:base 10: |to float: |instantiated from \[)(?P<value>.+?)"
        r"(?:\]\. Got errors| Argument helptext)",
        said,
    ):
        return f"{wrong['flag']} expects {expected(kind, wrong['flag'])}, not {wrong['value']}"
    return said


def expected(kind: type, flag: str) -> str:
    """Returns what kind of value a flag of the dataclass `kind` expects."""
    found: Any = kind
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        fields = get_type_hints(found)
        # Flags of an experiment start with their group, as in --data.test-src; `evaluate` has some, but no experiment.
        if name in fields or "experiment" in fields:
            found = fields[name] if name in fields else get_type_hints(fields["experiment"])[name]
    types = [one for one in (get_args(found) or [found]) if one is not NoneType]
    if get_origin(found) is Literal or get_origin(types[0]) is Literal:
        choices = get_args(found if get_origin(found) is Literal else types[0])
        return f"one of {', '.join(choices)}"
    return {int: "a whole number", float: "a number", Path: "a path"}.get(types[0], "a value")
