"""Records: one JSON for each finished run, and the results table made from them and from nothing else."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from data.corpora import is_own_text
from experiments.evaluation.metrics import Score, custom_metrics, target_language
from experiments.evaluation.test_sets import TestSet
from experiments.history import perplexity
from experiments.presets.deviations import deviations
from experiments.registry import custom_parts, of_users, published
from experiments.workdir import write_whole
from transformer.checkpoint import read_json
from transformer.config import Experiment, UserError, counted
from transformer.model import count_parameters

RESULTS = Path(__file__).parents[1] / "results"
"""The published records, which come with the code."""


def results_folder() -> Path:
    """Where new records and tables go: among the published ones within a checkout of this code, else ./results."""
    checkout = RESULTS.parents[1]
    within = (checkout / "pyproject.toml").is_file() and Path.cwd().is_relative_to(checkout)
    return RESULTS if within else Path("results")


def make_record(
    meta: dict[str, Any],
    scores: list[Score],
    test_set: TestSet,
    selection: str,
    steps: list[int],
    scored: Experiment,
    seconds: float,
) -> dict[str, Any]:
    """Everything that a published number needs behind it.

    Args:
        meta: of the newest checkpoint used.
        test_set: the text that was translated.
        selection: how the checkpoints were chosen, as in Translator.load; what names steps was chosen by hand.
        steps: the checkpoints used; several were averaged.
        scored: the run's experiment as it was told to translate and score; what it was trained with, `meta` says.
        seconds: what translating took.
    """
    told: dict[str, Any] = {"max_unknown": scored.data.max_unknown}
    if is_own_text(scored.data) and test_set.languages:
        told["languages"] = str(test_set.languages)
    experiment = meta["experiment"]
    experiment = experiment | {"data": experiment["data"] | told, "decode": asdict(scored.decode)}
    # As far as the checkpoint went, which may be less than was wanted.
    trained = Experiment.from_dict(experiment | {"train": experiment["train"] | {"steps": meta["step"]}})
    return {
        "experiment": experiment["name"],
        "note": experiment.get("note", ""),
        "parameters": count_parameters(Experiment.from_dict(experiment).model),
        "corpus": meta["data"]["corpus"],
        "split": test_set.name,
        "test_set": test_set.label,
        "language": test_set.languages and test_set.languages.target,
        "sources": test_set.files,
        "counts": test_set.counts,
        "scores": [score._asdict() for score in scores],
        "selection": selection,
        "checkpoints": steps,
        "steps": meta["step"],
        "target_tokens": meta["target_tokens"],
        "train_hours": round(meta["seconds"] / 3600, 4),
        "dev_ppl": None if meta["dev_loss"] is None else perplexity(meta["dev_loss"]),
        "decode_seconds": round(seconds, 1),
        "settings": experiment,
        "parts": {
            "train": published(meta.get("parts", {}) | of_users(meta.get("made_of", {}))),
            "evaluate": published(custom_parts(trained) | custom_metrics()),
        },
        "deviations": deviations(trained, meta["data"]["splits"]),
        "vocabulary": meta["vocabulary"],
        "data": meta["data"],
        **origin(),
        "commit": {"train": meta["commit"], "evaluate": commit()},
    }


def origin() -> dict[str, Any]:
    """Where, with what and when a number was made."""
    return {
        "hardware": hardware(),
        "software": {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "sacrebleu")},
        "commit": commit(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def hardware() -> dict[str, Any]:
    """The device that computed, and the machine around it."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The commit this code is at, marked where files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.decode("ascii").strip()  # git's complaints may be in any language and encoding


def outputs_of(record: Path) -> Path:
    """The text of the outputs, which stands beside a record."""
    return record.with_name(f"{record.name.removesuffix('.json')}.output.txt")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes it whole or not at all, with a hash of its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signed = record | {"sha256": content_hash(record)}
    write_whole(path, (json.dumps(signed, indent=2, ensure_ascii=False) + "\n").encode())


def read_record(path: Path) -> dict[str, Any]:
    """A record. UserError if it was changed after the code wrote it."""
    record = read_json(path)
    if record.get("sha256") != content_hash(record):
        raise UserError(f"{path} was edited: its content does not have the hash that it states")
    return record


def read_evaluation(path: Path) -> dict[str, Any]:
    """The record of a scored translation, as `make_record` makes it. UserError for anything else."""
    record = read_record(path)
    missing = {"experiment", "settings", "scores", "checkpoints", "sources", "data"} - set(record)
    if missing or not record["scores"]:
        raise UserError(f"{path} is not the record of an evaluation: it has no {min(missing, default='score')}")
    return record


def language_of(record: dict[str, Any]) -> str | None:
    """What a text was translated into; by its corpus, where an older record does not say."""
    return record.get("language") or target_language(Experiment.from_dict(record["settings"]).data)


def content_hash(record: dict[str, Any]) -> str:
    """SHA-256 of all of a record but the hash itself."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def test_set(record: dict[str, Any]) -> str:
    """What was translated: a corpus and its split, or the user's own file by its name."""
    if "test_set" in record:
        return str(record["test_set"])
    if record["corpus"] != "files":
        return f"{record['corpus']} {record['split']}"
    file = Path(record["sources"][f"{record['split']}.source"]["name"]).name.split(".")[0]
    languages = record["settings"]["data"].get("languages")
    return f"{file}, {languages}" if languages else file


def steps_of(record: dict[str, Any]) -> str:
    """The steps of a run, and of how many where it was not ended."""
    planned = record["settings"]["train"]["steps"]
    return f"{record['steps']:,}" + (f" of {planned:,}" if record["steps"] < planned else "")


def results_table(*folders: Path) -> str:
    """The Markdown table of all records in these folders; without any, of the published ones."""
    rows = [
        "| experiment | test set | BLEU | chrF | dev PPL, last | steps | hours | hardware |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in (path for folder in folders or (RESULTS,) for path in sorted(folder.glob("*.json"))):
        record = read_evaluation(path)
        values = {score["name"]: f"{score['value']:.1f}" for score in record["scores"]}
        link = f"experiments/results/{path.name}" if path.parent == RESULTS else str(path)
        machine = f"{record['hardware']['device']}, {counted(record['hardware']['cores'], 'core')}"
        cells = [
            f"[{record['experiment']}]({link})",
            test_set(record),
            values["BLEU"],
            values["chrF2"],
            f"{record['dev_ppl']:.2f}" if record["dev_ppl"] else "not validated",
            steps_of(record),
            f"{record['train_hours']:.2f}",
            machine,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
