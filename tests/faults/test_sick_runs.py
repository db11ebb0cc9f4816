"""Sick runs leave the band of their preset, and a healthy one with a new seed does not."""

from dataclasses import replace

import numpy as np
import pytest

from data.batching import Batches
from experiments import find
from experiments.inspection.band import band_of
from experiments.training.loop import train

pytestmark = pytest.mark.faults

STEPS = 400


def shuffle_targets(patch) -> None:
    """Every training batch has the targets of other sources."""
    right = Batches.__getitem__

    def shuffled(batches, step):
        batch = right(batches, step)
        return batch if batches.plan.seed is None else batch | {"target": np.roll(batch["target"], 1, axis=0)}

    patch.setattr(Batches, "__getitem__", shuffled)


SICK = {"wrong rate": {"scale": 20.0}, "no warmup": {"warmup_steps": 1}}


@pytest.mark.parametrize("fault", ["none", "shuffled targets", *SICK])
def test_sick_runs_leave_the_band_and_a_healthy_one_does_not(fault, tmp_path, monkeypatch):
    demo = find("demo")
    experiment = replace(
        demo,
        optimizer=replace(demo.optimizer, **SICK.get(fault, {})),
        train=replace(demo.train, steps=STEPS, eval_sentences=4, seed=11),
    )
    assert band_of(experiment) is not None
    if fault == "shuffled targets":
        shuffle_targets(monkeypatch)
    lines: list[str] = []
    train(experiment, tmp_path / "run", lines.append)
    told = [line for line in lines if "above the band" in line]
    assert len(told) == (fault != "none"), lines
    assert not told or ("other settings" in told[0]) == (fault in SICK)
