"""Renders the paper's tables as Markdown, CSV and a figure, from records only.

A row without a record stays empty.
"""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from experiments.evaluation.intervals import Interval, beside_control, equal_variances, interval
from experiments.evaluation.records import read_record, trained_on
from experiments.inspection.figures import Beside, draw_beside, draw_growth
from experiments.presets.paper import SYSTEMS, TABLE2, TABLE3, Row
from experiments.presets.parsing import TABLE4
from experiments.tables.complexity import KINDS, LATER, K, R, table1_record
from experiments.tables.runner import Number, Record, folder_of, records_of
from experiments.workdir import write_whole
from transformer.config import Experiment, UserError, counted
from transformer.flops import train_flops


def render_table(table: Number, scale: str, results: Path) -> list[Path]:
    """Writes tableN-SCALE.md, .csv and .png."""
    return {2: render_table2, 3: render_table3, 4: render_table4}[table](scale, results)


def render_table1(results: Path) -> list[Path]:
    """Writes table1.md, .csv and .png from the record in table1/."""
    path = table1_record(results)
    if not path.exists():
        return write_text(results / "table1", ["# Table 1", "", "No record yet."], ["layer"], [])
    record = read_record(path)
    if "layers" not in record:
        raise UserError(f"{path} is not the record of Table 1")
    measured = {row["layer"]: row for row in record["layers"]}
    kinds = [kind for kind in (*KINDS, *LATER) if kind.name in measured]
    lengths, d = record["lengths"], record["d"]
    columns = [
        "layer", "n", "complexity (paper)", "multiplications by that", "counted", "time grows as",
        "sequential (paper)", "counted", "path (paper)", "found",
    ]  # fmt: skip
    lines = []
    for kind in kinds:
        row = measured[kind.name]
        for i, n in enumerate(lengths):
            lines.append(
                [
                    kind.name,
                    str(n),
                    kind.cost,
                    f"{kind.multiplications(n, d):,.0f}",
                    f"{row['multiplications'][i]:,}",
                    f"n^{row['growth']:.2f}",
                    kind.sequential,
                    str(row["sequential"][i]),
                    kind.path,
                    str(row["path"][i]),
                ]
            )
    head = [
        "# Table 1",
        "",
        f"One layer in its simplest form, d = {d}, kernel width k = {K}, neighbourhood r = {R}. The paper has the "
        f"first four kinds; the others are those of transformer/variants/long, whose formulas are ours. Counted in the "
        f"traced program; the growth of the measured time is fitted over all n, on {record['hardware']['device']}, "
        f"{record['hardware']['processor']}, {counted(record['hardware']['cores'], 'core')}.",
    ]
    curves = {kind.name: measured[kind.name]["seconds"] for kind in kinds}
    stem = results / "table1"
    path = stem.with_suffix(".png")
    picture = draw_growth(lengths, curves, f"Table 1: time of one layer, d = {d}", path)
    return [*write_text(stem, head, columns, lines), picture]


def render_table2(scale: str, results: Path) -> list[Path]:
    """Renders Table 2: both language pairs, with the other systems as the paper quotes them."""
    records = records_of(2, scale, results)
    columns = [
        "pair", "system", "BLEU-split (paper)", "BLEU-split", "difference", "BLEU", "chrF2",
        "FLOPs (paper)", "FLOPs, counted", "record",
    ]  # fmt: skip
    lines: list[list[str]] = []
    for side, pair in enumerate(("en-de", "en-fr")):
        for system in SYSTEMS:
            bleu, flops = system.bleu[side], system.flops[side]
            if bleu is not None:
                lines.append([pair, system.name, f"{bleu}", "", "", "", "", f"{flops:.1e}" if flops else "", "", ""])
        for model in TABLE2:
            if model.pair != pair:
                continue
            made = records.get(f"{pair}-{model.name}", [])
            ours = scores_of(made, "BLEU-split")
            row = [pair, f"Transformer ({model.name})", f"{model.bleu}", mean(ours), difference(ours, model.bleu)]
            row += [mean(scores_of(made, "BLEU")), mean(scores_of(made, "chrF2")), f"{model.flops:.1e}"]
            row += [f"{counted_flops(made[0]):.1e}" if made else "", links(2, scale, f"{pair}-{model.name}", made)]
            lines.append(row)
    picture = Beside(
        f"Table 2, scale {scale}: BLEU of the test set{elsewhere(scale)}",
        "BLEU",
        ("paper, BLEU-split", "ours, BLEU, each seed"),
        {
            f"{model.pair} {model.name}": (model.bleu, scores_of(records.get(f"{model.pair}-{model.name}", []), "BLEU"))
            for model in sorted(TABLE2, key=lambda model: model.pair)  # as in the table
        },
    )
    return write_table(2, scale, results, columns, lines, records, picture)


