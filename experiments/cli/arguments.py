"""Arguments of a command: the name of an experiment or a run, and flags that set the fields of a dataclass."""

import io
import os
import re
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import asdict, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

import tyro

from experiments.cli.help import REGISTRY, program
from experiments.presets import EXPERIMENTS, find
from experiments.registry import FLAG, run_file
from experiments.workdir import WorkDir, differences, find_workdir, is_run, no_such_run, similar_runs
from transformer.checkpoint import read_json
from transformer.config import Experiment, UserError, expected

Arguments = list[str]

HELP = {"-h", "--help"}


class UsageError(Exception):
    """Raised to print the usage, because the user gave too few arguments."""


class Named(NamedTuple):
    """The settings that a command starts from, and its remaining flags."""

    experiment: Experiment
    run: WorkDir | None
    """The run, if one was named."""
    flags: Arguments

    @property
    def name(self) -> str:
        """The name of what was named: of the run, or else of the experiment."""
        return str(self.run.path) if self.run else self.experiment.name


def experiment_of(verb: str, arguments: Arguments) -> Named:
    """Splits [NAME, flags...] into settings and flags.

    NAME is an experiment, or a run whose settings are used; if it is both, the experiment. `--config FILE` overrides
    some of these settings; without a NAME, the file provides all of them. `--help` without a NAME shows the settings of
    the base model. UserError if the name or the file does not exist.
    """
    config, arguments = take_config(arguments)
    if config and (not arguments or arguments[0].startswith("-")):
        default = {"name": config.stem} if config.is_file() else {}  # a pipe has no name for the run
        return Named(Experiment.from_dict(default | read_settings(config), config), None, arguments)
    name, flags = run_of(verb, arguments, "NAME")
    if name == "NAME" and HELP & set(flags):
        return Named(replace(find("base"), name=name), None, flags)
    if name in EXPERIMENTS:
        note_run(name)
        return Named(configured(find(name), config), None, flags)
    if is_run(name):
        run = find_workdir(name)
        return Named(configured(run.experiment(), config), run, flags)
    raise UserError(no_such_name(name))


def note_run(name: str) -> None:
    """Prints a note if the name of an experiment is also that of a run with other settings."""
    if not is_run(name):
        return
    run = find_workdir(name)
    try:
        same = not differences(run.settings(), asdict(find(name)))
    except UserError:  # not the settings of a run
        same = False
    if not same:
        path = run.path if os.sep in str(run.path) else f"./{run.path}"
        print(f"note: {name} is the experiment; the run with this name has other settings: use {path}", file=sys.stderr)


def no_such_name(name: str) -> str:
    """Returns the error message for a name that is neither an experiment nor a run, with what may be meant."""
    if Path(name).is_file():
        return f"{name} is a file, not an experiment or a run: perhaps --config {name}"
    if os.sep in name:
        return no_such_run(name)
    near = [*get_close_matches(name, EXPERIMENTS), *similar_runs(name)]
    if near:
        return f"no experiment or run {name!r}; did you mean: {', '.join(near)}?"
    return f"no experiment or run {name!r}; the experiments are: {', '.join(EXPERIMENTS)}"


def configured(experiment: Experiment, config: Path | None) -> Experiment:
    """Returns an experiment with the settings of a `--config` file, if there is one, in place of its own."""
    return Experiment.from_dict(merged(asdict(experiment), read_settings(config)), config) if config else experiment


def take_config(arguments: Arguments) -> tuple[Path | None, Arguments]:
    """Returns the file of `--config FILE`, at any position, and the other arguments."""
    files, rest = take_flag("--config", "a JSON file, such as config.json of a run", arguments)
    if len(files) > 1:
        raise UserError("--config is given twice: put all settings into one file")
    return (files[0] if files else None), rest


def load_parts_files(arguments: Arguments) -> Arguments:
    """Runs the file of every --parts flag, at any position, and returns the other arguments."""
    files, rest = take_flag(FLAG, "a Python file", arguments)
    for file in files:
        run_file(file)
    return rest


def take_flag(flag: str, what: str, arguments: Arguments) -> tuple[list[Path], Arguments]:
    """Returns the files that a flag gives, at any position, and the other arguments. `what` describes such a file."""
    files, rest, waiting = [], [], iter(arguments)
    for argument in waiting:
        name, _, value = argument.partition("=")
        if name != flag:
            rest.append(argument)
        elif value := value or next(waiting, ""):
            files.append(Path(value))
        else:
            raise UserError(f"{flag} expects {what}")
    return files, rest


