"""Extracts what can be checked in the README and docs/: snippets, commands, links, paths."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments import EXPERIMENTS, find
from experiments.cli.arguments import load_parts_files, parse, take_config
from experiments.cli.flags import (
    Attending,
    Averaging,
    Comparing,
    Contrasting,
    Distilling,
    Evaluating,
    Explaining,
    Exporting,
    Importing,
    Inspecting,
    Planning,
    Preparing,
    Scoring,
    Serving,
    Speedrun,
    Table,
    Table1,
    Training,
    Translating,
)
from experiments.cli.verbs import VERBS
from experiments.evaluation.metrics import METRICS
from experiments.registry import REGISTRIES
from experiments.speedrun.recipes import find_recipe
from experiments.speedrun.tracks import find_track

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))

_OF_EXPERIMENT = {"train": Training, "plan": Planning, "prepare": Preparing, "explain": Explaining}
_OF_RUN = {
    "translate": Translating,
    "serve": Serving,
    "attention": Attending,
    "evaluate": Evaluating,
    "average": Averaging,
    "export": Exporting,
    "import": Importing,
    "compare": Comparing,
    "score": Scoring,
    "contrast": Contrasting,
    "distill": Distilling,
    "inspect": Inspecting,
}
_POSITIONALS = {"compare": 2, "attention": 2, "list": 0, "results": 0, "demo": 0}


@contextmanager
def tables_restored() -> Iterator[None]:
    """Context manager that restores the component registries."""
    every: tuple[dict[str, Any], ...] = (*REGISTRIES, METRICS, EXPERIMENTS)
    before = [dict(table) for table in every]
    try:
        yield
    finally:
        for table, content in zip(every, before, strict=True):
            table.clear()
            dict.update(table, content)


def run_snippets(text: str) -> int:
    """Runs the Python snippets of a document in order, in one scope, and returns their number."""
    snippets = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, object] = {"__name__": "snippets"}
    with tables_restored():
        for snippet in snippets:
            exec(snippet, scope)
    return len(snippets)


def commands(text: str) -> list[list[str]]:
    """Returns the arguments of each `python -m experiments` command, up to a pipe, redirection or comment."""
    told = re.sub(r"```python\n.*?```|<!--.*?-->", "", text, flags=re.DOTALL).replace("\\\n", " ")
    found = re.findall(r"python -m experiments((?: [^\n`]*)?)", told)
    lines = (re.split(r"\s#| [|&>]|<<<", line)[0] for line in found)
    return [words for line in lines if (words := shlex.split(line)) and not words[0].startswith("-")]


def check_command(words: list[str]) -> None:
    """Raises AssertionError or UserError unless verb, experiment and flags exist. Capitals are placeholders."""
    with tables_restored():
        words = [word for word in words if word not in ("--help", "[--flags]")]
        verb, *rest = take_config(load_parts_files(words))[1]
        assert verb in VERBS, words
        count = _POSITIONALS.get(verb, 1)
        names, flags = rest[:count], rest[count:]
        assert len(names) == count and not any(name.startswith("--") for name in names), words
        if verb in _OF_EXPERIMENT:
            if names[0].startswith("runs/"):  # a run of the reader: the flags are the same for all settings
                names = ["small"]
            if not names[0].isupper():
                parse(_OF_EXPERIMENT[verb], flags, _OF_EXPERIMENT[verb](find(names[0])), verb)
        elif verb == "demo":
            parse(Training, flags, Training(find("demo")), verb)
        elif verb == "table":
            parse(Table1 if names[0] == "1" else Table, flags, Table1() if names[0] == "1" else Table(), verb)
        elif verb == "speedrun":
            parse(Speedrun, flags, Speedrun(), verb)
            find_track(names[0])
            find_recipe(flags[flags.index("--recipe") + 1] if "--recipe" in flags else "paper")
        elif verb in _OF_RUN:
            parse(_OF_RUN[verb], flags, _OF_RUN[verb](), verb)
        else:
            assert not flags, words


def missing_links(path: Path) -> list[str]:
    """Returns links to files that do not exist, and malformed URLs. Nothing is fetched."""
    links = re.findall(r"\]\(([^)#\s]+)", path.read_text(encoding="utf-8"))
    external = [link for link in links if ":" in link.split("/")[0]]
    bad = [link for link in external if not re.fullmatch(r"https?://[\w.-]+\.[a-z]+(/\S*)?", link)]
    return bad + [link for link in links if link not in external and not (path.parent / link).exists()]


def named_paths(text: str) -> set[str]:
    """Returns the paths of this repository in backticks, relative to its root."""
    return set(re.findall(r"`((?:transformer|experiments|data|docs|benchmarks|tests)/[\w./]*)`", text))


def unknown_targets(text: str) -> set[str]:
    """Returns the make targets in a document that the Makefile does not have."""
    fenced = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL))
    told = set(re.findall(r"^make ([\w-]+)", fenced, re.MULTILINE)) | set(re.findall(r"`make ([\w-]+)", text))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    rules = re.findall(r"^([a-z][\w -]*):", makefile, re.MULTILINE)
    return told - {target for rule in rules for target in rule.split()}