def render_table3(scale: str, results: Path) -> list[Path]:
    """Renders Table 3: the variations of the base model."""
    records = records_of(3, scale, results)
    columns = [
        "row", "change", "parameters (paper)", "parameters", "PPL (paper)", "PPL", "of base (paper)", "of base",
        "BLEU-split (paper)", "BLEU-split", "difference", "BLEU", "record",
    ]  # fmt: skip
    logs = {name: [math.log(record["dev_ppl"]) for record in made] for name, made in records.items()}
    told_of_variance = equal_variances(logs.values())
    changes = beside_control(logs.pop("base", []), logs)
    lines: list[list[str]] = []
    for row in TABLE3:
        made = records.get(row.name, [])
        ours = scores_of(made, "BLEU-split")
        line = [row.name, row.what, f"{row.parameters} M" if row.parameters else ""]
        line += [f"{made[0]['parameters']:,}" if made else "", f"{row.ppl:.2f}"]
        line += [mean([record["dev_ppl"] for record in made])]
        line += ["" if row.name == "base" else f"{row.ppl / TABLE3[0].ppl - 1:+.1%}", percent(changes.get(row.name))]
        line += [f"{row.bleu:.1f}", mean(ours), difference(ours, row.bleu), mean(scores_of(made, "BLEU"))]
        line += [links(3, scale, row.name, made)]
        lines.append(line)
    ppl = {name: statistics.fmean(record["dev_ppl"] for record in made) for name, made in records.items()}
    base = ppl.get("base", math.nan)
    picture = Beside(
        f"Table 3, scale {scale}: perplexity of each row, base = 1{elsewhere(scale)}",
        "validation perplexity / that of base",
        ("paper", "ours, each seed"),
        {
            label_of(row): (row.ppl / TABLE3[0].ppl, [r["dev_ppl"] / base for r in records.get(row.name, [])])
            for row in TABLE3
        },
        base=1.0,
    )
    told = [*order({row.name: row.ppl for row in TABLE3}, ppl), *agreement(changes, told_of_variance)]
    return write_table(3, scale, results, columns, lines, records, picture, told)


def render_table4(scale: str, results: Path) -> list[Path]:
    """Renders Table 4: parsers, with those by other authors as the paper quotes them."""
    records = records_of(4, scale, results)
    columns = [
        "parser", "training", "F1 (paper)", "F1", "difference", "precision", "recall", "complete match", "trees",
        "record",
    ]  # fmt: skip
    lines: list[list[str]] = []
    for parser in TABLE4:
        made = records.get(parser.row or "", [])
        ours = scores_of(made, "F1")
        line = [parser.name, parser.training, f"{parser.f1}", mean(ours), difference(ours, parser.f1)]
        line += [mean(scores_of(made, name)) for name in ("precision", "recall", "complete match")]
        line += [f"{made[0]['data']['splits']['train']['kept']:,}" if made else ""]
        lines.append([*line, links(4, scale, parser.row or "", made)])
    picture = Beside(
        f"Table 4, scale {scale}: F1 of the test set{elsewhere(scale)}",
        "F1",
        ("paper", "ours, each seed"),
        {
            f"{parser.name},\n{parser.training.partition(',')[0]}": (
                parser.f1,
                scores_of(records.get(parser.row or "", []), "F1"),
            )
            for parser in TABLE4
        },
    )
    return write_table(4, scale, results, columns, lines, records, picture)


def label_of(row: Row) -> str:
    """Returns the name of a row and its change; only the name if it already says what is changed."""
    return f"{row.name}: {row.what}" if row.what not in ("", row.name) else row.name


def elsewhere(scale: str) -> str:
    """Returns a line for the title of a figure: why its numbers are not comparable with the paper's."""
    return "" if scale == "paper" else "\nours: other text and a far smaller model than the paper's"


def order(paper: dict[str, float], ours: dict[str, float]) -> list[str]:
    """Compares the order of the rows that both have, by Kendall's tau."""
    rows = [name for name in paper if math.isfinite(ours.get(name, math.nan))]
    if len(rows) < 3 or len({ours[name] for name in rows}) == 1:
        return []
    from scipy.stats import kendalltau  # here, since importing it takes a second

    tau = kendalltau([paper[name] for name in rows], [ours[name] for name in rows])
    return [
        f"The order of {len(rows)} rows by perplexity, the paper's against ours: Kendall's tau = {tau.statistic:.2f} "
        f"(1 is the same order, 0 none, -1 the reverse), p = {tau.pvalue:.2g}."
    ]


def percent(log: Interval | None) -> str:
    """Formats a cell: the difference of two logarithms as a change in percent, with its interval."""
    if log is None:
        return ""
    if log.half is None:
        return f"{math.expm1(log.mean):+.1%}"
    changes = [math.expm1(log.mean + side * log.half) for side in (0, -1, 1)]
    return "{:+.1%} ({:+.1%} to {:+.1%})".format(*changes)


