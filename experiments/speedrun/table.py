"""Renders the records of a track: a table as Markdown and CSV, and a figure of the score against FLOPs."""

import math
import statistics
from pathlib import Path
from typing import NamedTuple

from experiments.evaluation.intervals import corrected, p_value, welch_difference
from experiments.inspection.figures import Trained, draw_costs
from experiments.speedrun import effects
from experiments.speedrun.budget import PAPER
from experiments.speedrun.recipes import find_recipe
from experiments.speedrun.records import best_score, folder_of, records_of, same_vocabulary
from experiments.speedrun.tracks import Track, find_track
from experiments.tables.render import formatted, mean, scores_of, write_text
from experiments.tables.runner import Record
from transformer.config import counted

COLUMNS = [
    "recipe", "what is changed", "date", "seeds", "steps", "target tokens", "FLOPs", "seconds", "PPL", "BLEU",
    "difference", "p", "FLOPs, of paper's", "p of FLOPs", "reached", "record", "records",
]  # fmt: skip

SEEDS = 3
"""The fewest seeds of a record."""


class Line(NamedTuple):
    """A recipe in the table."""

    recipe: str
    made: list[Record]
    before: list[Record]
    """Those of the recipe that held the record before: none on a track where recipes are compared."""
    record: bool = False
    """Whether it held the record when it was made."""


def render_track(track: str, results: Path) -> list[Path]:
    """Writes TRACK.md, .csv and .png into results/speedrun/; where recipes are compared, TRACK-effects.md and .csv."""
    found, records = find_track(track), records_of(track, results)
    stem = folder_of(track, results)
    paper = records.get(PAPER, [])
    ordered = in_order(found, records)
    lines = [cells_of(track, line, paper, p) for line, p in zip(ordered, p_values(ordered, paper), strict=True)]
    runs = {line.recipe: [trained(record, paper) for record in line.made] for line in ordered}
    picture = stem.with_suffix(".png")
    scored = "" if found.split == "dev" else f" of the {found.split} text"
    draw_costs(runs, f"{track}: BLEU{scored} and loss of the validation text", picture)
    written = [*write_text(stem, ["# Speedrun: " + track, "", *notes(found, records)], COLUMNS, lines), picture]
    if found.stop_at == 0.0 and (told := effects.lines_of(records)):
        head = [f"# Speedrun: what each part adds on {track}", "", *effects.notes(records)]
        written += write_text(stem.with_name(f"{track}-effects"), head, effects.COLUMNS, told)
    return written


def in_order(track: Track, records: dict[str, list[Record]]) -> list[Line]:
    """Returns recipes, each with the one that held the record before: the newest first where a target is reached, the
    best first where recipes are compared."""
    if not track.stop_at:
        best = sorted(records.items(), key=lambda item: -statistics.fmean(scores_of(item[1], "BLEU")))
        return [Line(recipe, made, []) for recipe, made in best]
    found: list[Line] = []
    holder: list[Record] = []
    for recipe, made in sorted(records.items(), key=lambda item: (item[0] != PAPER, made_on(item[1]))):
        starts = recipe == PAPER and len(made) >= SEEDS
        found.append(Line(recipe, made, holder, starts or is_record(track, made, holder)))
        if found[-1].record:
            holder = made
    return found[::-1]


def first(made: list[Record]) -> list[Record]:
    """Returns the first records of a recipe, as many as a record of the track needs: later seeds change no history."""
    return sorted(made, key=lambda record: record["date"])[:SEEDS]


def made_on(made: list[Record]) -> str:
    """Returns the time at which a recipe had as many seeds as it needs."""
    return str(first(made)[-1]["date"])


def is_record(track: Track, made: list[Record], holder: list[Record]) -> bool:
    """Whether a recipe has fewer FLOPs than the record before, and reached the target with each of its first seeds."""
    made, holder = first(made), first(holder)
    if not holder or len(made) < SEEDS or reached(track, made) < SEEDS:
        return False
    return statistics.fmean(flops_of(made)) < statistics.fmean(flops_of(holder))


def reached(track: Track, made: list[Record]) -> int:
    """Returns with how many seeds a recipe reached the target on the validation text."""
    return sum(best_score(record) >= (track.stop_at or 0.0) for record in made)


