"""`table 2`, `table 3`: train and score what is missing of a table of the paper, each number with a record behind it.

Records stand in experiments/results/tableN-SCALE/, one for each row and seed; `experiments.tables.render` makes the
table from them. A training run is found by its experiment's name under runs/, so that the base of Table 3 is the base
of Table 2, and a run of `train` is used where there is one.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.corpora import SplitName
from experiments.evaluation.evaluate import evaluate, publish
from experiments.evaluation.records import read_evaluation
from experiments.presets.paper import TABLE2, TABLE3, Change
from experiments.presets.scales import SCALES
from experiments.training.loop import train
from experiments.translator import Translator
from experiments.workdir import WorkDir, differences
from transformer.checkpoint import read_meta, saved_steps
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
    """Trains and scores each of `rows` that has no record yet; goes on with what was interrupted."""
    checkpoint, split = PROTOCOLS[table]
    for seed in range(seeds):
        for name, experiment in experiments_of(table, scale).items():
            record = folder_of(table, scale, results) / f"{name}-seed{seed}.json"
            if name not in rows or record.exists():
                continue
            log(f"--- {name}, seed {seed}")
            seeded = replace(experiment, train=replace(experiment.train, seed=seed))
            path = runs / (experiment.name + (f"-seed{seed}" if seed else ""))
            check_finished(WorkDir(path), seeded)
            run = train(seeded, path, log)
            translator = Translator.load(run.path, checkpoint, log)
            result = evaluate(run, translator, split, log)
            check_record(table, result.record, read_evaluation(result.record), seeded, seed)
            publish(result.record, record)


def check_finished(run: WorkDir, experiment: Experiment) -> None:
    """UserError if a run is there and done, but not as the table wants it."""
    steps = saved_steps(run.checkpoints)
    if steps and steps[-1] >= experiment.train.steps and not run.is_mean():
        meta = read_meta(run.checkpoints, str(steps[-1]))
        if differing := settings_differing(meta["experiment"], experiment):
            raise UserError(f"{run.path} was trained with another {', '.join(differing)} than the table: move it away")


def records_of(table: Number, scale: str, results: Path) -> dict[str, list[Record]]:
    """The records there are, by row.

    UserError for one that was edited, that is not of its row and seed, or not made as the others of its corpus.
    """
    experiments = experiments_of(table, scale)
    found: dict[str, list[Record]] = {}
    protocols: dict[str, tuple[list[Any], Path]] = {}
    for path in sorted(folder_of(table, scale, results).glob("*.json")):
        record = read_evaluation(path)
        name, _, seed = path.stem.rpartition("-seed")
        if name not in experiments or not seed.isdecimal():
            raise UserError(f"{path}: table {table} has no row and seed of that name")
        check_record(table, path, record, experiments[name], int(seed))
        this = protocol_of(record)
        first, where = protocols.setdefault(record["settings"]["data"]["corpus"], (this, path))
        if this != first:
            raise UserError(f"{path} and {where} were not scored by the same protocol: one table cannot hold both")
        found.setdefault(name, []).append(record)
    return found


def check_record(table: Number, path: Path, record: Record, experiment: Experiment, seed: int) -> None:
    """UserError unless this is a record of the experiment and the seed, made by the protocol of the table."""
    if differing := settings_differing(record["settings"], experiment):
        raise UserError(f"{path} is not a record of {experiment.name}: it differs in {', '.join(differing)}")
    if (found := record["settings"]["train"]["seed"]) != seed:
        raise UserError(f"{path} is a record of seed {found}, not of seed {seed}")
    wanted = PROTOCOLS[table]
    count = experiment.train.keep if wanted.checkpoint == "average" else 1
    decode = asdict(experiment.decode)
    facts = {
        "split": (record["split"], wanted.split),
        "steps": (record["steps"], experiment.train.steps),
        "checkpoints": (len(record["checkpoints"]), count),
        "selection": (record.get("selection", wanted.checkpoint), wanted.checkpoint),  # older records do not say
        **{name: (record["settings"]["decode"][name], decode[name]) for name in ("beam", "alpha", "extra_length")},
    }
    for name, (has, wants) in facts.items():
        if has != wants:
            raise UserError(f"{path} was not made as table {table} is: {name} {has}, not {wants}")


def settings_differing(told: dict[str, Any], experiment: Experiment) -> list[str]:
    """The settings in which a run is not this experiment, but for those that its result does not depend on."""
    own = ("seed", "log_every", "eval_sentences", "max_bad_steps")
    harmless = ("decode.", "mesh", "note", *(f"train.{name}" for name in own))
    return [name for name in differences(told, asdict(experiment)) if not name.startswith(harmless)]


def protocol_of(record: Record) -> list[Any]:
    """What must be equal for two numbers to stand in one column, besides what `check_record` looks at."""
    signatures = [score["signature"] for score in record["scores"]]
    return [record["corpus"], record["sources"], record["vocabulary"], signatures]
