"""`speedrun TRACK --recipe NAME`: train and score the missing seeds of a recipe on a track; every number has a record.

Records are in experiments/results/speedrun/TRACK/, one for each recipe and seed; experiments/speedrun/table.py renders
them.
"""

from dataclasses import replace
from pathlib import Path

from experiments.evaluation.evaluate import publish
from experiments.speedrun.budget import check_text, within_budget
from experiments.speedrun.recipes import find_recipe
from experiments.speedrun.records import check_record, folder_of
from experiments.speedrun.tracks import find_track
from experiments.tables.runner import Log, trained_and_scored


def run_recipe(track: str, recipe: str, seeds: int, text: Path | None, runs: Path, results: Path, log: Log) -> None:
    """Trains and scores a recipe with each seed that has no record yet; resumes interrupted runs.

    Args:
        text: folder with the files of a track whose corpus is one's own text, or from `distill`.

    Raises:
        UserError: no such track or recipe, files that are missing, or a run with other settings in the same place.
    """
    found, chosen = find_track(track), find_recipe(recipe)
    check_text(found, recipe, text)
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
