"""`table 2` to `table 4`: train and score the missing rows of a table of the paper; every number has a record.

Records are in experiments/results/tableN-SCALE/, one for each row and seed, and `experiments.tables.render` builds the
table from them. Training runs are in runs/, under the name of their experiment. The base of Table 3 therefore is the
base of Table 2, and an existing run of `train` is used.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.corpora import find_corpus
from data.corpora.corpus import SplitName
from data.dataset import default_data_dir, find_prepared
from experiments.evaluation.evaluate import Evaluation, evaluate, publish
from experiments.evaluation.records import read_evaluation
from experiments.presets.paper import TABLE2, TABLE3, Change
from experiments.presets.parsing import TABLE4
from experiments.presets.scales import SCALES
from experiments.training.loop import train
from experiments.translator import Translator
from experiments.workdir import PATHS, ROUNDING, WorkDir, differences
from transformer.checkpoint import read_meta, saved_steps
from transformer.config import DecodeConfig, Experiment, UserError

Log = Callable[[str], None]
Record = dict[str, Any]
Number = Literal[2, 3, 4]


class Protocol(NamedTuple):
    """How the numbers of a table are computed from trained models (section 6)."""

    checkpoint: str
    split: SplitName


PROTOCOLS: dict[Number, Protocol] = {
    2: Protocol("average", "test"),
    3: Protocol("last", "dev"),
    4: Protocol("average", "test"),
}


def experiments_of(table: Number, scale: str) -> dict[str, Experiment]:
    """Returns the experiments of a table by the names of their records: those of the scale, or changes of its base."""
    if table == 2:
        return {f"{model.pair}-{model.name}": varied(scale, model.pair, model.name, model.change) for model in TABLE2}
    if table == 4:
        return {parser.row: base_of(scale, parser.row) for parser in TABLE4 if parser.row}
    return {row.name: varied(scale, "en-de", row.name, row.change) for row in TABLE3}


def varied(scale: str, pair: str, name: str, change: Change) -> Experiment:
    """Applies a change to the base of a scale, and names the result: "wmt14-en-de-base" becomes "wmt14-en-de-big"."""
    base = base_of(scale, pair)
    return replace(change(base), name=base.name.removesuffix("base") + name)


def base_of(scale: str, name: str) -> Experiment:
    """Returns the base of a language pair, or a parser, at a scale. UserError for a scale that lacks it."""
    if name not in SCALES[scale]:
        raise UserError(f"the scale {scale} is not for this table: it has only {', '.join(SCALES[scale])}")
    return SCALES[scale][name]


def folder_of(table: Number, scale: str, results: Path) -> Path:
    """Returns the folder of a table's records."""
    return results / f"table{table}-{scale}"


def fill(table: Number, scale: str, seeds: int, rows: list[str], runs: Path, results: Path, log: Log) -> None:
    """Trains and scores each of `rows` that has no record yet; resumes interrupted runs."""
    checkpoint, split = PROTOCOLS[table]
    missing = [
        (seed, name, experiment, record)
        for seed in range(seeds)
        for name, experiment in experiments_of(table, scale).items()
        if name in rows and not (record := folder_of(table, scale, results) / f"{name}-seed{seed}.json").exists()
    ]
    if table == 4:  # a treebank that only the user has is asked for before days of training on another
        for _, _, experiment, _ in missing:
            if find_prepared(experiment.data) is None:
                find_corpus(experiment.data).sources(default_data_dir() / "downloads", log)
    for seed, name, experiment, record in missing:
        log(f"--- {name}, seed {seed}")
        seeded = replace(experiment, train=replace(experiment.train, seed=seed))
        path = runs / (experiment.name + (f"-seed{seed}" if seed else ""))
        result = trained_and_scored(seeded, path, checkpoint, split, log)
        check_record(table, result.record, read_evaluation(result.record), seeded, seed)
        publish(result, record)


def trained_and_scored(experiment: Experiment, path: Path, checkpoint: str, split: SplitName, log: Log) -> Evaluation:
    """Trains an experiment in a work directory, or resumes it there, and scores it. UserError for another run's."""
    check_finished(WorkDir(path), experiment)
    run = train(experiment, path, log)
    return evaluate(run, Translator.load(run.path, checkpoint, log), split, log)


def check_finished(run: WorkDir, experiment: Experiment) -> None:
    """Raises UserError if a finished run exists whose settings are not those of the table."""
    steps = saved_steps(run.checkpoints)
    if steps and steps[-1] >= experiment.train.steps and not run.is_average():
        meta = read_meta(run.checkpoints, str(steps[-1]))
        if differing := settings_differing(meta["experiment"], experiment):
            raise UserError(
                f"{run.path} was trained with other settings than are wanted here ({', '.join(differing)}): "
                f"move it away"
            )


