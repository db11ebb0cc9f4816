"""Sick runs leave the band of their preset, and a healthy one with a new seed does not."""

from dataclasses import replace

import numpy as np
import pytest

from data.batching import Batches
from experiments import find
from experiments.inspection.band import band_of
from experiments.training.loop import train
from experiments.translator import Translator

pytestmark = pytest.mark.faults

STEPS = 400


def shuffle_targets(patch) -> None:
    """Every training batch has the targets of other sources."""
    right = Batches.__getitem__

    def shuffled(batches, step):
        batch = right(batches, step)
        return batch if batches.plan.seed is None else batch | {"target": np.roll(batch["target"], 1, axis=0)}

    patch.setattr(Batches, "__getitem__", shuffled)


def cut_translations(patch) -> None:
    """The second half of each translation is lost."""
    whole = Translator.translate

    def cut(translator, *arguments, **options):
        return [text[: len(text) // 2] for text in whole(translator, *arguments, **options)]

    patch.setattr(Translator, "translate", cut)


BROKEN = {"shuffled targets": shuffle_targets, "cut translations": cut_translations}
SICK = {"wrong rate": {"scale": 20.0}, "no warmup": {"warmup_steps": 1}}


@pytest.mark.parametrize("fault", ["none", *BROKEN, *SICK])
def test_sick_runs_leave_the_band_and_a_healthy_one_does_not(fault, tmp_path, monkeypatch):
    demo = find("demo")
    experiment = replace(
        demo,
        optimizer=replace(demo.optimizer, **SICK.get(fault, {})),
        train=replace(demo.train, steps=STEPS, seed=11),
    )
    band = band_of(experiment)
    assert band is not None and band.scores
    if fault in BROKEN:
        BROKEN[fault](monkeypatch)
    lines: list[str] = []
    train(experiment, tmp_path / "run", lines.append)
    side = "score" if fault == "cut translations" else "loss"
    told = [line for line in lines if "the band" in line]
    assert len(told) == (fault != "none") and all(f"the validation {side} is" in line for line in told), lines
    assert not told or ("other settings" in told[0]) == (fault in SICK)
