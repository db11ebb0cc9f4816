"""A small run on text files, trained once for all tests that need a trained model."""

from pathlib import Path

import pytest

from experiments.training.loop import train
from experiments.workdir import WorkDir
from tests.text import write_text
from transformer.config import DataConfig, DecodeConfig, Experiment, ModelConfig, OptimizerConfig, TrainConfig

SIZES = {"train": 300, "dev": 12, "test": 20}


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A folder with {train,dev,test}.{en,de}."""
    folder = tmp_path_factory.mktemp("text")
    write_text(folder, SIZES)
    return folder


@pytest.fixture(scope="session")
def data_flags():
    """Returns a function from such a folder to command-line flags."""

    def flags(folder: Path) -> list[str]:
        sides = (("src", "en"), ("tgt", "de"))
        return [
            word
            for split in SIZES
            for side, language in sides
            for word in (f"--data.{split}-{side}", str(folder / f"{split}.{language}"))
        ]

    return flags


@pytest.fixture(scope="session")
def micro(text) -> Experiment:
    """An experiment that trains in seconds, to a poor model."""
    files = {
        f"{split}_{side}": str(text / f"{split}.{language}")
        for split in SIZES
        for side, language in (("src", "en"), ("tgt", "de"))
    }
    return Experiment(
        "micro",
        model=ModelConfig(vocab_size=220, num_layers=1, d_model=32, d_ff=64, num_heads=2, d_k=16, d_v=16, dropout=0.1),
        data=DataConfig(vocab_size=200, max_length=40, batch_tokens=512, **files),
        optimizer=OptimizerConfig(warmup_steps=20),
        train=TrainConfig(steps=40, log_every=5, eval_every=10, eval_sentences=2, keep=3),
        decode=DecodeConfig(extra_length=8),  # so that the search compiles two lengths of the cache, not three
    )


@pytest.fixture(scope="session")
def run(micro, tmp_path_factory) -> WorkDir:
    return train(micro, tmp_path_factory.mktemp("runs") / "micro", log=lambda line: None)
