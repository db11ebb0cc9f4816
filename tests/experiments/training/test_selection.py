"""Which parameters of a run are used, and when it stops: moving average, best checkpoint, patience."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.dataset import prepare
from experiments.evaluation.metrics import bleu
from experiments.history import read_metrics
from experiments.training.loop import train
from experiments.translator import Translator
from tests.experiments.training.test_loop import assert_bitwise_equal, final_state
from transformer.checkpoint import choose, read_meta, saved_steps
from transformer.config import TrainConfig, UserError
from transformer.train import moving_average


def quiet(line: str) -> None:
    pass


def test_a_moving_average_weighs_each_step_by_the_decay():
    values = [1.0, 4.0, -2.0, 3.0, 8.0]
    ema, weights = {"w": jnp.array(0.0)}, []
    for step, value in enumerate(values):
        ema = moving_average(ema, {"w": jnp.array(value)}, jnp.array(step), 0.2)
        decay = min(0.2, (1 + step) / (10 + step))
        weights = [weight * decay for weight in weights] + [1 - decay]
    np.testing.assert_allclose(ema["w"], np.dot(weights, values), rtol=1e-6)
    assert weights[-1] == 0.8 and weights[0] < 0.01  # 0.1 in the first step, 0.2 from the third on


@pytest.mark.slow
def test_the_moving_average_is_kept_over_a_restart_and_can_be_loaded(micro, run, tmp_path):
    averaged = replace(micro, train=replace(micro.train, ema=0.9, steps=20))
    whole = train(averaged, tmp_path / "whole", quiet)
    for steps in (7, 20):
        parts = train(replace(averaged, train=replace(averaged.train, steps=steps)), tmp_path / "parts", quiet)
    (state, _), (expected, _) = final_state(parts, averaged), final_state(whole, averaged)
    assert_bitwise_equal(state, expected)
    loaded = Translator.load(whole.path, "ema", quiet)
    assert_bitwise_equal(loaded.params, state.ema)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (state.ema, state.params)), strict=True))
    # The parameters themselves are those of a run without the average.
    assert_bitwise_equal(state.params, Translator.load(run.path, "20", quiet).params)
    with pytest.raises(UserError, match=r"no moving average of parameters: it was trained without --train\.ema"):
        Translator.load(run.path, "ema", quiet)


@pytest.mark.slow
def test_a_run_stops_when_its_validation_no_longer_improves(micro, tmp_path):
    standing = replace(micro, optimizer=replace(micro.optimizer, scale=1e-30))
    patient = replace(standing, train=replace(micro.train, patience=2))
    lines: list[str] = []
    run = train(patient, tmp_path / "run", lines.append)
    assert "stopping at step 30: no better validation loss in 2 validations (--train.patience)" in lines
    assert saved_steps(run.checkpoints)[-1] == 30 and read_meta(run.checkpoints, "last")["best"]["since"] == 2
    again: list[str] = []
    train(patient, run.path, again.append)
    assert again[-1] == "nothing to do: no better validation loss in 2 validations (--train.patience)"
    train(replace(patient, train=replace(patient.train, patience=3)), run.path, lines.append)
    assert saved_steps(run.checkpoints)[-1] == 40


@pytest.mark.slow
def test_a_run_that_improves_is_not_stopped(run, micro, tmp_path):
    losses = [row["dev_loss"] for row in read_metrics(run.metrics) if "dev_loss" in row]
    assert losses == sorted(losses, reverse=True)
    patient = train(replace(micro, train=replace(micro.train, patience=1)), tmp_path / "run", quiet)
    assert_bitwise_equal(final_state(patient, micro)[0], final_state(run, micro)[0])


@pytest.mark.slow
def test_the_best_checkpoint_by_bleu_is_that_of_the_whole_validation_text(micro, tmp_path):
    by_bleu = replace(micro, train=replace(micro.train, best="score", keep=1))
    run = train(by_bleu, tmp_path / "run", quiet)
    scores = {row["step"]: row["dev_bleu"] for row in read_metrics(run.metrics) if "dev_bleu" in row}
    (best,) = choose(run.checkpoints, "best", 1)
    assert best == max(scores, key=lambda step: (scores[step], -step))
    meta = read_meta(run.checkpoints, "last")
    assert meta["criterion"] == -scores[40] and meta["best"]["value"] == -scores[best]
    translator = Translator.load(run.path, str(best), quiet)
    greedy = replace(translator.experiment.decode, beam=1, batch_size=2)
    translator.experiment = replace(translator.experiment, decode=greedy)
    data = prepare(micro.data)
    outputs = translator.translate(data.text("dev", "source"))
    assert len(outputs) == 12
    assert scores[best] == pytest.approx(bleu(None).corpus_score(outputs, [data.text("dev", "target")]).score)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ema": 1.0}, r"train\.ema must lie in \[0, 1\)"),
        ({"ema": -0.1}, r"train\.ema must lie in \[0, 1\)"),
        ({"patience": -1}, r"train\.patience must be 0 or more"),
        ({"stop_at": -1.0, "best": "score"}, r"train\.stop_at must be 0 or more"),
        ({"stop_at": 30.0}, r"train\.stop_at is a score .* set --train\.best score too"),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_a_run_stops_once_its_score_is_high_enough(micro, tmp_path):
    quick = replace(micro, train=replace(micro.train, steps=4, eval_every=1, best="score", stop_at=1e-6))
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        scores = iter((0.0, 5.0))
        patch.setattr("experiments.training.loop.sample_translations", lambda *given: next(scores))
        run = train(quick, tmp_path / "run", lines.append)
    assert "stopping at step 2: BLEU has reached 1e-06 (--train.stop-at)" in lines
    assert saved_steps(run.checkpoints)[-1] == 2
    again: list[str] = []
    train(quick, run.path, again.append)
    assert again[-1] == "nothing to do: BLEU has reached 1e-06 (--train.stop-at)"
