"""95% confidence intervals: of the mean over seeds, and of a score over sentences."""

import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

from sacrebleu.metrics.base import Metric
from sacrebleu.significance import PairedTest, Result

RESAMPLES = 1000

MOST_LINES = 20_000
"""The most lines of which a score is resampled: sacreBLEU holds the statistics of all samples in memory."""


class Interval(NamedTuple):
    """A mean over seeds or a difference of two, and half the width of its 95% confidence interval (None: unknown)."""

    mean: float
    half: float | None
    n: int
    """The number of seeds: of a difference, that of the first mean."""

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + self.margin()

    def signed(self) -> str:
        """Returns the text of a difference, which has a sign."""
        return f"{self.mean:+.2f}" + self.margin()

    def margin(self) -> str:
        """Returns the text of half the width, empty if there is none."""
        return "" if self.half is None else f" ± {self.half:.2f}"


def interval(values: list[float]) -> Interval:
    """Computes the mean of `values` and its 95% confidence interval by Student's t distribution."""
    from scipy.stats import t as student  # imported here, since importing it takes a second

    mean, n = statistics.fmean(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else None
    return Interval(mean, half, n)


class Pooled(NamedTuple):
    """The standard deviation over seeds, taken to be the same in every group, and its degrees of freedom."""

    deviation: float
    freedom: float

    def error(self, ours: list[float], theirs: list[float]) -> float:
        """Returns the standard error of the difference of two means."""
        return float(self.deviation * (1 / len(ours) + 1 / len(theirs)) ** 0.5)


def pooled(groups: Iterable[list[float]]) -> Pooled | None:
    """Estimates the deviation over seeds from all groups that have 2 values or more. None if it is 0 or none has."""
    several = [values for values in groups if len(values) > 1]
    freedom = sum(len(values) - 1 for values in several)
    squares = sum(statistics.variance(values) * (len(values) - 1) for values in several)
    return Pooled((squares / freedom) ** 0.5, freedom) if squares else None


def unequal(ours: Pooled, theirs: Pooled, n_ours: int, n_theirs: int) -> Pooled:
    """Returns what stands for both where the two means of a difference have deviations of their own.

    The standard error is that of Welch's t-test, and the degrees of freedom are those of Welch and Satterthwaite.
    """
    shares = [(each.deviation**2 / n, each.freedom) for each, n in ((ours, n_ours), (theirs, n_theirs))]
    variance = sum(share for share, _ in shares)
    freedom = variance**2 / sum(share**2 / freedom for share, freedom in shares)
    return Pooled((variance / (1 / n_ours + 1 / n_theirs)) ** 0.5, freedom)


def equal_variances(groups: Iterable[list[float]]) -> str:
    """Returns a sentence with the p-value of Bartlett's test that the variance over seeds is the same in all groups.

    It is empty for fewer than two groups that vary.
    """
    varying = [values for values in groups if len(values) > 1 and len(set(values)) > 1]
    if len(varying) < 2:
        return ""
    from scipy.stats import bartlett  # imported here, since importing it takes a second

    p = float(bartlett(*varying).pvalue)
    doubt = ", so that they are too narrow for rows that vary much" if p < 0.05 else ""
    return f"Bartlett's test of equal variances: p = {p:.2g}{doubt}."


def difference(ours: list[float], theirs: list[float], spread: Pooled, comparisons: int = 1) -> Interval:
    """Computes how far the mean of `ours` is from that of `theirs`.

    Args:
        comparisons: the number of intervals that contain the true difference with a joint probability of at least 95%
            (Bonferroni).
    """
    from scipy.stats import t as student  # imported here, since importing it takes a second

    half = float(student.ppf(1 - 0.05 / 2 / comparisons, spread.freedom)) * spread.error(ours, theirs)
    return Interval(statistics.fmean(ours) - statistics.fmean(theirs), half, len(ours))


def beside_control(control: list[float], others: dict[str, list[float]]) -> dict[str, Interval]:
    """Computes how far the mean of each of `others` is from that of `control`, for those with 2 values or more.

    The intervals are simultaneous: all together contain the true differences with a probability of at least 95%, if the
    variance over seeds is the same everywhere. It is estimated from all values.
    """
    compared = {name: values for name, values in others.items() if len(values) > 1}
    spread = pooled([control, *compared.values()])
    if len(control) < 2 or spread is None:
        return {}
    return {name: difference(values, control, spread, len(compared)) for name, values in compared.items()}


def welch(ours: list[float], theirs: list[float]) -> Any:
    """Returns SciPy's result of Welch's t-test, two-sided: that both have the same mean, each with its own variance.

    None with fewer than 2 values of one, or without any variance in both: the test says nothing.
    """
    if min(len(ours), len(theirs)) < 2 or len(set(ours)) == len(set(theirs)) == 1:
        return None
    from scipy.stats import ttest_ind  # imported here, since importing it takes a second

    return ttest_ind(ours, theirs, equal_var=False)


def welch_difference(ours: list[float], theirs: list[float]) -> Interval:
    """Computes how far the mean of `ours` is from that of `theirs`. Without a test (`welch`) it has no interval."""
    found = welch(ours, theirs)
    margin = found.confidence_interval() if found is not None else None
    half = float(margin.high - margin.low) / 2 if margin is not None else None
    return Interval(statistics.fmean(ours) - statistics.fmean(theirs), half, len(ours))


def p_value(ours: list[float], theirs: list[float]) -> float | None:
    """Computes the p-value of `welch`. Without any variance in both, it is 1 for equal values. Otherwise None."""
    found = welch(ours, theirs)
    if found is not None:
        return float(found.pvalue)
    return 1.0 if min(len(ours), len(theirs)) > 1 and ours[0] == theirs[0] else None


def pooled_p_value(ours: list[float], theirs: list[float], spread: Pooled) -> float:
    """Computes the p-value of a two-sided t-test with a pooled deviation: that both have the same mean."""
    from scipy.stats import t as student  # imported here, since importing it takes a second

    distance = abs(statistics.fmean(ours) - statistics.fmean(theirs))
    return float(2 * student.sf(distance / spread.error(ours, theirs), spread.freedom))


def corrected(p_values: list[float | None]) -> list[float | None]:
    """Corrects p-values for their number (Holm, 1979). None stays None, and does not count."""
    found = list(p_values)
    order = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = found[i] = min(1.0, max(largest, p * (len(order) - rank)))
    return found


def margin_of(metric: Metric, outputs: list[str], references: list[str]) -> float | None:
    """Returns half the width of the 95% interval of a corpus score, by sacreBLEU's bootstrap over its sentences.

    It says how the score of this model would vary over test sets like this one, and nothing about other seeds. None
    for a single line, or more than MOST_LINES.
    """
    if not 1 < len(outputs) <= MOST_LINES:
        return None
    # Not corpus_score(n_bootstrap=...): it fails for chrF when the score of a sample is exactly 0.
    found = PairedTest([("", outputs)], {"": metric}, [references], test_type="bs", n_samples=RESAMPLES)()[1]
    (result,) = (results[0] for name, results in found.items() if name != "System")
    assert isinstance(result, Result) and result.ci is not None
    return float(result.ci)