def records_of(table: Number, scale: str, results: Path) -> dict[str, list[Record]]:
    """Reads the existing records of a table, by row.

    UserError for a record that was edited, that does not belong to its row and seed, or that was scored by another
    protocol than the others of its corpus, or trained on another text than the others of its row.
    """
    experiments = experiments_of(table, scale)
    found: dict[str, list[Record]] = {}
    protocols: dict[str, tuple[list[Any], Path]] = {}
    texts: dict[str, tuple[str, Path]] = {}
    for path in sorted(folder_of(table, scale, results).glob("*.json")):
        record = read_evaluation(path)
        name, seed = name_and_seed(path)
        if name not in experiments or seed is None:
            raise UserError(f"{path}: table {table} has no row and seed with this name")
        check_record(table, path, record, experiments[name], seed)
        this = protocol_of(table, record)
        column = "" if table == 4 else record["settings"]["data"]["corpus"]
        first, where = protocols.setdefault(column, (this, path))
        if this != first:
            raise UserError(f"{path} and {where} were not scored by the same protocol: a table cannot contain both")
        text = record["data"]["hash"]
        known, where = texts.setdefault(name, (text, path))
        if text != known:
            raise UserError(f"{path} and {where} were not trained on the same text: they are no seeds of one row")
        found.setdefault(name, []).append(record)
    return {name: by_seed(made) for name, made in found.items()}


def name_and_seed(path: Path) -> tuple[str, int | None]:
    """Returns what the name of a record, NAME-seedN.json, says; None for a seed that is not written as Python does."""
    name, _, seed = path.stem.rpartition("-seed")
    return name, int(seed) if seed.isdecimal() and seed == str(int(seed)) else None


def by_seed(records: list[Record]) -> list[Record]:
    """Returns records in the order of their seeds."""
    return sorted(records, key=lambda record: int(record["settings"]["train"]["seed"]))


def check_record(table: Number, path: Path, record: Record, experiment: Experiment, seed: int) -> None:
    """Raises UserError unless a record is of this experiment and seed, and was made by the protocol of the table."""
    if "members" in record:
        raise UserError(f"{path} is the record of an ensemble, which is no row of a table: move it away")
    if differing := settings_differing(record["settings"], experiment):
        raise UserError(f"{path} is not a record of {experiment.name}: it differs in {', '.join(differing)}")
    if (found := record["settings"]["train"]["seed"]) != seed:
        raise UserError(f"{path} is a record of seed {found}, not of seed {seed}")
    protocol = PROTOCOLS[table]
    count = experiment.train.keep if protocol.checkpoint == "average" else 1
    facts = {
        "split": (record["split"], protocol.split),
        "steps": (record["steps"], experiment.train.steps),
        "checkpoints": (len(record["checkpoints"]), count),
        "selection": (record.get("selection", protocol.checkpoint), protocol.checkpoint),  # absent in older records
        **decoding_of(record, experiment),
    }
    for name, (found, expected) in facts.items():
        if found != expected:
            raise UserError(
                f"{path} does not follow the protocol of table {table}: {name} is {found}, not {expected}; move it away"
            )


def decoding_of(record: Record, experiment: Experiment) -> dict[str, tuple[Any, Any]]:
    """Returns how a record was decoded, setting by setting, each with what the experiment has."""
    expected = asdict(experiment.decode)
    # A setting that did not exist yet when a record was written has its default value.
    found = asdict(DecodeConfig()) | record["settings"]["decode"]
    settings = {name: (value, expected[name]) for name, value in found.items() if name not in ("batch_size", "seed")}
    return settings | {"mbr": (record.get("mbr"), None)}


def settings_differing(settings: dict[str, Any], experiment: Experiment) -> list[str]:
    """Returns the settings in which a run differs from an experiment, except those that do not affect its result."""
    train = ("seed", "log_every", "eval_sentences", "max_bad_steps")
    harmless = (*PATHS, *ROUNDING, "decode.", "note", *(f"train.{name}" for name in train))
    return [name for name in differences(settings, asdict(experiment)) if not name.startswith(harmless)]


def protocol_of(table: Number, record: Record) -> list[Any]:
    """Returns what must be equal for two numbers in one column, in addition to what `check_record` checks.

    The rows of Table 4 are trained on different text, and scored on the same.
    """
    signatures = [score["signature"] for score in record["scores"]]
    if table == 4:
        return [[facts["sha256"] for facts in record["sources"].values()], signatures]
    return [record["corpus"], record["sources"], record["vocabulary"], signatures]
