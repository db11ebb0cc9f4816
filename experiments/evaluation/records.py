"""Records: one JSON file per evaluated run, and the results table, which is built only from records."""

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
from experiments.evaluation.metrics import custom_metrics, target_language
from experiments.evaluation.risk import MinimumRisk
from experiments.evaluation.test_sets import TestSet
from experiments.history import perplexity
from experiments.presets.deviations import deviations
from experiments.registry import custom_origins, custom_parts, relative_path, with_relative_paths
from experiments.task import Score
from experiments.workdir import PATHS, write_whole
from transformer.checkpoint import read_json
from transformer.config import Experiment, UserError, counted
from transformer.model import count_parameters

RESULTS = Path(__file__).parents[1] / "results"
"""The published records, which are distributed with the code."""

RECORDS = ("experiments/results", "benchmarks/results")
"""The folders of a checkout that contain records."""

OF_RUN = (
    "experiment", "note", "parameters", "corpus", "selection", "checkpoints", "steps", "target_tokens", "train_flops",
    "step_seconds", "train_hours", "train_hardware", "dev_ppl", "settings", "parts", "deviations", "lineage",
    "vocabulary", "data", "commit",
)  # fmt: skip
"""What a record says about the run. The record of an ensemble says it of each of its members, and not of itself."""


def results_folder() -> Path:
    """Returns the folder for new records and tables: the published one in a checkout of this code, else ./results."""
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
    risk: MinimumRisk | None = None,
) -> dict[str, Any]:
    """Builds the record of a score: everything that is needed to reproduce and judge it.

    Args:
        meta: metadata of the newest checkpoint used, with the settings of training.
        test_set: the text that was translated.
        selection: how the checkpoints were selected, as in Translator.load; steps mean that they were chosen by hand.
        steps: steps of the checkpoints used; if there are several, they were averaged.
        scored: the experiment with the settings that were used to translate and score.
        seconds: time spent translating.
        risk: how a translation was chosen among samples, if it was; the seed and the temperature are in the settings.
    """
    data = meta["experiment"]["data"]
    changed: dict[str, Any] = {
        name: relative_path(data[name]) for path in PATHS if data.get(name := path.removeprefix("data."))
    }
    changed["max_unknown"] = scored.data.max_unknown
    if is_own_text(scored.data) and test_set.languages:
        changed["languages"] = str(test_set.languages)
    experiment = meta["experiment"]
    parents = {name: relative_path(given) for name in ("init", "branch") if (given := experiment.get(name))}
    experiment = experiment | parents | {"data": experiment["data"] | changed, "decode": asdict(scored.decode)}
    # The steps actually trained, which may be fewer than planned.
    trained = Experiment.from_dict(experiment | {"train": experiment["train"] | {"steps": max(1, meta["step"])}})
    return {
        "experiment": experiment["name"],
        "note": experiment.get("note", ""),
        "parameters": count_parameters(Experiment.from_dict(experiment).model),
        "corpus": meta["data"]["corpus"],
        "split": test_set.name,
        "test_set": test_set.label,
        "language": test_set.languages and test_set.languages.target,
        "sources": with_relative_names(test_set.files),
        "counts": test_set.counts,
        "scores": [score._asdict() for score in scores],
        "selection": selection,
        "checkpoints": steps,
        "steps": meta["step"],
        "target_tokens": meta["target_tokens"],
        # None for a checkpoint from before these were measured.
        "train_flops": meta.get("flops"),
        "step_seconds": meta.get("step_seconds"),
        "train_hardware": meta.get("hardware"),  # of the last steps; "hardware" is that of the evaluation
        "train_hours": round(meta["seconds"] / 3600, 4),
        "dev_ppl": None if meta["dev_loss"] is None else perplexity(meta["dev_loss"]),
        "decode_seconds": round(seconds, 1),
        "settings": experiment,
        "parts": {
            "train": with_relative_paths(meta.get("parts", {}) | custom_origins(meta.get("made_of", {}))),
            "evaluate": with_relative_paths(custom_parts(trained) | custom_metrics()),
        },
        "deviations": deviations(trained, meta["data"]["splits"]) + ([f"{risk} (6.1)"] if risk else []),
        "lineage": meta.get("lineage", []),
        "vocabulary": meta["vocabulary"],
        "data": meta["data"] | {"sources": with_relative_names(meta["data"]["sources"])},
        **origin(),
        "commit": {"train": meta["commit"], "evaluate": commit()},
        **({"mbr": risk._asdict()} if risk else {}),
    }


def ensemble_record(names: list[str], records: list[dict[str, Any]]) -> dict[str, Any]:
    """Builds the record of an ensemble from those that `make_record` builds of its runs, which have these names."""
    of_all = {field: value for field, value in records[0].items() if field not in OF_RUN}
    of_each = [{field: record[field] for field in OF_RUN} for record in records]
    members = [{"run": name} | facts for name, facts in zip(names, of_each, strict=True)]
    return {"members": members, **of_all, "commit": {"evaluate": records[0]["commit"]["evaluate"]}}