def agreement(changes: dict[str, Interval], variances: str) -> list[str]:
    """Says for how many rows the perplexity is on the same side of base as in the paper.

    Args:
        variances: what is known about the assumption that the variance over seeds is the same in all rows.
    """
    if not changes:
        return []
    paper = {row.name: math.log(row.ppl / TABLE3[0].ppl) for row in TABLE3 if row.ppl != TABLE3[0].ppl}
    told = [name for name, found in changes.items() if name in paper and abs(found.mean) > (found.half or 0.0)]
    same = [name for name in told if changes[name].mean * paper[name] > 0]
    return [
        f"'of base' is by how much the perplexity of a row is above or below that of base, with simultaneous 95% "
        f"intervals, which take the variance over seeds to be the same in all rows. {variances} "
        f"{counted(len(paper.keys() & changes.keys()), 'row')} of the paper's single runs are above or below base, "
        f"some by less than 1%; {len(told)} of them differ from base here significantly, {len(same)} in the same "
        f"direction: {', '.join(same) or 'none'}; {len(told) - len(same)} in the other: "
        f"{', '.join(name for name in told if name not in same) or 'none'}."
    ]


def write_table(
    table: Number,
    scale: str,
    results: Path,
    columns: list[str],
    lines: list[list[str]],
    records: dict[str, list[Record]],
    picture: Beside,
    told: Sequence[str] = (),
) -> list[Path]:
    """Writes a table in all three formats and returns their paths. The lines of `told` follow the notes above it."""
    stem = folder_of(table, scale, results)
    head = [f"# Table {table}, scale: {scale}", "", *notes(table, scale, records), *told]
    text = write_text(stem, head, columns, lines)
    return [*text, draw_beside(picture, stem.with_suffix(".png"))]


def write_text(stem: Path, head: list[str], columns: list[str], lines: list[list[str]]) -> list[Path]:
    """Writes a table as Markdown and CSV, and returns their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([columns, *lines])
    write_whole(stem.with_suffix(".csv"), text.getvalue().encode())
    markdown = [f"| {' | '.join(line)} |" for line in [columns, ["---"] * len(columns), *lines]]
    write_whole(stem.with_suffix(".md"), "\n".join([*head, "", *markdown, ""]).encode())
    return [stem.with_suffix(".md"), stem.with_suffix(".csv")]


def notes(table: Number, scale: str, records: dict[str, list[Record]]) -> list[str]:
    """Returns the lines above a table: the corpus, checkpoints, decoding settings and devices of its numbers."""
    every = [record for made in records.values() for record in made]
    if not every:
        return ["No record yet."]
    lines = []
    if scale != "paper":
        lines.append("**These are not the paper's numbers**: other text, and a far smaller model.")
    for corpus in sorted({record["corpus"] for record in every}):
        these = [record for record in every if record["corpus"] == corpus]
        decode = these[0]["settings"]["decode"]
        averaged = sorted({len(record["checkpoints"]) for record in these})
        lines.append(
            f"{corpus}, {these[0]['split']} set; checkpoints averaged: {', '.join(map(str, averaged))}; beam "
            f"{decode['beam']}, alpha {decode['alpha']}; records: {len(these)}; "
            f"{sum(record['train_hours'] for record in these):.1f} hours of training on "
            f"{'; '.join(sorted({trained_on(record) for record in these}))}."
        )
    if table == 3:
        lines.append("PPL is per token of the validation text, of the last checkpoint.")
    return [*lines, "± is the 95% interval over seeds (n = 1: no interval)."]


def scores_of(records: list[Record], name: str) -> list[float]:
    """Returns the values of one score, of each record that has it."""
    return [score["value"] for record in records for score in record["scores"] if score["name"] == name]


def mean(values: list[float]) -> str:
    """Formats a cell: the mean with its interval; empty without values."""
    return str(interval(values)) if values else ""


def formatted(p: float | None) -> str:
    """Formats a p-value; empty if there are too few seeds for one."""
    return "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def difference(values: list[float], paper: float) -> str:
    """Formats a cell: our mean minus the paper's value."""
    return f"{statistics.fmean(values) - paper:+.2f}" if values else ""


def links(table: Number, scale: str, name: str, records: list[Record]) -> str:
    """Formats a cell: links to the record of each seed."""
    seeds = [record["settings"]["train"]["seed"] for record in records]
    return " ".join(f"[{seed}](table{table}-{scale}/{name}-seed{seed}.json)" for seed in seeds)


def counted_flops(record: Record) -> float:
    """Returns the FLOPs of a whole training, for sentence pairs of the corpus's mean lengths, without padding."""
    train = record["data"]["splits"]["train"]
    source, target = (train[f"{side}_tokens"] / train["kept"] for side in ("source", "target"))
    model = Experiment.from_dict(record["settings"]).model
    return train_flops(model, round(source), round(target)) / round(target) * record["target_tokens"]
