"""`speedrun TRACK --recipe NAME`: train and score the missing seeds of a recipe on a track; every number has a record.

Records are in experiments/results/speedrun/TRACK/, one for each recipe and seed; experiments/speedrun/table.py renders
them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.corpora.corpus import SPLITS
from data.dataset import SIDES, default_data_dir, prepare
from data.sampling import training_plan
from experiments.evaluation.evaluate import publish
from experiments.evaluation.records import read_evaluation
from experiments.speedrun.recipes import RECIPES, find_recipe
from experiments.speedrun.tracks import Track, find_track
from experiments.tables.runner import Log, Record, decoding_of, settings_differing, trained_and_scored
from transformer.config import DataConfig, Experiment, UserError
from transformer.train import step_flops

PAPER = "paper"
"""The recipe that all others are compared with. It trains all steps of the base on a track with a target."""


def folder_of(track: str, results: Path) -> Path:
    """Returns the folder of a track's records."""
    return results / "speedrun" / track


def run_recipe(track: str, recipe: str, seeds: int, text: Path | None, runs: Path, results: Path, log: Log) -> None:
    """Trains and scores a recipe with each seed that has no record yet; resumes interrupted runs.

    Args:
        text: folder with the files of a track whose corpus is one's own text, or from `distill`.

    Raises:
        UserError: no such track or recipe, files that are missing, or a run with other settings in the same place.
    """
    found, chosen = find_track(track), find_recipe(recipe)
    missing = [
        (seed, record)
        for seed in range(seeds)
        if not (record := folder_of(track, results) / f"{recipe}-seed{seed}.json").exists()
    ]
    if not missing:
        return
    experiment = within_budget(found, recipe, text, log)
    for seed, record in missing:
        log(f"--- {track}, {recipe}, seed {seed}")
        seeded = replace(experiment, train=replace(experiment.train, seed=seed))
        path = runs / "speedrun" / track / f"{recipe}-seed{seed}"
        result = trained_and_scored(seeded, path, chosen.checkpoint, found.split, log)
        check_record(track, recipe, seed, result.record)
        publish(result, record)


def experiment_of(track: Track, recipe: str, text: Path | None = None) -> Experiment:
    """Returns the settings of a recipe on a track, before the steps are those of its budget."""
    changed = find_recipe(recipe).change(track.base)
    if recipe != PAPER and changed == track.base:
        raise UserError(f"the recipe {recipe} changes nothing in the base of this track")
    if text is not None:
        changed = replace(changed, data=on_text(changed.data, track.files or SPLITS, text))
    if track.stop_at == 0.0:
        return changed
    if recipe == PAPER:
        return replace(changed, train=replace(changed.train, best="score"))
    if track.stop_at is None:
        raise UserError("the target of this track is what the recipe `paper` reaches: train it first, with 3 seeds")
    return replace(changed, train=replace(changed.train, best="score", stop_at=track.stop_at))


def on_text(data: DataConfig, names: Sequence[str], text: Path) -> DataConfig:
    """Returns data settings with files of a folder: those of a track, or those that `distill` writes.

    Args:
        names: of the files of train, dev and test, without the ends that are languages or sides.

    Raises:
        UserError: a file is missing.
    """
    ends = SIDES if tuple(names) == SPLITS else (data.languages or "").split("-")
    files = {
        f"{split}_{side}": text / f"{name}.{end}"
        for split, name in zip(SPLITS, names, strict=True)
        for side, end in zip(("src", "tgt"), ends, strict=True)
    }
    if lacking := [path for path in files.values() if not path.is_file()]:
        raise UserError(f"{lacking[0]} does not exist: --text is the folder with the text of this track or recipe")
    given: dict[str, Any] = {field: str(path) for field, path in files.items()}
    return replace(data, **given)


def within_budget(track: Track, recipe: str, text: Path | None, log: Log) -> Experiment:
    """Returns the settings of a recipe with the number of steps that have the FLOPs of the track's budget.

    It prepares the text, whose batches determine the FLOPs of a step.
    """
    check_text(track, recipe, text)
    flops = {}
    for name in dict.fromkeys((PAPER, recipe)):
        experiment = experiment_of(track, name, text if track.files or name == recipe else None)
        data = prepare(experiment.data, default_data_dir(), log)
        flops[name] = step_flops(experiment, *training_plan(data, experiment.data, seed=0).shape)
    # Those of the recipe: one with a schedule for a quarter of the steps has a quarter of the FLOPs.
    budget = track.share * experiment.train.steps * flops[PAPER]
    steps = max(1, round(budget / flops[recipe]))
    # As many validations as the base has: the checkpoints that are averaged then cover the same share of a run.
    every = -(-steps * track.base.train.eval_every // track.base.train.steps)
    return replace(experiment, train=replace(experiment.train, steps=steps, eval_every=every))


def check_text(track: Track, recipe: str, text: Path | None) -> None:
    """Checks that there is a folder of text exactly where a track or a recipe has its text in one."""
    distilled = find_recipe(recipe).distilled
    if track.files and distilled:
        raise UserError("distillation is for tracks that download their corpus: this one is on your own text")
    if track.files and text is None:
        raise UserError(f"this track needs --text FOLDER, with {', '.join(track.files)} in both languages")
    if distilled and text is None:
        raise UserError("distillation needs --text FOLDER, as `distill` writes it")
    if text is not None and not (track.files or distilled):
        raise UserError("--text is for tracks on your own text and for distillation: this track downloads its corpus")


def records_of(track: str, results: Path) -> dict[str, list[Record]]:
    """Reads the existing records of a track, by recipe. UserError for one that was edited, or belongs elsewhere."""
    found: dict[str, list[Record]] = {}
    for path in sorted(folder_of(track, results).glob("*.json")):
        recipe, _, seed = path.stem.rpartition("-seed")
        if not seed.isdecimal() or any(part not in RECIPES for part in recipe.split("+")):
            raise UserError(f"{path}: the speedrun has no recipe and seed with this name")
        found.setdefault(recipe, []).append(check_record(track, recipe, int(seed), path))
    for made in found.values():
        made.sort(key=lambda record: int(record["settings"]["train"]["seed"]))
    return found


def check_record(track: str, recipe: str, seed: int, path: Path) -> Record:
    """Reads a record. UserError unless it is of this recipe and seed, and scored as the track says."""
    record = read_evaluation(path)
    if "members" in record or not record.get("train_flops") or "dev_loss" not in record.get("curve", {}):
        raise UserError(f"{path} is not a record of one run with its FLOPs and its curve: move it away")
    there = find_track(track)
    experiment = experiment_of(there, recipe)
    free = ("train.steps", "train.eval_every")  # by the budget
    if differing := [name for name in settings_differing(record["settings"], experiment) if name not in free]:
        raise UserError(f"{path} is not a record of {recipe} on {track}: it differs in {', '.join(differing)}")
    facts = {
        "seed": (record["settings"]["train"]["seed"], seed),
        "split": (record["split"], there.split),
        "selection": (record["selection"], find_recipe(recipe).checkpoint),
        **decoding_of(record, experiment),
    }
    for name, (value, expected) in facts.items():
        if value != expected:
            raise UserError(f"{path} does not follow the protocol of {track}: {name} is {value}, not {expected}")
    return record