def read_settings(path: Path) -> dict[str, Any]:
    """Reads settings from a JSON file or a pipe: all, as in config.json, or some. UserError if it cannot be read."""
    if path.is_dir():
        inside = path / "config.json"
        remedy = f"perhaps --config {inside}" if inside.is_file() else "give a JSON file"
        raise UserError(f"--config {path} is a directory: {remedy}")
    if not path.exists():
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
    said, prog = io.StringIO(), f"{program()} {command}"
    try:
        with redirect_stderr(said):
            return tyro.cli(kind, args=arguments, default=default, prog=prog, description=about, registry=REGISTRY)
    except SystemExit as end:
        if not end.code:  # --help
            raise
        # Tyro draws a box with a title: put its sentences on one line.
        drawn = [line[2:].rstrip("│╰╯─ ") for line in said.getvalue().splitlines() if not line.startswith("╭")]
        text = " ".join(filter(None, (line.strip("─ ") for line in drawn))).split(" For full helptext")[0]
        if text.startswith("Unrecognized options:"):
            # Similar flags are indented by four spaces, and their help texts by more.
            near = [flag for line in drawn if re.match(r" {4}--", line) for flag in re.findall(r"--[\w.-]+", line)]
            raise UserError(value_of_switch(kind, arguments) or unknown(text, near)) from None
        raise UserError(in_words(text, kind)) from None


def unknown(said: str, near: list[str]) -> str:
    """Rephrases Tyro's message about arguments that no flag takes."""
    said = said.split(" Perhaps you meant")[0].split(" Arguments similar")[0]
    words = said.removeprefix("Unrecognized options:").strip().split(", ")
    if not (flags := [word for word in words if word.startswith("-")]):
        return f"unexpected {' '.join(word or repr(word) for word in words)}"
    return f"there is no flag {' and no '.join(flags)}" + (
        f"; perhaps {' or '.join(dict.fromkeys(near))}" if near else ""
    )


def value_of_switch(kind: type, arguments: Arguments) -> str | None:
    """Returns the error message for the first boolean flag that is followed by a value; None if there is none.

    Tyro's own message names the value, but not the flag.
    """
    both = {flag: pair for pair in switches(kind) for flag in pair}
    for argument, following in zip(arguments, [*arguments[1:], "--"], strict=True):
        name, equals, value = argument.partition("=")
        flag = name.replace("_", "-")
        if flag in both and (equals or not following.startswith("-")):
            given, (on, off) = value if equals else following, both[flag]
            remedy = f"type {on} for True or {off} for False" if off != on else f"type {on}, or leave it out"
            return f"{flag} expects no value, not {given!r}: {remedy}"
    return None


def switches(kind: Any, prefix: str = "--") -> Iterator[tuple[str, str]]:
    """Yields the two flags of each boolean field of a dataclass, such as --screen and --no-screen.

    They are the same for a field that has only the first.
    """
    annotations = get_type_hints(kind, include_extras=True)
    for name, field in get_type_hints(kind).items():
        flag = name.replace("_", "-")
        if field in (bool, bool | None):
            single = tyro.conf.FlagCreatePairsOff in getattr(annotations[name], "__metadata__", ())
            yield f"{prefix}{flag}", f"{prefix}{flag}" if single else f"{prefix}no-{flag}"
        elif is_dataclass(field):
            yield from switches(field, prefix if field is Experiment else f"{prefix}{flag}.")


def in_words(said: str, kind: type) -> str:
    """Rephrases Tyro's message about a flag with a missing or invalid value."""
    if missing := re.match(r"Missing value for argument '(--[\w.-]+)'", said):
        return f"{missing[1]} expects {expected(type_of(kind, missing[1]))}"
    if wrong := re.match(r"invalid choice (?P<value>.+) for argument '(?P<flag>--[\w.-]+)'", said) or re.match(
        r"Error parsing (?P<flag>--[\w.-]+): .*?(?:base 10: |to float: |instantiated from \[)(?P<value>.+?)"
        r"(?:\]\. Got errors| Argument helptext)",
        said,
    ):
        return f"{wrong['flag']} expects {expected(type_of(kind, wrong['flag']))}, not {wrong['value']}"
    return said


def type_of(kind: type, flag: str) -> Any:
    """Returns the type of the field that a flag of the dataclass `kind` sets."""
    found: Any = kind
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        fields = get_type_hints(found)
        # Flags of an experiment start with their group, as in --data.test-src; `evaluate` has some, but no experiment.
        if name in fields or "experiment" in fields:
            found = fields[name] if name in fields else get_type_hints(fields["experiment"])[name]
    return found
