"""`table 3`: trains what is missing of a table of the paper, and renders it from records and from nothing else.

Records stand in experiments/results/table3-SCALE/, one for each row and seed; beside that folder the table as
Markdown, CSV and a picture. A row without a record stays empty.
"""

import csv
import io
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from experiments.evaluate import evaluate
from experiments.figures import draw_ratios
from experiments.paper import TABLE3, Row
from experiments.records import read_record, write_record
from experiments.scales import SCALES
from experiments.train import train
from experiments.translator import Translator
from experiments.workdir import write_whole
from transformer.config import Experiment, UserError

Log = Callable[[str], None]
Record = dict[str, Any]


class Interval(NamedTuple):
    """The mean over seeds, and half the width of its 95% interval (None for a single seed, which has none)."""

    mean: float
    half: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f}" + (f" ± {self.half:.2f}" if self.half is not None else "")


def interval(values: list[float]) -> Interval:
    """By Student's t."""
    from scipy.stats import t as student  # here, since importing it takes a second

    mean, n = statistics.fmean(values), len(values)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(values) / n**0.5 if n > 1 else None
    return Interval(mean, half, n)


def experiment_of(row: Row, scale: str, seed: int) -> Experiment:
    """The experiment of a row: base as the scale has it, with the row's change."""
    changed = row.change(SCALES[scale])
    return replace(changed, name=f"table3-{scale}-{row.name}", train=replace(changed.train, seed=seed))


def fill_table3(scale: str, seeds: int, rows: list[str], runs: Path, results: Path, log: Log) -> None:
    """Trains and evaluates every row that has no record yet: last checkpoint, not averaged, on the dev set."""
    for seed in range(seeds):
        for row in TABLE3:
            name = f"{row.name}-seed{seed}"
            record = results / f"table3-{scale}" / f"{name}.json"
            if (rows and row.name not in rows) or record.exists():
                continue
            log(f"--- {row.name} ({row.what or 'base'}), seed {seed}")
            run = train(experiment_of(row, scale, seed), runs / f"table3-{scale}" / name, log)
            result = evaluate(run, Translator.load(run.path, "last", log), "dev", log)
            write_record(record, read_record(result.record))


def records_of(folder: Path) -> dict[str, list[Record]]:
    """Records by row. UserError if they were not all made by one protocol, or were edited."""
    found: dict[str, list[Record]] = {}
    protocol: tuple[str, Path] | None = None
    for path in sorted(folder.glob("*.json")):
        record = read_record(path)
        this = str([record["corpus"], record["split"], record["vocabulary"], record["settings"]["decode"],
                    len(record["checkpoints"]), [score["signature"] for score in record["scores"]]])  # fmt: skip
        protocol = protocol or (this, path)
        if this != protocol[0]:
            raise UserError(
                f"{path} and {protocol[1]} were not scored by the same protocol: one table cannot hold both"
            )
        found.setdefault(path.stem.rpartition("-seed")[0], []).append(record)
    return found


def mean_of(records: list[Record], name: str) -> str:
    """A score of several records; empty where they were not scored so."""
    values = [score["value"] for record in records for score in record["scores"] if score["name"] == name]
    return str(interval(values)) if values else ""


def render_table3(scale: str, results: Path) -> list[Path]:
    """Writes table3-SCALE.md, .csv and .png."""
    records = records_of(results / f"table3-{scale}")
    columns = ["row", "change", "parameters", "PPL (paper)", "PPL", "BLEU-split (paper)", "BLEU-split", "BLEU", "n"]
    lines: list[list[str]] = []
    for row in TABLE3:
        paper = [f"{row.ppl:.2f}", f"{row.bleu:.1f}"]
        made = records.get(row.name, [])
        if not made:
            lines.append([row.name, row.what, "", paper[0], "", paper[1], "", "", "0"])
            continue
        ppl = str(interval([record["dev_ppl"] for record in made]))
        split, bleu = mean_of(made, "BLEU-split"), mean_of(made, "BLEU")
        parameters = f"{made[0]['parameters']:,}"
        lines.append([row.name, row.what, parameters, paper[0], ppl, paper[1], split, bleu, str(len(made))])
    stem = results / f"table3-{scale}"
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    write_whole(stem.with_suffix(".csv"), text.getvalue().encode())
    markdown = [f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines]]
    head = [f"# Table 3, scale: {scale}", "", notes(scale, records), ""]
    write_whole(stem.with_suffix(".md"), "\n".join([*head, *markdown, ""]).encode())
    base = statistics.fmean([record["dev_ppl"] for record in records.get("base", [])] or [math.nan])
    ratios = {
        f"{row.name}\n{row.what}": (row.ppl / TABLE3[0].ppl, [r["dev_ppl"] / base for r in records.get(row.name, [])])
        for row in TABLE3
    }
    picture = draw_ratios(ratios, "Table 3: perplexity / base's", stem.with_suffix(".png"))
    return [stem.with_suffix(".md"), stem.with_suffix(".csv"), picture]


def notes(scale: str, records: dict[str, list[Record]]) -> str:
    """What a reader must know before the first number."""
    every = [record for made in records.values() for record in made]
    if not every:
        return "No record yet."
    first = every[0]
    not_paper = "" if scale == "paper" else "**These are not the paper's numbers**: other data, a far smaller model. "
    hours = sum(record["train_hours"] for record in every)
    return (
        f"{not_paper}{first['corpus']}, {first['split']} set, {first['steps']:,} steps for base, last checkpoint, beam "
        f"{first['settings']['decode']['beam']}, alpha {first['settings']['decode']['alpha']}. PPL is per token of the "
        f"validation text. ± is the 95% interval over seeds (n = 1: no interval). "
        f"{len(every)} records in table3-{scale}/, {hours:.1f} hours of training."
    )
