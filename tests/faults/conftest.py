"""Fault injection: `make test-faults`. The injected faults are counted, and a summary is printed at the end."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from experiments.training.loop import train
from experiments.workdir import WorkDir
from tests.text import write_text
from transformer.config import DataConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

COUNTS = "FAULT_COUNTS"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        path = Path(config.rootpath) / ".pytest_cache" / "faults.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("")
        os.environ[COUNTS] = str(path)


def pytest_terminal_summary(terminalreporter) -> None:
    total: Counter[str] = Counter()
    for line in Path(os.environ[COUNTS]).read_text().splitlines():
        total.update(json.loads(line))
    if total:
        terminalreporter.section("faults")
        for what, number in sorted(total.items()):
            terminalreporter.write_line(f"{number:6,}  {what}")


@pytest.fixture(scope="session")
def count():
    """Returns the function that counts a fault for the summary."""

    def add(what: str, number: int = 1) -> None:
        with open(os.environ[COUNTS], "a") as file:
            file.write(json.dumps({what: number}) + "\n")

    return add


@pytest.fixture(scope="session")
def victim(tmp_path_factory) -> Experiment:
    """An experiment that trains for half a minute, with a checkpoint every half second."""
    files = write_text(tmp_path_factory.mktemp("text"), {"train": 400, "dev": 12, "test": 12})
    return Experiment(
        "victim",
        model=ModelConfig(vocab_size=220, num_layers=1, d_model=32, d_ff=64, num_heads=2, d_k=16, d_v=16, dropout=0.1),
        data=DataConfig(vocab_size=200, max_length=40, batch_tokens=512, **files),
        optimizer=OptimizerConfig(warmup_steps=100),
        train=TrainConfig(steps=400, log_every=5, eval_every=20, eval_sentences=2, keep=3),
    )


@pytest.fixture(scope="session")
def undisturbed(victim, tmp_path_factory) -> WorkDir:
    """A run without faults, for comparison."""
    return train(victim, tmp_path_factory.mktemp("runs") / "victim", log=lambda line: None)
