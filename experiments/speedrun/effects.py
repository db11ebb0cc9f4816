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
)
from experiments.speedrun.budget import PAPER
from experiments.speedrun.records import same_vocabulary
from experiments.tables.render import formatted, percent, scores_of
from experiments.tables.runner import Record

COLUMNS = ["part", "added to", "seeds", "PPL", "p (PPL)", "BLEU", "p (BLEU)"]


class Comparison(NamedTuple):
    """A recipe with a part and one without it, and their records."""

    part: str
    rest: str
    made: list[Record]
    without: list[Record]

    def same_vocabulary(self) -> bool:
        """Whether the perplexities are of the same tokens, so that they can be compared."""
        return same_vocabulary(self.made[0], self.without[0])


def comparisons(records: dict[str, list[Record]]) -> list[Comparison]:
    """Returns all pairs of recipes that differ in one part, the part that lowers the perplexity most first."""
    found = []
    for recipe, made in records.items():
        parts = [part for part in recipe.split("+") if part != PAPER]
        for part in parts:
            rest = "+".join(other for other in parts if other != part) or PAPER
            if rest in records:
                found.append(Comparison(part, rest, made, records[rest]))
    return sorted(
        found,
        key=lambda pair: (not pair.same_vocabulary(), fmean(log_ppl(pair.made)) - fmean(log_ppl(pair.without))),
    )


def log_ppl(records: list[Record]) -> list[float]:
    """Returns the logarithm of each perplexity, whose deviation over seeds hardly depends on the recipe."""
    return [math.log(record["dev_ppl"]) for record in records]


def bleu(records: list[Record]) -> list[float]:
    """Returns the BLEU of each record."""
    return scores_of(records, "BLEU")


def notes(records: dict[str, list[Record]]) -> list[str]:
    """Returns the lines above the table of effects."""
    ppl, score = (pooled(map(values, records.values())) for values in (log_ppl, bleu))
    told = "it is not known yet."
    if ppl and score:
        told = (
            f"{ppl.deviation:.1%} of the perplexity and {score.deviation:.2f} BLEU, estimated with {ppl.freedom} "
            f"degrees of freedom. {equal_variances(map(log_ppl, records.values()))}"
        ).rstrip()
    return [
        "A sum of recipes is compared with the sum without one part: the perplexity of the validation text after the "
        "last step (not between vocabularies), and BLEU. "
        "± is the 95% interval of a difference alone; p is of a t-test, corrected for the comparisons of a column "
        "(Holm). Both take the standard deviation over seeds to be the same for every recipe: " + told
    ]


def lines_of(records: dict[str, list[Record]]) -> list[list[str]]:
    """Returns the lines of the table of effects: none if no two recipes differ in one part."""
    pairs = comparisons(records)
    scores = compared(pairs, pooled(map(bleu, records.values())), bleu)
    alike = [pair for pair in pairs if pair.same_vocabulary()]
    perplexities: list[tuple[Interval | None, float | None]] = [
        *compared(alike, pooled(map(log_ppl, records.values())), log_ppl),
        *[(None, None)] * (len(pairs) - len(alike)),  # the last pairs
    ]
    return [
        [
            pair.part,
            pair.rest,
            f"{len(pair.made)} and {len(pair.without)}",
            percent(ppl),
            formatted(p),
            gain.signed(),
            formatted(q),
        ]
        for pair, (ppl, p), (gain, q) in zip(pairs, perplexities, scores, strict=True)
    ]


def compared(
    pairs: list[Comparison], spread: Pooled | None, values: Callable[[list[Record]], list[float]]
) -> list[tuple[Interval, float | None]]:
    """Returns the difference of each pair in a value, and its p-value. None: the deviation over seeds is not known."""
    both = [(values(pair.made), values(pair.without)) for pair in pairs]
    if spread is None:
        return [(Interval(fmean(ours) - fmean(theirs), None, len(ours)), None) for ours, theirs in both]
    p_values = corrected([pooled_p_value(*pair, spread) for pair in both])
    return [(difference(*pair, spread), p) for pair, p in zip(both, p_values, strict=True)]