def p_values(lines: list[Line], paper: list[Record]) -> list[float | None]:
    """Returns the p-value of each recipe's difference in BLEU from the paper's, corrected for their number."""
    theirs = scores_of(paper, "BLEU")
    return corrected(
        [None if line.recipe == PAPER else p_value(scores_of(line.made, "BLEU"), theirs) for line in lines]
    )


def cells_of(name: str, line: Line, paper: list[Record], p: float | None) -> list[str]:
    """Returns the cells of a recipe on the track with this name."""
    track, made = find_track(name), line.made
    bleu, flops = scores_of(made, "BLEU"), statistics.fmean(flops_of(made))
    compared = bool(paper) and line.recipe != PAPER
    seeds = [record["settings"]["train"]["seed"] for record in made]
    return [
        line.recipe,
        find_recipe(line.recipe).what,
        made_on(made)[:10],
        str(len(made)),
        f"{statistics.fmean(record['steps'] for record in made):,.0f}",
        f"{statistics.fmean(record['target_tokens'] for record in made) / 1e6:.2f} M",
        f"{flops:.3g}",
        f"{statistics.fmean(map(seconds_of, made)):,.0f}",
        mean([record["dev_ppl"] for record in made]) if same_vocabulary(made[0], (paper or made)[0]) else "",
        mean(bleu),
        welch_difference(bleu, scores_of(paper, "BLEU")).signed() if compared else "",
        formatted(p),
        f"{flops / statistics.fmean(flops_of(paper)):.1%}" if paper else "",
        formatted(p_value(flops_of(made), flops_of(line.before))) if line.before else "",
        f"{reached(track, made)} of {len(made)}" if track.stop_at else "",
        "yes" if line.record else "",
        " ".join(f"[{seed}]({name}/{line.recipe}-seed{seed}.json)" for seed in seeds),
    ]


def trained(record: Record, paper: list[Record]) -> Trained:
    """Returns the points of a record in the figure, and its curve unless it is of other tokens."""
    curve = record["curve"]
    (score,) = scores_of([record], "BLEU")
    shares = [step / record["steps"] for step in curve["step"]]
    losses = curve["dev_loss"] if same_vocabulary(record, (paper or [record])[0]) else [math.nan] * len(shares)
    return Trained(record["train_flops"], seconds_of(record), score, shares, losses)


def seconds_of(record: Record) -> float:
    """Returns the seconds of a training: the median of a step, times the steps."""
    return float(record["steps"] * record["step_seconds"])


def flops_of(records: list[Record]) -> list[float]:
    """Returns the FLOPs of each training, as they were computed: including padding."""
    return [float(record["train_flops"]) for record in records]


def notes(track: Track, records: dict[str, list[Record]]) -> list[str]:
    """Returns the lines above a table."""
    every = [record for made in records.values() for record in made]
    if not every:
        return [track.what, "", "No record yet."]
    hardware = sorted(
        {f"{record['hardware']['device']}, {counted(record['hardware']['cores'], 'core')}" for record in every}
    )
    ends = f"when greedy search reaches BLEU {track.stop_at:g} on the validation text" if track.stop_at else "with it"
    target = f" The target is BLEU {track.target:g}." if track.target else ""
    text = "validation" if track.split == "dev" else track.split
    records_told = (
        " p of FLOPs is that of Welch's t-test for a difference in FLOPs from the record before; reached is the number "
        "of seeds that reached the target."
        if track.stop_at
        else ""
    )
    return [
        track.what + target,
        "",
        f"The budget is {track.share:.0%} of the FLOPs of all {track.base.train.steps:,} steps of the paper's recipe; "
        f"a run ends {ends}. BLEU is of the {text} text, by beam search. PPL is of the validation text after the last "
        f"step, and empty for another vocabulary. FLOPs are those of training as computed, with padding. Seconds are "
        f"the median of the last steps, times the number of steps; the track's machine is {track.machine}, and the "
        f"records are from {', '.join(hardware)}. ± is the 95% interval over seeds, of a difference by Welch. p is "
        f"that of Welch's t-test for a difference in BLEU from the paper's recipe, corrected for the number of recipes "
        f"(Holm).{records_told} "
        f"{sum(record['train_hours'] for record in every):.1f} hours of training.",
    ]
