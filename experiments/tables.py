"""`table 2`, `table 3`: train and score what is missing of a table of the paper, each number with a record behind it.

Records stand in experiments/results/tableN-SCALE/, one for each row and seed; `experiments.render` makes the table from
them. A training run is found by its experiment's name under runs/, so that the base of Table 3 is the base of Table 2,
and a run of `train` is used where there is one.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.corpora import SplitName
from experiments.evaluate import evaluate
from experiments.paper import TABLE2, TABLE3, Change
from experiments.records import read_record, write_record
from experiments.scales import SCALES
from experiments.train import train
from experiments.translator import Translator
from experiments.workdir import differences
from transformer.config import Experiment, UserError

Log = Callable[[str], None]
Record = dict[str, Any]
Number = Literal[2, 3]


class Protocol(NamedTuple):
    """How the numbers of a table are made from trained models (section 6)."""

    checkpoint: str
    split: SplitName


PROTOCOLS: dict[Number, Protocol] = {2: Protocol("average", "test"), 3: Protocol("last", "dev")}


def experiments_of(table: Number, scale: str) -> dict[str, Experiment]:
    """The experiments of a table by the names of their records, each made from the base that the scale has."""
    if table == 2:
        return {f"{model.pair}-{model.name}": varied(scale, model.pair, model.name, model.change) for model in TABLE2}
    return {row.name: varied(scale, "en-de", row.name, row.change) for row in TABLE3}


def varied(scale: str, pair: str, name: str, change: Change) -> Experiment:
    """A base after a change: "wmt14-en-de-base" becomes "wmt14-en-de-big"."""
    base = SCALES[scale][pair]
    return replace(change(base), name=base.name.removesuffix("base") + name)


def folder_of(table: Number, scale: str, results: Path) -> Path:
    """Where the records of a table stand."""
    return results / f"table{table}-{scale}"


def fill(table: Number, scale: str, seeds: int, rows: list[str], runs: Path, results: Path, log: Log) -> None:
    """Trains and scores every row that has no record yet, of `rows` or of all; goes on with what was interrupted."""
    checkpoint, split = PROTOCOLS[table]
    for seed in range(seeds):
        for name, experiment in experiments_of(table, scale).items():
            record = folder_of(table, scale, results) / f"{name}-seed{seed}.json"
            if (rows and name not in rows) or record.exists():
                continue
            log(f"--- {name}, seed {seed}")
            seeded = replace(experiment, train=replace(experiment.train, seed=seed))
            run = train(seeded, runs / (experiment.name + (f"-seed{seed}" if seed else "")), log)
            result = evaluate(run, Translator.load(run.path, checkpoint, log), split, log)
            write_record(record, read_record(result.record))


def records_of(table: Number, scale: str, results: Path) -> dict[str, list[Record]]:
    """The records there are, by row.

    UserError for one that was edited, that is not of its row, or that was not made as the others of its corpus.
    """
    experiments = experiments_of(table, scale)
    found: dict[str, list[Record]] = {}
    protocols: dict[str, tuple[list[Any], Path]] = {}
    for path in sorted(folder_of(table, scale, results).glob("*.json")):
        record = read_record(path)
        name = path.stem.rpartition("-seed")[0]
        if name not in experiments:
            raise UserError(f"{path}: table {table} has no row {name!r}")
        check_settings(path, record, experiments[name])
        this = protocol_of(record)
        first, where = protocols.setdefault(record["settings"]["data"]["corpus"], (this, path))
        if this != first:
            raise UserError(f"{path} and {where} were not scored by the same protocol: one table cannot hold both")
        found.setdefault(name, []).append(record)
    return found


def check_settings(path: Path, record: Record, experiment: Experiment) -> None:
    """UserError unless the record is of this experiment (any seed) or of a run on other text that says so."""
    told = record["settings"] | {"decode": {}, "note": ""}
    told["train"] = told["train"] | {"seed": experiment.train.seed}
    if differing := differences(told, asdict(experiment) | {"decode": {}, "note": ""}):
        raise UserError(f"{path} is not a record of {experiment.name}: it differs in {', '.join(differing)}")


def protocol_of(record: Record) -> list[Any]:
    """What must be equal for two numbers to stand in one column."""
    decode = {name: record["settings"]["decode"][name] for name in ("beam", "alpha", "extra_length")}
    signatures = [score["signature"] for score in record["scores"]]
    return [record["corpus"], record["split"], record["sources"], record["vocabulary"], decode, signatures]
