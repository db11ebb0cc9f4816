"""Records: one JSON for each finished run, and the results table made from them and from nothing else."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from experiments.progress import perplexity
from experiments.scoring import Score
from experiments.workdir import write_whole
from transformer.checkpoint import read_json

RESULTS = Path(__file__).parent / "results"


def make_record(
    meta: dict[str, Any],
    scores: list[Score],
    split: str,
    steps: list[int],
    sources: dict[str, Any],
    decode: dict[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """Everything that a published number needs behind it.

    Args:
        meta: of the newest checkpoint used.
        split: which text was translated.
        sources: its files and their hashes, as they are now.
        steps: the checkpoints used; several were averaged.
        decode: the settings it was translated with.
        seconds: what translating took.
    """
    experiment = meta["experiment"]
    return {
        "experiment": experiment["name"],
        "corpus": meta["data"]["corpus"],
        "split": split,
        "sources": sources,
        "scores": [score._asdict() for score in scores],
        "checkpoints": steps,
        "steps": meta["step"],
        "target_tokens": meta["target_tokens"],
        "train_hours": round(meta["seconds"] / 3600, 4),
        "dev_ppl": perplexity(meta["dev_loss"]),
        "decode_seconds": round(seconds, 1),
        "settings": experiment | {"decode": decode},
        "vocabulary": meta["vocabulary"],
        "data": meta["data"],
        "hardware": hardware(),
        "software": {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint", "sacrebleu")},
        "commit": {"train": meta["commit"], "evaluate": commit()},
        "command": " ".join(["python -m experiments", *sys.argv[1:]]),
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
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def commit() -> str:
    """The commit this code is at, marked where files differ from it; "unknown" outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return result.stdout.strip()


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Writes it whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())


def results_table(folder: Path = RESULTS) -> str:
    """The Markdown table of all records in a folder."""
    rows = [
        "| experiment | test set | BLEU | chrF | dev PPL | steps | hours | hardware |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for path in sorted(folder.glob("*.json")):
        record = read_json(path)
        bleu, chrf = (f"{score['value']:.1f}" for score in record["scores"])
        machine = f"{record['hardware']['device']}, {record['hardware']['cores']} cores"
        cells = [
            f"[{record['experiment']}](experiments/results/{path.name})",
            f"{record['corpus']} {record['split']}",
            bleu,
            chrf,
            f"{record['dev_ppl']:.2f}",
            f"{record['steps']:,}",
            f"{record['train_hours']:.2f}",
            machine,
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
