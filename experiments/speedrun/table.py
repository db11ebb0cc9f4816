"""Renders the records of a track: a table as Markdown and CSV, and a figure of the score against FLOPs."""

import statistics
from pathlib import Path

from experiments.evaluation.intervals import p_value
from experiments.inspection.figures import Trained, draw_costs
from experiments.speedrun import effects
from experiments.speedrun.recipes import find_recipe
from experiments.speedrun.runner import PAPER, Record, folder_of, records_of
from experiments.speedrun.tracks import Track, find_track
from experiments.tables.render import formatted, mean, scores_of, write_text
from transformer.config import counted

COLUMNS = [
    "recipe", "what is changed", "date", "seeds", "steps", "target tokens", "FLOPs", "seconds", "PPL", "BLEU",
    "difference", "p", "FLOPs of the paper's", "p of less", "reached", "records",
]  # fmt: skip

SEEDS = 3
"""The fewest seeds of a record."""


def render_track(track: str, results: Path) -> list[Path]:
    """Writes TRACK.md, .csv and .png into results/speedrun/; where recipes are compared, TRACK-effects.md and .csv."""
    found, records = find_track(track), records_of(track, results)
    stem = folder_of(track, results)
    paper = records.get(PAPER, [])
    lines = [line_of(track, recipe, made, paper, before) for recipe, made, before in in_order(found, records)]
    runs = {recipe: [trained(record) for record in made] for recipe, made in records.items()}
    picture = stem.with_suffix(".png")
    draw_costs(runs, f"{track}: BLEU of the {found.split} text and loss of the validation text", picture)
    written = [*write_text(stem, ["# Speedrun: " + track, "", *notes(found, records)], COLUMNS, lines), picture]
    if found.stop_at == 0.0 and (told := effects.lines_of(records)):
        head = [f"# Speedrun: what each part adds on {track}", "", *effects.notes(records)]
        written += write_text(stem.with_name(f"{track}-effects"), head, effects.COLUMNS, told)
    return written


def in_order(track: Track, records: dict[str, list[Record]]) -> list[tuple[str, list[Record], list[Record]]]:
    """Returns recipes with their records and those of the record before: the newest first where a target is reached,
    the best first where recipes are compared."""
    if not track.stop_at:
        best = sorted(records.items(), key=lambda item: -statistics.fmean(scores_of(item[1], "BLEU")))
        return [(recipe, made, []) for recipe, made in best]
    dated = sorted(records.items(), key=lambda item: (item[0] != PAPER, max(record["date"] for record in item[1])))
    found: list[tuple[str, list[Record], list[Record]]] = []
    holder: list[Record] = []
    for recipe, made in dated:
        found.append((recipe, made, holder))
        if not holder or is_record(track, made, holder):
            holder = made
    return found[::-1]


def is_record(track: Track, made: list[Record], holder: list[Record]) -> bool:
    """Whether a recipe has fewer FLOPs than the record before, and reached the target with each of 3 seeds or more."""
    fewer = statistics.fmean(flops_of(made)) < statistics.fmean(flops_of(holder))
    return len(made) >= SEEDS and reached(track, made) == len(made) and fewer


def reached(track: Track, made: list[Record]) -> int:
    """Returns with how many seeds a recipe reached the target on the validation text."""
    return sum(max(score or 0.0 for score in record["curve"]["dev_bleu"]) >= (track.stop_at or 0.0) for record in made)


def line_of(name: str, recipe: str, made: list[Record], paper: list[Record], before: list[Record]) -> list[str]:
    """Returns the cells of a recipe on the track with this name."""
    track = find_track(name)
    bleu, flops = scores_of(made, "BLEU"), statistics.fmean(flops_of(made))
    theirs = scores_of(paper, "BLEU")
    compared = bool(paper) and recipe != PAPER
    seeds = [record["settings"]["train"]["seed"] for record in made]
    return [
        recipe,
        find_recipe(recipe).what,
        max(record["date"] for record in made)[:10],
        str(len(made)),
        f"{statistics.fmean(record['steps'] for record in made):,.0f}",
        f"{statistics.fmean(record['target_tokens'] for record in made) / 1e6:.2f} M",
        f"{flops:.3g}",
        f"{statistics.fmean(map(seconds_of, made)):,.0f}",
        mean([record["dev_ppl"] for record in made]),
        mean(bleu),
        f"{statistics.fmean(bleu) - statistics.fmean(theirs):+.2f}" if compared else "",
        formatted(p_value(bleu, theirs)) if compared else "",
        f"{flops / statistics.fmean(flops_of(paper)):.1%}" if paper else "",
        formatted(p_value(flops_of(made), flops_of(before))) if before else "",
        f"{reached(track, made)} of {len(made)}" if track.stop_at else "",
        " ".join(f"[{seed}]({name}/{recipe}-seed{seed}.json)" for seed in seeds),
    ]


def trained(record: Record) -> Trained:
    """Returns the points and the curve of a record in the figure."""
    curve = record["curve"]
    (score,) = scores_of([record], "BLEU")
    shares = [step / record["steps"] for step in curve["step"]]
    return Trained(record["train_flops"], seconds_of(record), score, shares, curve["dev_loss"])


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
    return [
        track.what + target,
        "",
        f"The budget is {track.share:.0%} of the FLOPs of the paper's recipe; a run ends {ends}. BLEU is of the "
        f"{track.split} text, by beam search. FLOPs are those of training as computed, with padding. Seconds are the "
        f"median of the last steps, times the number of steps; the track's machine is {track.machine}, and the records "
        f"are from {', '.join(hardware)}. ± is the 95% interval over seeds. p is that of Welch's t-test for a "
        f"difference in BLEU from the paper's recipe, p of less that for a difference in FLOPs from the record before; "
        f"reached is the number of seeds that reached the target. "
        f"{sum(record['train_hours'] for record in every):.1f} hours of training.",
    ]
