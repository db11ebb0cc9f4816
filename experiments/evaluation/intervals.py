"""The mean over seeds and its 95% confidence interval."""

import statistics
from typing import NamedTuple


class Interval(NamedTuple):
    """The mean over seeds, and half the width of its 95% confidence interval (None for a single seed)."""

    mean: float
    half: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.half:.2f}" if self.half is not None else "")


def interval(values: list[float]) -> Interval:
    """Computes the mean of `values` and its 95% confidence interval by Student's t distribution."""
    from scipy.stats import t as student  # imported here, since importing it takes a second

    mean, n = statistics.fmean(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else None
    return Interval(mean, half, n)
