"""Parts that a setting names: a new one takes a line, and no change of this code.

Each kind has its table beside the part that it holds:

    model.positions      transformer/positions.py   POSITIONS
    model.attention      transformer/attention.py   ATTENTIONS
    model.norm_type      transformer/layers.py      NORMS
    optimizer.schedule   transformer/optimizer.py   SCHEDULES
    optimizer.name       transformer/optimizer.py   OPTIMIZERS
    data.corpus          data/corpora.py            CORPORA
    metric               experiments/evaluation/metrics.py     METRICS

After `POSITIONS["rotary"] = Rotary` the setting `model.positions = "rotary"` means it.
"""

import hashlib
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from transformer.config import UserError

T = TypeVar("T")


class Registry(dict[str, T]):
    """The parts of one kind by name: those of this code, and any that are put in. These may be put in anew."""

    def __init__(self, setting: str, parts: Mapping[str, T]):
        super().__init__(parts)
        self.setting = setting
        self.built_in = frozenset(parts)
        self.origins: dict[str, dict[str, str]] = {}
        """Of each part that was put in: the file that did it and its SHA-256 then; empty where it was no file."""

    def __setitem__(self, name: str, part: T) -> None:
        """UserError for the name of a part of this code: what a preset names never changes."""
        self._put(name, part, sys._getframe(1).f_globals)

    def update(self, *others: Any, **named: T) -> None:
        """Puts in each."""
        for name, part in dict(*others, **named).items():
            self._put(name, part, sys._getframe(1).f_globals)

    def __ior__(self, other: Any) -> "Registry[T]":  # type: ignore[override, misc]
        for name, part in dict(other).items():
            self._put(name, part, sys._getframe(1).f_globals)
        return self

    def _put(self, name: str, part: T, where: dict[str, Any]) -> None:
        if name in self.built_in:
            raise UserError(f"{self.setting} {name!r} is a part of this code: give yours another name")
        if not (isinstance(name, str) and name.strip() and name.isprintable()):
            raise UserError(f"{self.setting}: {name!r} is no name")
        super().__setitem__(name, part)
        self.origins[name] = origin_of(where)

    def find(self, name: str) -> T:
        """The part of that name. UserError lists those there are, the nearest first."""
        if name not in self:
            there = get_close_matches(name, self, n=len(self), cutoff=0.0)
            raise UserError(
                f"unknown {self.setting} {name!r}; there are: {', '.join(there)} (your own come in with --parts FILE)"
            )
        return self[name]


def origin_of(where: dict[str, Any]) -> dict[str, str]:
    """The file whose global names these are, and its hash; empty for a notebook."""
    file = Path(str(where.get("__file__", "")))
    if not file.is_file():
        return {}
    return {"file": str(file.resolve()), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
