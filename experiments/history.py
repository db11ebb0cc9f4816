"""The metrics of a run: the rows of metrics.jsonl, which training writes and every view reads."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer.config import UserError

Row = dict[str, Any]
"""One line of metrics.jsonl: "step", and either numbers by name (None if not finite) or the texts of a SAMPLE."""

SAMPLE = ("source", "output", "reference")


def read_metrics(path: Path) -> list[Row]:
    """Reads the rows of a metrics.jsonl, without a last line that a killed process left incomplete.

    UserError names any other damaged line.
    """
    if not path.exists():
        return []
    lines, rows = path.read_bytes().splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not (isinstance(row, dict) and isinstance(row.get("step"), int) and all(map(fits, row, row.values()))):
                raise ValueError("not a row of metrics")
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is damaged ({error}): remove the line") from error
        rows.append(row)
    return rows


def curve_of(rows: list[Row]) -> dict[str, list[float | None]]:
    """Returns the numbers of each validation as lists: step, training loss, validation loss, score.

    The training loss is that of the last progress line before. A number is rounded to 4 decimals, and None if the
    validation has none.
    """
    merged: dict[int, Row] = {}
    for row in rows:
        merged.setdefault(row["step"], {}).update(row)
    names = sorted({name for row in rows for name in row if name.startswith("dev_") and name != "dev_ppl"})
    found: dict[str, list[float | None]] = {name: [] for name in ("step", "loss", *names)}
    loss = None
    for step in sorted(merged):
        loss = merged[step].get("loss", loss)
        if "dev_loss" in merged[step]:
            for name, values in found.items():
                value = loss if name == "loss" else merged[step].get(name)
                values.append(round(value, 4) if isinstance(value, float) else value)
    return found


def is_curve(curve: dict[str, Any], names: Sequence[str]) -> bool:
    """Returns whether a curve from a record has these lists, and as many numbers in each of its lists, at least one."""
    lengths = {len(values) for values in curve.values()}
    return all(curve.get(name) for name in names) and len(lengths) == 1


def fits(name: str, value: object) -> bool:
    """Returns whether a value has the right type for its name in a row."""
    return isinstance(value, str) if name in SAMPLE else value is None or isinstance(value, int | float)


def perplexity(loss: float) -> float:
    """Returns exp(loss), or infinity if that overflows a float."""
    return math.exp(loss) if loss < 700 else math.inf


def minutes(seconds: float) -> str:
    """Formats a duration as h:mm:ss, or as m:ss below an hour."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
