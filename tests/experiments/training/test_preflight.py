"""Preflight checks refuse broken custom components before the first step, with a reason."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from experiments.inspection.invariants import measure_invariants
from experiments.registry import run_file
from experiments.task import TASKS, Task
from experiments.training.preflight import preflight
from tests.documents import tables_restored
from tests.examples import EXAMPLES
from transformer.attention import ATTENTIONS, MultiHeadAttention, scaled_dot_product_attention
from transformer.config import UserError
from transformer.layers import FEED_FORWARDS, NORMS
from transformer.optimizer import OPTIMIZERS, SCHEDULES
from transformer.positions import POSITIONS, Positions
from transformer.train import LOSSES, batch_loss


@pytest.fixture(autouse=True)
def tables():
    with tables_restored():
        yield


class Leaking(MultiHeadAttention):
    def attend(self, queries, keys, values, context):
        return scaled_dot_product_attention(queries, keys, values, jnp.array(True))


class ByLength(Positions):
    def __call__(self, positions):
        return (positions / len(positions))[:, None]


class Narrow(Positions):
    def rotate(self, x, positions):
        return x[..., :3]


class Running(nnx.Module):
    def __init__(self, config, *, rngs):
        self.mean = nnx.BatchStat(jnp.zeros(config.d_model))

    def __call__(self, x):
        return x - self.mean[...]


def noisy(experiment):
    return optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.scale_by_adam())


def mean(model, batch, key, experiment):
    loss, count = batch_loss(model, batch, key)
    return loss / count, count


def with_padding(model, batch, key, experiment):
    logits = model(batch["source"], batch["target"], key)
    return -jax.nn.log_softmax(logits)[..., 5].sum(), batch_loss(model, batch, key)[1]


def each_token(model, batch, key, experiment):
    return -jax.nn.log_softmax(model(batch["source"], batch["target"], key))[..., 5], jnp.ones(())


BAD = {
    "leaking": ("model", "attention", ATTENTIONS, Leaking, "a later token of the target"),
    "by length": ("model", "positions", POSITIONS, ByLength, "padding after a source"),
    "narrow": ("model", "positions", POSITIONS, Narrow, "TypeError|ValueError"),
    "no class": ("model", "positions", POSITIONS, None, "TypeError"),
    "running": ("model", "norm_type", NORMS, Running, "not an nnx.Param"),
    "if": ("optimizer", "schedule", SCHEDULES, lambda s, e: 1.0 if s < 5 else 0.5, "TracerBoolConversionError"),
    "negative": ("optimizer", "schedule", SCHEDULES, lambda step, experiment: -0.1, "rate of step 1 is -0.1"),
    "nan": ("optimizer", "schedule", SCHEDULES, lambda step, experiment: float("nan"), "step 1 is nan"),
    "several": ("optimizer", "schedule", SCHEDULES, lambda step, experiment: jnp.ones(1), "a single number"),
    "uphill": ("optimizer", "name", OPTIMIZERS, lambda experiment: optax.adam(1e-3), "uphill"),
    "mean": ("train", "loss", LOSSES, mean, "not means"),
    "padding": ("train", "loss", LOSSES, with_padding, "without padding"),
    "one for each token": ("train", "loss", LOSSES, each_token, "two numbers"),
    "noisy": ("optimizer", "name", OPTIMIZERS, noisy, "random key"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_work_is_refused_by_name(micro, name):
    group, field, table, part, said = BAD[name]
    table["mine"] = part
    experiment = replace(micro, **{group: replace(getattr(micro, group), **{field: "mine"})})
    with pytest.raises(UserError, match=rf"{group}\.{field} = 'mine' cannot be used: .*({said})") as caught:
        preflight(experiment)
    assert "\n" not in str(caught.value)


def test_the_line_of_the_users_file_is_said(micro, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from transformer.positions import POSITIONS, Positions\n\n\nclass Mine(Positions):\n"
        "    def rotate(self, x, positions):\n        return x + missing\n\n\nPOSITIONS['mine'] = Mine\n"
    )
    run_file(file)
    with pytest.raises(UserError, match=r"NameError: .*missing.* \(line 6 of .*mine\.py\)"):
        preflight(replace(micro, model=replace(micro.model, positions="mine")))


@pytest.mark.parametrize("scale", [optax.scale_by_lion, optax.scale_by_factored_rms, optax.identity])
def test_what_goes_downhill_is_taken(micro, scale):
    OPTIMIZERS["mine"] = lambda experiment: scale()
    preflight(replace(micro, optimizer=replace(micro.optimizer, name="mine")))


class Unfinished(Task):
    metric = "accuracy"

    def metrics(self, language):
        return {"exactness": None}


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (None, "unknown data.task 'mine'"),
        (Unfinished, "is a class"),
        (SimpleNamespace(metric="accuracy"), "has no `metrics`"),
        (Unfinished(), r"'accuracy', which is not in its metrics \(exactness\)"),
    ],
    ids=["unknown", "class", "no task", "other score"],
)
def test_a_task_that_is_none_is_refused_by_name(micro, task, said):
    if task:
        TASKS["mine"] = task
    with pytest.raises(UserError, match=said):
        preflight(replace(micro, data=replace(micro.data, task="mine")), lambda line: None)


def test_the_examples_pass(micro):
    """The other examples are trained together in test_registry.py; ALiBi, which is not among them, is checked here."""
    run_file(EXAMPLES / "alibi.py")
    preflight(replace(micro, model=replace(micro.model, positions="alibi")))


def test_the_laws_hold_for_this_code_and_are_not_empty(config):
    small = replace(config, num_layers=1)
    assert max(measure_invariants(small)) < 1e-5
    ATTENTIONS["leaking"] = Leaking
    assert measure_invariants(replace(small, attention="leaking")).causal > 0.01


class WithoutDropout(MultiHeadAttention):
    def attend(self, queries, keys, values, context):
        return scaled_dot_product_attention(queries, keys, values, context.mask)


class OneLayer(nnx.Module):
    def __init__(self, config, *, rngs):
        self.only = nnx.Linear(config.d_model, config.d_model, rngs=rngs)

    def __call__(self, x, key=None):
        return self.only(x)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "table", "part", "rate"),
    [
        ("attention", ATTENTIONS, WithoutDropout, "attention_dropout"),
        ("feed_forward", FEED_FORWARDS, OneLayer, "activation_dropout"),
    ],
)
def test_dropout_that_a_component_ignores_is_not_silent(micro, field, table, part, rate):
    table["mine"] = part
    model = replace(micro.model, **{field: "mine"})
    preflight(replace(micro, model=model))
    with pytest.raises(UserError, match=rf"model\.{rate} is 0\.3, but it is not applied"):
        preflight(replace(micro, model=replace(model, **{rate: 0.3})))
    preflight(replace(micro, model=replace(micro.model, **{rate: 0.3})))
