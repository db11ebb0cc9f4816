"""The band of a preset: the validation losses and scores that its runs with other seeds had, step by step.

The records in experiments/results/bands have the curves of runs of a preset, one for each seed. A run whose validation
loss is above the band is a run with a fault: a wrong learning rate, damaged text, a bug in a part. One whose loss is in
the band, and whose score is below it, translates wrongly.
"""

import math
import statistics
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.evaluation.records import RESULTS, read_evaluation
from experiments.history import is_curve
from experiments.task import task_of
from experiments.workdir import MAY_CHANGE, PATHS, differences
from transformer.config import Experiment, UserError, counted

BANDS = RESULTS / "bands"

NARROWEST = 0.05
"""Half the width of the narrowest band of losses, in nats per token: other hardware and versions of JAX have room."""

NARROWEST_SCORE = 2.0
"""Half the width of the narrowest band of scores, which are of few sentences."""

PROBABILITY = 0.99
"""Of a healthy run with another seed to be in the band at a step."""


# Settings that do not change the validation losses, or by no more than the band is wide. Paths are of another text.
_SAME = ("name", "train.seed", "train.ema", "train.best", *(name for name in MAY_CHANGE if name not in PATHS))

# Those of them that say which sentences are scored, and how they are translated.
_SCORED = ("train.eval_sentences", "train.best", "decode.")

# Settings of decoding that greedy search in batches of its own size does not have.
_NOT_GREEDY = ("decode.beam", "decode.batch_size")

_Curve = list[float | None]


class Band(NamedTuple):
    """The validation losses and scores of runs with different seeds."""

    steps: list[list[float]]
    """The steps of the validations of each run, ascending."""
    losses: list[_Curve]
    """The validation loss at each of these steps."""
    scores: list[_Curve]
    """The score of greedy translations at each of these steps. Empty if other sentences are scored, or by other
    settings."""
    changed: list[str]
    """Settings in which the run at hand differs from those runs."""

    def at(self, step: int) -> tuple[float, float] | None:
        """Returns the band of losses at a step, linear between validations; None before the first and after the last
        of one."""
        return self._between(step, self.losses, NARROWEST, math.inf)

    def scores_at(self, step: int) -> tuple[float, float] | None:
        """Returns the band of scores at a step. None as `at`, or next to a validation without a score."""
        return self._between(step, self.scores, NARROWEST_SCORE, 100.0)

    def _between(self, step: int, curves: list[_Curve], narrowest: float, most: float) -> tuple[float, float] | None:
        if not curves:
            return None
        values = [interpolated(step, *curve) for curve in zip(self.steps, curves, strict=True)]
        if any(value is None for value in values):
            return None
        known = [value for value in values if value is not None]
        from scipy.stats import t as student  # imported here, since importing it takes a second

        n, mean = len(known), statistics.fmean(known)
        # The interval in which one more run is found, not that of the mean.
        width = float(student.ppf((1 + PROBABILITY) / 2, n - 1)) * statistics.stdev(known) * math.sqrt(1 + 1 / n)
        return max(0.0, mean - max(width, narrowest)), min(most, mean + max(width, narrowest))

    def warning(self, step: int, loss: float, score: float) -> str | None:
        """Returns what to say of a validation loss above the band, or else of a score below it. Otherwise None."""
        losses, scores = self.at(step), self.scores_at(step)
        if losses and loss > losses[1]:
            return self._told("loss", loss - losses[1], "above", step, losses)
        if scores and score < scores[0]:
            return self._told("score", scores[0] - score, "below", step, scores)
        return None

    def _told(self, name: str, distance: float, side: str, step: int, band: tuple[float, float]) -> str:
        what = f", but has other settings ({', '.join(self.changed)})" if self.changed else ""
        return (
            f"warning: the validation {name} is {distance:.2f} {side} the band at step {step:,}, which is "
            f"{band[0]:.2f} to {band[1]:.2f} in {counted(len(self.steps), 'run')} of this preset{what}: see "
            f"docs/troubleshooting.md"
        )


def interpolated(step: float, steps: list[float], values: _Curve) -> float | None:
    """Returns the value at a step, linear between the steps that are known; None outside of them, or next to a None."""
    if not steps[0] <= step <= steps[-1]:
        return None
    found = float(np.interp(step, steps, np.asarray(values, float)))
    return None if math.isnan(found) else found


def band_of(experiment: Experiment, folder: Path | None = None) -> Band | None:
    """Returns the band for a run, from the records NAME-seedN.json of its preset; None with fewer than two.

    It is of the same text, vocabulary and batches, or there is no band. Other settings may differ.

    Args:
        folder: the folder of the records. None: the published ones.

    Raises:
        UserError: a record that is damaged or has no curve.
    """
    settings = asdict(experiment)
    curves: list[dict[str, Any]] = []
    changed: set[str] = set()
    score: str | None = f"dev_{task_of(experiment.data).metric.lower()}"
    for path in sorted((folder or BANDS).glob(f"{experiment.name}-seed*.json")):
        record = read_evaluation(path)
        curve = record.get("curve") or {}
        if "members" in record or not is_curve(curve, ("step", "dev_loss")):
            raise UserError(f"{path} has no curve of validation losses: it is not a record of a band; move it away")
        every = differences(record["settings"], settings)
        differing = [name for name in every if not name.startswith(_SAME)]
        if any(name.startswith("data.") for name in differing):
            return None
        if score not in curve or any(name.startswith(_SCORED) for name in every if name not in _NOT_GREEDY):
            score = None
        curves.append(curve)
        changed |= set(differing)
    if len(curves) < 2:
        return None
    steps, losses = ([curve[name] for curve in curves] for name in ("step", "dev_loss"))
    return Band(steps, losses, [curve[score] for curve in curves] if score else [], sorted(changed))
