"""The records of a track: what a recipe cost with a seed, and what it scored."""

import math
from pathlib import Path
from typing import Any

from experiments.evaluation.records import read_evaluation
from experiments.history import is_curve
from experiments.speedrun.budget import PAPER, experiment_of
from experiments.speedrun.recipes import RECIPES, find_recipe
from experiments.speedrun.tracks import Track, find_track
from experiments.tables.render import scores_of
from experiments.tables.runner import Record, by_seed, decoding_of, name_and_seed, settings_differing
from transformer.config import UserError

NEEDED = (
    "steps", "target_tokens", "train_flops", "train_hours", "step_seconds", "dev_ppl", "split", "selection", "texts",
    "vocabulary", "hardware", "date",
)  # fmt: skip
CURVES = ("step", "dev_loss", "dev_bleu")


def folder_of(track: str, results: Path) -> Path:
    """Returns the folder of a track's records."""
    return results / "speedrun" / track


def records_of(track: str, results: Path) -> dict[str, list[Record]]:
    """Reads the existing records of a track, by recipe.

    UserError for a record that was edited or belongs elsewhere, or that does not have the budget of the others, or was
    trained or scored on another text.
    """
    found: dict[str, list[Record]] = {}
    for path in sorted(folder_of(track, results).glob("*.json")):
        recipe, seed = name_and_seed(path)
        if seed is None or any(part not in RECIPES for part in recipe.split("+")):
            raise UserError(f"{path}: the speedrun has no recipe and seed with this name")
        found.setdefault(recipe, []).append(check_record(track, recipe, seed, path))
    found = {recipe: by_seed(made) for recipe, made in found.items()}
    for recipe, made in found.items():
        for record in made:
            check_beside(track, recipe, record, found, path_of(track, recipe, seed_of(record), results))
    return found


def path_of(track: str, recipe: str, seed: int, results: Path) -> Path:
    """Returns the path of the record of a recipe and seed."""
    return folder_of(track, results) / f"{recipe}-seed{seed}.json"


def seed_of(record: Record) -> int:
    """Returns the seed of a record."""
    return int(record["settings"]["train"]["seed"])


def check_record(track: str, recipe: str, seed: int, path: Path) -> Record:
    """Reads a record. UserError unless it is of this recipe and seed, and scored as the track says."""
    record = read_evaluation(path)
    curve = record.get("curve") or {}
    whole = all(record.get(name) for name in NEEDED) and math.isfinite(record["dev_ppl"]) and is_curve(curve, CURVES)
    if "members" in record or not whole or not scores_of([record], "BLEU"):
        raise UserError(f"{path} is not a record of one run with its costs, score and curve: move it away")
    there = find_track(track)
    try:
        experiment = experiment_of(there, recipe)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    free = ("train.steps", "train.eval_every")  # by the budget
    if differing := [name for name in settings_differing(record["settings"], experiment) if name not in free]:
        raise UserError(f"{path} is not a record of {recipe} on {track}: it differs in {', '.join(differing)}")
    train, checkpoint = record["settings"]["train"], find_recipe(recipe).checkpoint
    facts = {
        "seed": (seed_of(record), seed),
        "split": (record["split"], there.split),
        "selection": (record["selection"], checkpoint),
        "steps": (record["steps"], first_reached(record, experiment.train.stop_at) or train["steps"]),
        "checkpoints": (
            record["checkpoints"],
            curve["step"][-experiment.train.keep if checkpoint == "average" else -1 :],
        ),
        **decoding_of(record, experiment),
    }
    for name, (value, expected) in facts.items():
        if value != expected:
            raise UserError(f"{path} does not follow the protocol of {track}: {name} is {value}, not {expected}")
    return record


def first_reached(record: Record, target: float) -> int | None:
    """Returns the step of the first validation whose BLEU is a target, if there is a target and a run reached it."""
    curve = record["curve"]
    steps = zip(curve["step"], curve["dev_bleu"], strict=True)
    return next((step for step, score in steps if target and (score or 0.0) >= target), None)


def check_beside(track: str, recipe: str, record: Record, others: dict[str, list[Record]], path: Path) -> None:
    """Raises UserError unless a record has the budget, the text and the scoring of the others of its track.

    Args:
        others: the records of the track, by recipe. They may contain this one.
        path: of the record, for the message.
    """
    paper = others.get(PAPER, [])
    check_budget(find_track(track), recipe, record, paper, path)
    sibling = others.get(recipe, [record])[0]
    check_text_of(recipe, record, sibling, (paper or [sibling])[0], path)


def check_budget(track: Track, recipe: str, record: Record, paper: list[Record], path: Path) -> None:
    """Raises UserError unless a record has the steps of the budget, if that is known, and as many validations.

    Args:
        paper: the records of the paper's recipe on this track, which tell the FLOPs of its step.
    """
    train, base = record["settings"]["train"], track.base.train
    if paper:
        step = paper[0]["train_flops"] / paper[0]["steps"]
        budget = track.share * experiment_of(track, recipe).train.steps * step
        steps = max(1, round(budget / (record["train_flops"] / record["steps"])))
        if train["steps"] != steps:
            raise UserError(f"{path} does not have the budget of its track: {train['steps']} steps, not {steps}")
    if train["eval_every"] != (every := -(-train["steps"] * base.eval_every // base.steps)):
        raise UserError(f"{path} was validated every {train['eval_every']} steps, not {every} as on its track")
    steps = record["curve"]["step"]
    if steps != [*range(every, record["steps"], every), record["steps"]]:
        raise UserError(
            f"{path} was not validated every {every} steps from the first to the last: it had another budget"
        )


def same_vocabulary(one: Record, other: Record) -> bool:
    """Whether the perplexities of two records are of the same tokens, so that they can be compared."""
    return bool(one["vocabulary"] == other["vocabulary"])


def check_text_of(recipe: str, record: Record, sibling: Record, paper: Record, path: Path) -> None:
    """Raises UserError unless a record has the text of its recipe and of its track, and is scored in the same way.

    Args:
        sibling: a record of the same recipe.
        paper: a record of the paper's recipe. Only distillation has another text for training.
    """
    scored = [(each["texts"]["source"], each["texts"]["reference"]) for each in (record, paper)]
    signatures = [[without_version(score["signature"]) for score in each["scores"]] for each in (record, paper)]
    alike = sibling if find_recipe(recipe).distilled else paper
    facts: dict[str, list[Any]] = {
        "the scored text": scored,
        "the signature of a score": signatures,
        "the training text": [sources_of(each, "train.") for each in (record, alike)],
        "the validation text": [sources_of(each, "dev.") for each in (record, alike)],
        "the prepared training text": [record["data"]["hash"], sibling["data"]["hash"]],
    }
    for name, (value, expected) in facts.items():
        if value != expected:
            raise UserError(f"{path} does not follow the protocol of its track: {name} differs from that of the others")


def sources_of(record: Record, split: str) -> dict[str, str]:
    """Returns the hashes of the files that a split was prepared from, by their names."""
    return {name: facts["sha256"] for name, facts in record["data"]["sources"].items() if name.startswith(split)}


def without_version(signature: str) -> str:
    """Returns a signature without the version of sacreBLEU, which may change while records are made."""
    return "|".join(part for part in signature.split("|") if not part.startswith("version:"))
