"""`speedrun TRACK --recipe NAME`: train and score the missing seeds of a recipe on a track; every number has a record.

Records are in experiments/results/speedrun/TRACK/, one for each recipe and seed; experiments/speedrun/table.py renders
them.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data.dataset import default_data_dir, prepare
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
        text: folder with the files of a track whose corpus is one's own text.

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
    base = track.base if text is None else replace(track.base, data=on_text(track, text))
    changed = find_recipe(recipe).change(base)
    if recipe != PAPER and changed == base:
        raise UserError(f"the recipe {recipe} changes nothing in the base of this track")
    if track.stop_at == 0.0:
        return changed
    if recipe == PAPER:
        return replace(changed, train=replace(changed.train, best="score"))
    if track.stop_at is None:
        raise UserError("the target of this track is what the recipe `paper` reaches: train it first, with 3 seeds")
    return replace(changed, train=replace(changed.train, best="score", stop_at=track.stop_at))


def on_text(track: Track, text: Path) -> DataConfig:
    """Returns the data settings of a track with the files of its text. UserError for one that is missing."""
    if not track.files:
        raise UserError("--text is for tracks on your own text: this one downloads its corpus")
    data = track.base.data
    files = {
        f"{split}_{side}": text / f"{name}.{language}"
        for split, name in zip(("train", "dev", "test"), track.files, strict=True)
        for side, language in zip(("src", "tgt"), (data.languages or "").split("-"), strict=True)
    }
    if lacking := [path for path in files.values() if not path.is_file()]:
        raise UserError(f"{lacking[0]} does not exist: --text is the folder with the text of this track")
    given: dict[str, Any] = {field: str(path) for field, path in files.items()}
    return replace(data, **given)


def within_budget(track: Track, recipe: str, text: Path | None, log: Log) -> Experiment:
    """Returns the settings of a recipe with the number of steps that have the FLOPs of the track's budget.

    It prepares the text, whose batches determine the FLOPs of a step.
    """
    if track.files and text is None:
        raise UserError(f"this track needs --text FOLDER, with {', '.join(track.files)} in both languages")
    flops = {}
    for name in dict.fromkeys((PAPER, recipe)):
        experiment = experiment_of(track, name, text)
        data = prepare(experiment.data, default_data_dir(), log)
        flops[name] = step_flops(experiment, *training_plan(data, experiment.data, seed=0).shape)
    budget = track.share * track.base.train.steps * flops[PAPER]
    steps = max(1, round(budget / flops[recipe]))
    # As many validations as the base has: the checkpoints that are averaged then cover the same share of a run.
    every = -(-steps * track.base.train.eval_every // track.base.train.steps)
    return replace(experiment, train=replace(experiment.train, steps=steps, eval_every=every))


def records_of(track: str, results: Path) -> dict[str, list[Record]]:
    """Reads the existing records of a track, by recipe. UserError for one that was edited, or belongs elsewhere."""
    found: dict[str, list[Record]] = {}
    for path in sorted(folder_of(track, results).glob("*.json")):
        recipe, _, seed = path.stem.rpartition("-seed")
        if not seed.isdecimal() or any(part not in RECIPES for part in recipe.split("+")):
            raise UserError(f"{path}: the speedrun has no recipe and seed with this name")
        found.setdefault(recipe, []).append(check_record(track, recipe, int(seed), path))
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
