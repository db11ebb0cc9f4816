"""Renders the records of a track: a table as Markdown and CSV, and a figure of the score against FLOPs."""

import math
import statistics
from pathlib import Path
from typing import NamedTuple

from experiments.evaluation.intervals import corrected, p_value, welch_difference
from experiments.evaluation.records import trained_on
from experiments.inspection.figures import Trained, draw_costs
from experiments.speedrun import effects
from experiments.speedrun.budget import PAPER
from experiments.speedrun.recipes import find_recipe
from experiments.speedrun.records import first_reached, folder_of, records_of, same_vocabulary, seed_of
from experiments.speedrun.tracks import Track, find_track
from experiments.tables.render import formatted, mean, scores_of, write_text
from experiments.tables.runner import Record

COLUMNS = [
    "recipe", "what is changed", "date", "seeds", "steps", "target tokens", "FLOPs", "FLOPs, of paper's", "seconds",
    "PPL", "BLEU", "difference", "p", "reached", "record", "p of FLOPs", "evidence",
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
    """Writes TRACK.md, .csv and .png into results/speedrun/; where recipes are compared, TRACK-effects.md and .csv.

    It writes nothing if there is no record.
    """
    found, records = find_track(track), records_of(track, results)
    if not records:
        return []
    stem = folder_of(track, results)
    paper = records.get(PAPER, [])
    ordered = in_order(found, records)
    cells = [cells_of(track, line, paper, p) for line, p in zip(ordered, p_values(ordered, paper), strict=True)]
    shown = columns_of(found)
    runs = {line.recipe: [trained(record, paper) for record in line.made] for line in ordered}
    picture = stem.with_suffix(".png")
    draw_costs(runs, f"{track}\n{caption(found)}", picture, found.stop_at or None)
    lines = [[row[column] for column in shown] for row in cells]
    written = [*write_text(stem, ["# Speedrun: " + track, "", *notes(found, records)], shown, lines), picture]
    if found.stop_at == 0.0 and (told := effects.lines_of(records)):
        head = [f"# Speedrun: what each part adds on {track}", "", *effects.notes(records)]
        written += write_text(stem.with_name(f"{track}-effects"), head, effects.COLUMNS, told)
    return written


def caption(track: Track) -> str:
    """Returns what the lines and the points in the figure are: scores of different texts."""
    lines = track.base.train.eval_sentences if track.stop_at == 0.0 else "all"
    target = "; dashed: their target" if track.stop_at else ""
    return (
        f"lines: BLEU of greedy translations of {lines} validation sentences{target}; points: of the "
        f"{scored_text(track)} by beam search"
    )


def scored_text(track: Track) -> str:
    """Returns how a reader calls the text that is scored at the end."""
    return f"{'validation' if track.split == 'dev' else track.split} text"


def columns_of(track: Track) -> list[str]:
    """Returns the columns of a track: only where runs end at a target does one hold the record."""
    without = set() if track.stop_at else {"record", "p of FLOPs"}
    if not (track.stop_at or track.target):
        without.add("reached")
    return [column for column in COLUMNS if column not in without]


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
    if not holder or reached(track, made) < SEEDS:
        return False
    return statistics.fmean(flops_of(made)) < statistics.fmean(flops_of(holder))


def reached(track: Track, made: list[Record]) -> int:
    """Returns with how many seeds a recipe reached the target of the validation text, or of the text that is scored."""
    if track.target:
        return sum(score >= track.target for score in scores_of(made, "BLEU"))
    return sum(first_reached(record, track.stop_at or 0.0) is not None for record in made)


def p_values(lines: list[Line], paper: list[Record]) -> list[float | None]:
    """Returns the p-value of each recipe's difference in BLEU from the paper's, corrected for their number."""
    theirs = scores_of(paper, "BLEU")
    return corrected(
        [None if line.recipe == PAPER else p_value(scores_of(line.made, "BLEU"), theirs) for line in lines]
    )


def cells_of(name: str, line: Line, paper: list[Record], p: float | None) -> dict[str, str]:
    """Returns the cells of a recipe on the track with this name, by column."""
    track, made = find_track(name), line.made
    bleu, flops = scores_of(made, "BLEU"), statistics.fmean(flops_of(made))
    compared = bool(paper) and line.recipe != PAPER
    return {
        "recipe": line.recipe,
        "what is changed": find_recipe(line.recipe).what,
        "date": made_on(made)[:10],
        "seeds": str(len(made)),
        "steps": f"{statistics.fmean(record['steps'] for record in made):,.0f}",
        "target tokens": f"{statistics.fmean(record['target_tokens'] for record in made) / 1e6:.2f} M",
        "FLOPs": f"{flops:.3g}",
        "FLOPs, of paper's": f"{flops / statistics.fmean(flops_of(paper)):.1%}" if paper else "",
        "seconds": f"{statistics.fmean(map(seconds_of, made)):,.0f}",
        "PPL": mean([record["dev_ppl"] for record in made]) if same_vocabulary(made[0], (paper or made)[0]) else "",
        "BLEU": mean(bleu),
        "difference": welch_difference(bleu, scores_of(paper, "BLEU")).signed() if compared else "",
        "p": formatted(p),
        "reached": f"{reached(track, made)} of {len(made)}" if track.stop_at or track.target else "",
        "record": "yes" if line.record else "",
        "p of FLOPs": formatted(p_value(flops_of(made), flops_of(line.before))) if line.before else "",
        "evidence": " ".join(f"[{seed}]({name}/{line.recipe}-seed{seed}.json)" for seed in map(seed_of, made)),
    }


def trained(record: Record, paper: list[Record]) -> Trained:
    """Returns the points of a record in the figure, and its curves, without a loss of other tokens."""
    curve = record["curve"]
    (score,) = scores_of([record], "BLEU")
    shares = [step / record["steps"] for step in curve["step"]]
    scores = [math.nan if value is None else value for value in curve["dev_bleu"]]
    losses = curve["dev_loss"] if same_vocabulary(record, (paper or [record])[0]) else [math.nan] * len(shares)
    return Trained(record["train_flops"], seconds_of(record), score, shares, scores, losses)


def seconds_of(record: Record) -> float:
    """Returns the seconds of a training: the median of a step, times the steps."""
    return float(record["steps"] * record["step_seconds"])


def flops_of(records: list[Record]) -> list[float]:
    """Returns the FLOPs of each training, as they were computed: including padding."""
    return [float(record["train_flops"]) for record in records]


def notes(track: Track, records: dict[str, list[Record]]) -> list[str]:
    """Returns the lines above a table."""
    every = [record for made in records.values() for record in made]
    hardware = sorted({trained_on(record) for record in every})
    ends = "when it is used up"
    if track.stop_at:
        ends += (
            f", and, unless its recipe is the paper's, when greedy search with the newest checkpoint reaches BLEU "
            f"{track.stop_at:g} on the validation text"
        )
    target = f" The target is BLEU {track.target:g}." if track.target else ""
    records_told = ""
    if track.stop_at or track.target:
        records_told = " Reached is the number of seeds that reached the target."
    if track.stop_at:
        records_told += (
            " p of FLOPs is that of Welch's t-test for a difference in FLOPs from the record before; it is empty where "
            "FLOPs do not vary over seeds."
        )
    return [
        track.what + target,
        "",
        f"The budget is {track.share:.0%} of the FLOPs of all {track.base.train.steps:,} steps of the paper's recipe; "
        f"a run ends {ends}. BLEU is of the {scored_text(track)}, by beam search. PPL is of the validation text after "
        f"the last step, also where the average of several checkpoints is scored, and empty for another vocabulary. "
        f"FLOPs are those of training as computed, with padding. Seconds are the median of the last steps, times the "
        f"number of steps; the track's machine is {track.machine}, and the records are from {'; '.join(hardware)}. ± "
        f"is a 95% confidence interval over seeds. The difference in BLEU from the paper's recipe, its interval and "
        f"its p are those of Welch's t-test, which needs two seeds of both; p is corrected for the number of recipes "
        f"(Holm).{records_told} {sum(record['train_hours'] for record in every):.1f} hours of training.",
    ]
