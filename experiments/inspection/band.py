"""The band of a preset: the validation losses that its runs with other seeds had, step by step.

The records in experiments/results/bands have the curves of runs of a preset, one for each seed. A run whose validation
loss is above the band is a run with a fault: a wrong learning rate, damaged text, a bug in a part.
"""

import math
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.records import RESULTS, read_evaluation
from experiments.workdir import MAY_CHANGE, PATHS, differences
from transformer.config import Experiment, UserError, counted

BANDS = RESULTS / "bands"

NARROWEST = 0.05
"""Half the width of the narrowest band, in nats per token: other hardware and other versions of JAX have some room."""

PROBABILITY = 0.99
"""Of a healthy run with another seed to be in the band at a step."""


# Settings that do not change the validation losses, or by no more than the band is wide. Paths are of another text.
_SAME = ("name", "train.seed", "train.ema", "train.best", *(name for name in MAY_CHANGE if name not in PATHS))


class Band(NamedTuple):
    """The validation losses of runs with different seeds."""

    steps: list[list[float]]
    """The steps of the validations of each run, ascending."""
    losses: list[list[float]]
    """The validation loss at each of these steps."""
    changed: list[str]
    """Settings in which the run at hand differs from those runs."""

    def at(self, step: int) -> tuple[float, float] | None:
        """Returns the band at a step, linear between validations; None before the first and after the last of one."""
        values = [interpolated(step, *curve) for curve in zip(self.steps, self.losses, strict=True)]
        if any(value is None for value in values):
            return None
        known = [value for value in values if value is not None]
        from scipy.stats import t as student  # imported here, since importing it takes a second

        n, mean = len(known), statistics.fmean(known)
        # The interval in which one more run is found, not that of the mean.
        width = float(student.ppf((1 + PROBABILITY) / 2, n - 1)) * statistics.stdev(known) * math.sqrt(1 + 1 / n)
        return mean - max(width, NARROWEST), mean + max(width, NARROWEST)

    def warning(self, step: int, loss: float) -> str | None:
        """Returns what to say of a validation loss above the band; None in the band, below it, and where it ends."""
        found = self.at(step)
        if found is None or loss <= found[1]:
            return None
        what = f", but has other settings ({', '.join(self.changed)})" if self.changed else ""
        return (
            f"warning: the validation loss is {loss - found[1]:.2f} above the band at step {step:,}, which is "
            f"{found[0]:.2f} to {found[1]:.2f} in {counted(len(self.steps), 'run')} of this preset{what}: see "
            f"docs/troubleshooting.md"
        )


def interpolated(step: float, steps: list[float], values: list[float]) -> float | None:
    """Returns the value at a step, linear between the steps that are known; None outside of them."""
    return float(np.interp(step, steps, values)) if steps[0] <= step <= steps[-1] else None


def band_of(experiment: Experiment, folder: Path | None = None) -> Band | None:
    """Returns the band for a run, from the records NAME-seedN.json of its preset; None with fewer than two.

    Its losses are those of the same text, vocabulary and batches, or there is no band. Other settings may differ.

    Args:
        folder: the folder of the records. None: the published ones.

    Raises:
        UserError: a record that is damaged or has no curve.
    """
    settings = asdict(experiment)
    curves: list[dict[str, Any]] = []
    changed: set[str] = set()
    for path in sorted((folder or BANDS).glob(f"{experiment.name}-seed*.json")):
        record = read_evaluation(path)
        if "members" in record or "dev_loss" not in record.get("curve", {}):
            raise UserError(f"{path} has no curve of validation losses: it is not a record of a band; move it away")
        differing = [name for name in differences(record["settings"], settings) if not name.startswith(_SAME)]
        if any(name.startswith("data.") for name in differing):
            return None
        curves.append(record["curve"])
        changed |= set(differing)
    if len(curves) < 2:
        return None
    return Band([curve["step"] for curve in curves], [curve["dev_loss"] for curve in curves], sorted(changed))
