"""The work directory of a run: who owns it, and where everything in it stands.

config.json   vocab.model   checkpoints/<step>/   metrics.jsonl   events.*   figures/   evaluation/
"""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.tokenizer import Tokenizer
from transformer.config import Experiment, UserError

# What may change between two starts of one run: none of it touches the numbers up to a given step.
MAY_CHANGE = ("train.steps", "train.log_every", "train.eval_every", "train.keep", "decode.")


class WorkDir:
    """Paths of one run."""

    def __init__(self, path: Path):
        self.path = path
        self.config = path / "config.json"
        self.vocabulary = path / "vocab.model"
        self.checkpoints = path / "checkpoints"
        self.metrics = path / "metrics.jsonl"
        self.figures = path / "figures"
        self.evaluation = path / "evaluation"

    def claim(self, experiment: Experiment, tokenizer: Tokenizer) -> None:
        """Makes the directory this run's. UserError if it belongs to another experiment or vocabulary."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is not a directory")
        if self.config.exists():
            differing = differences(self.settings(), asdict(experiment))
            if blocking := [name for name in differing if not name.startswith(MAY_CHANGE)]:
                raise UserError(
                    f"{self.path} holds another experiment (it differs in {', '.join(blocking)}): "
                    f"choose another --workdir, or delete that one"
                )
        elif self.checkpoints.exists():
            raise UserError(f"{self.path} has checkpoints but no config.json: choose another --workdir")
        if self.vocabulary.exists() and Tokenizer.load(self.vocabulary).sha256 != tokenizer.sha256:
            raise UserError(f"{self.vocabulary} is not the vocabulary of this data: choose another --workdir")
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.vocabulary, tokenizer.to_bytes())
        write_whole(self.config, (json.dumps(asdict(experiment), indent=2) + "\n").encode())

    def settings(self) -> dict[str, Any]:
        """config.json as a dict."""
        try:
            return json.loads(self.config.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{self.config} is not valid JSON: {error}") from error


def find_workdir(name: str | Path) -> WorkDir:
    """The run of that path, or of that name under runs/. UserError if there is none."""
    for path in (Path(name), Path("runs") / name):
        if (path / "config.json").is_file():
            return WorkDir(path)
    raise UserError(f"no run at {name} or {Path('runs') / name}: train one with `python -m experiments train NAME`")


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the settings in which two configurations differ."""
    names = []
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(prefix + key)
    return names


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file so that its name never stands for half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)
