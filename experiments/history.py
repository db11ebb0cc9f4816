"""The history of a run: the rows of its metrics.jsonl, which training writes and every view reads."""

import json
import math
from pathlib import Path
from typing import Any

from transformer.config import UserError

Row = dict[str, Any]
"""Of metrics.jsonl: "step", and numbers by name (None: not finite), or the texts of a SAMPLE."""

SAMPLE = ("source", "output", "reference")


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that a killed process left unfinished is left out.

    UserError names any other line that is damaged.
    """
    if not path.exists():
        return []
    lines, rows = path.read_bytes().splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not (isinstance(row, dict) and isinstance(row.get("step"), int) and all(map(fits, row, row.values()))):
                raise ValueError("no row of a run")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is damaged ({error}): remove the line") from error
        rows.append(row)
    return rows


def fits(name: str, value: object) -> bool:
    """Whether a row may hold that."""
    return isinstance(value, str) if name in SAMPLE else value is None or isinstance(value, int | float)


def perplexity(loss: float) -> float:
    """exp(loss); infinite where no float can hold it."""
    return math.exp(loss) if loss < 700 else math.inf


def minutes(seconds: float) -> str:
    """1:05:09 or 5:09"""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
