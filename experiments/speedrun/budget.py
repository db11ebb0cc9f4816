"""The settings of a recipe on a track, with the number of steps that have the FLOPs of its budget."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.corpora.corpus import SPLITS
from data.dataset import SIDES, default_data_dir, prepare
from data.sampling import training_plan
from experiments.speedrun.recipes import find_recipe
from experiments.speedrun.tracks import Track
from experiments.tables.runner import Log
from transformer.config import DataConfig, Experiment, UserError
from transformer.train import step_flops

PAPER = "paper"
"""The recipe that all others are compared with. It trains all its steps on a track where others end at a target."""


def experiment_of(track: Track, recipe: str, text: Path | None = None) -> Experiment:
    """Returns the settings of a recipe on a track, before the steps are those of its budget."""
    changed = find_recipe(recipe).change(track.base)
    if recipe != PAPER and changed == track.base:
        raise UserError(f"the recipe {recipe} changes nothing in the base of this track")
    if track.stop_at == 0.0 and changed.train.steps != track.base.train.steps:
        raise UserError("recipes are compared at equal FLOPs on this track: one with fewer steps belongs on another")
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


def within_budget(track: Track, recipe: str, seed: int, text: Path | None, log: Log) -> Experiment:
    """Returns the settings of a recipe and seed with the number of steps that have the FLOPs of the track's budget.

    It prepares the text, whose batches determine the FLOPs of a step. With sampled subwords they depend on the seed.
    """
    both = {
        name: experiment_of(track, name, text if track.files or name == recipe else None)
        for name in dict.fromkeys((PAPER, recipe))
    }
    flops = {}
    for name, experiment in both.items():
        data = prepare(experiment.data, default_data_dir(), log)
        flops[name] = step_flops(experiment, *training_plan(data, experiment.data, seed).shape)
    # Those of the recipe: one with a schedule for a quarter of the steps has a quarter of the FLOPs.
    experiment = both[recipe]
    budget = track.share * experiment.train.steps * flops[PAPER]
    steps = max(1, round(budget / flops[recipe]))
    # As many validations as the base has: the checkpoints that are averaged then cover the same share of a run.
    every = -(-steps * track.base.train.eval_every // track.base.train.steps)
    return replace(experiment, train=replace(experiment.train, seed=seed, steps=steps, eval_every=every))


def check_text(track: Track, recipe: str, text: Path | None) -> None:
    """Checks that there is a folder of text exactly where a track or a recipe has its text in one.

    UserError if not, and for distillation on a track with a target.
    """
    distilled = find_recipe(recipe).distilled
    if text is not None and not text.is_dir():
        raise UserError(f"--text {text} is not a folder")
    if track.files and distilled:
        raise UserError("distillation is for tracks that download their corpus: this one is on your own text")
    if track.files and text is None:
        raise UserError(f"this track needs --text FOLDER, with {', '.join(track.files)} in both languages")
    if distilled and (track.stop_at != 0.0 or track.target):
        raise UserError("distillation is for tracks of equal FLOPs: those of a teacher are not counted")
    if distilled and (text is None or not (text / "teacher.json").is_file()):
        raise UserError("distillation needs --text FOLDER, as `distill` writes it: with teacher.json")
    if text is not None and not (track.files or distilled):
        raise UserError("--text is for tracks on your own text and for distillation: this track downloads its corpus")
