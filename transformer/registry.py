"""Registries of components that are selected by name in a setting, such as positional encodings and optimizers.

Each registry is defined next to the components it contains:

    model.architecture   transformer/model.py       ARCHITECTURES
    model.positions      transformer/positions.py   POSITIONS
    model.attention      transformer/attention.py   ATTENTIONS
    model.feed_forward   transformer/layers.py      FEED_FORWARDS
    model.activation     transformer/layers.py      ACTIVATIONS
    model.norm_type      transformer/layers.py      NORMS
    model.initializer    transformer/initializers.py    INITIALIZERS
    optimizer.schedule   transformer/optimizer.py   SCHEDULES
    optimizer.name       transformer/optimizer.py   OPTIMIZERS
    train.loss           transformer/train.py       LOSSES
    data.corpus          data/corpora/              CORPORA
    data.task            experiments/task.py        TASKS
    metric               experiments/evaluation/metrics.py     METRICS

After `POSITIONS["mine"] = Mine`, the setting `model.positions = "mine"` selects it. No other code changes.
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
    """Maps names to components, built-in or custom. Custom components are added by assignment and may be replaced."""

    def __init__(self, setting: str, parts: Mapping[str, T]):
        super().__init__(parts)
        self.setting = setting
        self.built_in = frozenset(parts)
        self.origins: dict[str, dict[str, str]] = {}
        """For each custom component, the file that registered it and its SHA-256 at that time; empty for a notebook."""

    def build_in(self, parts: Mapping[str, T]) -> None:
        """Adds built-in components that are defined in another file than their registry."""
        super().update(parts)
        self.built_in |= frozenset(parts)

    def __setitem__(self, name: str, part: T) -> None:
        """Registers a custom component. UserError if the name is that of a built-in one, as presets must not change."""
        self._put(name, part, sys._getframe(1).f_globals)

    def update(self, *others: Any, **named: T) -> None:
        """Registers several components."""
        for name, part in dict(*others, **named).items():
            self._put(name, part, sys._getframe(1).f_globals)

    def __ior__(self, other: Any) -> "Registry[T]":  # type: ignore[override, misc]
        for name, part in dict(other).items():
            self._put(name, part, sys._getframe(1).f_globals)
        return self

    def _put(self, name: str, part: T, where: dict[str, Any]) -> None:
        if name in self.built_in:
            raise UserError(f"{self.setting} {name!r} is built in: choose another name for yours")
        if not (isinstance(name, str) and name.strip() and name.isprintable()):
            raise UserError(f"{self.setting}: {name!r} is not a valid name: use a non-empty printable string")
        super().__setitem__(name, part)
        self.origins[name] = origin_of(where)

    def find(self, name: str) -> T:
        """Returns the component with this name. UserError lists the known names, the closest match first."""
        if name not in self:
            there = get_close_matches(name, self, n=len(self), cutoff=0.0)
            raise UserError(
                f"unknown {self.setting} {name!r}; there are: {', '.join(there)} (register your own with --parts FILE)"
            )
        return self[name]


def origin_of(where: dict[str, Any]) -> dict[str, str]:
    """Returns the file that a module's globals belong to, and the file's SHA-256; empty for a notebook."""
    file = Path(str(where.get("__file__", "")))
    if not file.is_file():
        return {}
    return {"file": str(file.resolve()), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