def with_relative_names(sources: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Replaces absolute paths of files in sources by role, since a record is read on other machines too."""
    return {role: facts | {"name": relative_path(facts["name"])} for role, facts in sources.items()}


def origin() -> dict[str, Any]:
    """Returns the hardware, software, commit, command and date that produced a number."""
    return {
        "hardware": hardware(),
        "software": {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "sacrebleu")},
        "commit": commit(),
        "command": " ".join(["python", *sys.orig_argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def hardware() -> dict[str, Any]:
    """Returns the names of the devices and the processor, the number of cores, and the Python version."""
    return {
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }


def processor() -> str:
    """Returns the processor's name as reported by the operating system."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """Returns the commit of this code, with the suffix "-dirty" if files differ; "unknown" outside a checkout.

    Records are no code: those that a run writes do not make the next one's dirty.
    """
    describe = ["git", "describe", "--always", "--abbrev=40", "--exclude=*"]
    differs = ["git", "diff", "--quiet", "HEAD", "--", ":/", *(f":(top,exclude){folder}" for folder in RECORDS)]
    here = Path(__file__).parent
    try:
        found = subprocess.run(describe, cwd=here, capture_output=True, check=True)
        dirty = subprocess.run(differs, cwd=here, capture_output=True).returncode != 0
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    # Only stdout: messages on stderr may be in any language and encoding.
    return found.stdout.decode("ascii").strip() + ("-dirty" if dirty else "")


def outputs_of(record: Path) -> Path:
    """Returns the path of the file with the outputs, next to a record."""
    return record.with_name(f"{record.name.removesuffix('.json')}.output.txt")


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes a record atomically, with a hash of its content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    signed = record | {"sha256": content_hash(record)}
    write_whole(path, (json.dumps(signed, indent=2, ensure_ascii=False) + "\n").encode())


def read_record(path: Path) -> dict[str, Any]:
    """Reads a record. UserError if it was edited after the code wrote it."""
    record = read_json(path)
    if record.get("sha256") != content_hash(record):
        raise UserError(f"{path} was edited: its content does not match its hash; restore or recreate it")
    return record


def read_evaluation(path: Path) -> dict[str, Any]:
    """Reads the record of an evaluation, of a run or of an ensemble, which has "members". UserError for other files."""
    record = read_record(path)
    missing = {"scores", "sources"} - set(record)
    for run in runs_in(record):
        missing |= {"experiment", "settings", "checkpoints", "data"} - set(run)
    if missing or not record["scores"]:
        raise UserError(f"{path} is not the record of an evaluation: it has no {min(missing, default='score')}")
    return record


def runs_in(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns what a record says about each run that translated: its members, or itself if there are none."""
    return list(record.get("members") or [record])


def language_of(record: dict[str, Any]) -> str | None:
    """Returns the target language of a record; for an older record without one, that of its corpus."""
    return record.get("language") or target_language(Experiment.from_dict(runs_in(record)[0]["settings"]).data)


def content_hash(record: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record without its field "sha256"."""
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def test_set(record: dict[str, Any]) -> str:
    """Returns the name of what was translated: a corpus and its split, or the file of the user's own corpus."""
    if "test_set" in record:
        return str(record["test_set"])
    if record["corpus"] != "files":
        return f"{record['corpus']} {record['split']}"
    file = Path(record["sources"][f"{record['split']}.source"]["name"]).name.split(".")[0]
    languages = record["settings"]["data"].get("languages")
    return f"{file}, {languages}" if languages else file


def steps_of(run: dict[str, Any]) -> str:
    """Formats the steps of a run, as "5,000 of 20,000" if it was not trained to the end."""
    planned = run["settings"]["train"]["steps"]
    return f"{run['steps']:,}" + (f" of {planned:,}" if run["steps"] < planned else "")


def ppl_of(run: dict[str, Any]) -> str:
    """Formats the validation perplexity of a run."""
    return f"{run['dev_ppl']:.2f}" if run["dev_ppl"] else "not validated"


def trained_on(record: dict[str, Any]) -> str:
    """Formats the devices and cores that its runs were trained on. Older records only have those of the evaluation."""
    found = set()
    for run in runs_in(record):
        known = run.get("train_hardware")
        machine = known or record["hardware"]
        found.add(f"{machine['device']}, {counted(machine['cores'], 'core')}{'' if known else ' (evaluation)'}")
    return "; ".join(sorted(found))


def published_scores(record: dict[str, Any]) -> list[str]:
    """Returns the names of the scores that a table shows of a record: BLEU with chrF, and of other tasks the first."""
    names = [str(score["name"]) for score in record["scores"]]
    return [name for name in ("BLEU", "chrF2") if name in names] or names[:1]


def results_table(*folders: Path) -> str:
    """Returns a Markdown table of all records in the folders; by default of the published records."""
    paths = [path for folder in folders or (RESULTS,) for path in sorted(folder.glob("*.json"))]
    records = [read_evaluation(path) for path in paths]
    # Of a task other than translation, the score to publish: there is no column for what no record has.
    scores = list(dict.fromkeys(name for record in records for name in published_scores(record)))
    head = ["experiment", "test set", *scores, "dev PPL, last", "steps", "hours", "hardware"]
    rows = [f"| {' | '.join(head)} |".replace("chrF2", "chrF"), "|---" * len(head) + "|"]
    for path, record in zip(paths, records, strict=True):
        runs = runs_in(record)
        name = f"ensemble of {' + '.join(run['run'] for run in runs)}" if "members" in record else record["experiment"]
        values = {score["name"]: f"{score['value']:.1f}" for score in record["scores"]}
        link = f"experiments/results/{path.name}" if path.parent == RESULTS else str(path)
        cells = [
            f"[{name}]({link})",
            test_set(record),
            *(values[name] if name in published_scores(record) else "" for name in scores),
            " + ".join(map(ppl_of, runs)),
            " + ".join(map(steps_of, runs)),
            f"{sum(run['train_hours'] for run in runs):.2f}",
            trained_on(record),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
