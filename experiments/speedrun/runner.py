"""`speedrun TRACK --recipe NAME`: train and score the missing seeds of a recipe on a track; every number has a record.

Records are in experiments/results/speedrun/TRACK/, one for each recipe and seed; experiments/speedrun/table.py renders
them.
"""

from pathlib import Path

from experiments.evaluation.evaluate import publish
from experiments.speedrun.budget import check_text, within_budget
from experiments.speedrun.recipes import find_recipe
from experiments.speedrun.records import check_beside, check_record, path_of, records_of
from experiments.speedrun.tracks import find_track
from experiments.tables.runner import Log, settings_differing, trained_and_scored
from experiments.workdir import WorkDir
from transformer.checkpoint import saved_steps
from transformer.config import Experiment, UserError


def run_recipe(track: str, recipe: str, seeds: int, text: Path | None, runs: Path, results: Path, log: Log) -> None:
    """Trains and scores a recipe with each seed that has no record yet; resumes interrupted runs.

    Args:
        text: folder with the files of a track whose corpus is one's own text, or from `distill`.

    Raises:
        UserError: no such track or recipe, files that are missing, a run with other settings in the same place, or
            records that do not belong to the track.
    """
    found, chosen = find_track(track), find_recipe(recipe)
    check_text(found, recipe, text)
    for seed in range(seeds):
        record = path_of(track, recipe, seed, results)
        if record.exists():
            continue
        others = records_of(track, results)  # what does not belong there is reported before the training
        experiment = within_budget(found, recipe, seed, text, log)
        log(f"--- {track}, {recipe}, seed {seed}")
        path = runs / "speedrun" / track / f"{recipe}-seed{seed}"
        check_run(WorkDir(path), experiment)
        result = trained_and_scored(experiment, path, chosen.checkpoint, found.split, log)
        check_beside(track, recipe, check_record(track, recipe, seed, result.record), others, result.record)
        publish(result, record)


def check_run(run: WorkDir, experiment: Experiment) -> None:
    """Raises UserError if there are checkpoints of other settings, also of another budget: it would change midway."""
    if saved_steps(run.checkpoints) and (differing := settings_differing(run.settings(), experiment)):
        raise UserError(f"{run.path} was begun with other settings ({', '.join(differing)}): move it away")
