"""What each part of a recipe adds: sums of recipes, each compared with the same sum without one of its parts."""

import math
from collections.abc import Callable
from statistics import fmean
from typing import NamedTuple

from experiments.evaluation.intervals import (
    Interval,
    Pooled,
    corrected,
    difference,
    equal_variances,
    pooled,
    pooled_p_value,
    unequal,
)
from experiments.speedrun.budget import PAPER
from experiments.speedrun.records import same_vocabulary
from experiments.tables.render import formatted, percent, scores_of
from experiments.tables.runner import Record

Values = Callable[[list[Record]], list[float]]
"""A value of each of the records of a recipe."""

COLUMNS = ["part", "added to", "seeds", "PPL", "p (PPL)", "BLEU", "p (BLEU)"]


class Comparison(NamedTuple):
    """A recipe with a part and one without it, and their records."""

    part: str
    rest: str
    made: list[Record]
    without: list[Record]

    def norms(self) -> tuple[str, str]:
        """Returns where the two have their normalization, which tells how much they vary."""
        return norm_of(f"{self.rest}+{self.part}"), norm_of(self.rest)

    def comparable(self) -> bool:
        """Whether perplexities after the last step can be compared: of the same tokens, and both or neither decayed.

        Recipes whose schedule ends with a decay of the rate have their last checkpoint scored.
        """
        ours, theirs = self.made[0], self.without[0]
        return same_vocabulary(ours, theirs) and (ours["selection"] == "last") == (theirs["selection"] == "last")


def comparisons(records: dict[str, list[Record]]) -> list[Comparison]:
    """Returns all pairs of recipes that differ in one part, the part that raises BLEU most first."""
    found = []
    for recipe, made in records.items():
        parts = [part for part in recipe.split("+") if part != PAPER]
        for part in parts:
            rest = "+".join(other for other in parts if other != part) or PAPER
            if rest in records:
                found.append(Comparison(part, rest, made, records[rest]))
    return sorted(found, key=lambda pair: fmean(bleu(pair.without)) - fmean(bleu(pair.made)))


def log_ppl(records: list[Record]) -> list[float]:
    """Returns the logarithm of each perplexity, whose deviation over seeds hardly depends on its size."""
    return [math.log(record["dev_ppl"]) for record in records]


def bleu(records: list[Record]) -> list[float]:
    """Returns the BLEU of each record."""
    return scores_of(records, "BLEU")


def norm_of(recipe: str) -> str:
    """Returns where a recipe has its normalization. With post-norm, a run may fail where another seed does not."""
    return "pre-norm" if "pre-norm" in recipe.split("+") else "post-norm"


def spreads(records: dict[str, list[Record]], values: Values) -> dict[str, Pooled | None]:
    """Returns the deviation over seeds of a value, of recipes with pre-norm and with post-norm."""
    return {norm: pooled(map(values, of_norm(records, norm))) for norm in ("pre-norm", "post-norm")}


def of_norm(records: dict[str, list[Record]], norm: str) -> list[list[Record]]:
    """Returns the records of each recipe with a norm."""
    return [made for recipe, made in records.items() if norm_of(recipe) == norm]


def notes(records: dict[str, list[Record]]) -> list[str]:
    """Returns the lines above the table of effects."""
    told = []
    for text, values in (("{:.1%} of the perplexity", log_ppl), ("{:.2f} BLEU", bleu)):
        for norm, spread in spreads(records, values).items():
            if spread:
                test = equal_variances(map(values, of_norm(records, norm))).rstrip(".")
                freedom = f"{spread.freedom:g} degrees of freedom"
                told.append(f"{text.format(spread.deviation)} with {norm} ({'; '.join(filter(None, (freedom, test)))})")
    return [
        "A sum of recipes is compared with the sum without one part: the perplexity of the validation text after the "
        "last step (not between vocabularies, and not between schedules with and without a final decay), and BLEU of "
        "what is scored. ± is the individual 95% confidence interval of a difference; p is of a t-test, corrected for "
        "the comparisons of a column (Holm). Both need the standard deviation over seeds, which is taken to be the "
        f"same for all recipes with pre-norm, and for all with post-norm: {', '.join(told) or 'not known yet'}."
    ]


def lines_of(records: dict[str, list[Record]]) -> list[list[str]]:
    """Returns the lines of the table of effects: none if no two recipes differ in one part."""
    pairs = comparisons(records)
    scores = compared(pairs, spreads(records, bleu), bleu)
    perplexities = iter(compared([pair for pair in pairs if pair.comparable()], spreads(records, log_ppl), log_ppl))
    lines = []
    for pair, (gain, q) in zip(pairs, scores, strict=True):
        ppl, p = next(perplexities) if pair.comparable() else (None, None)
        seeds = f"{len(pair.made)} and {len(pair.without)}"
        lines.append([pair.part, pair.rest, seeds, percent(ppl), formatted(p), gain.signed(), formatted(q)])
    return lines


def compared(
    pairs: list[Comparison], spread: dict[str, Pooled | None], values: Values
) -> list[tuple[Interval, float | None]]:
    """Returns the difference of each pair in a value, and its p-value. None: the deviation over seeds is not known."""
    found: list[tuple[Interval, float | None]] = []
    for pair in pairs:
        ours, theirs = values(pair.made), values(pair.without)
        one, other = (spread[norm] for norm in pair.norms())
        if one and other:
            both = one if one is other else unequal(one, other, len(ours), len(theirs))
            found.append((difference(ours, theirs, both), pooled_p_value(ours, theirs, both)))
        else:
            found.append((Interval(fmean(ours) - fmean(theirs), None, len(ours)), None))
    return [(gain, p) for (gain, _), p in zip(found, corrected([p for _, p in found]), strict=True)]
