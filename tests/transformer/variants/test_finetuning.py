"""Frozen parameters and low-rank adaptation, weight decay and gradient clipping."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from transformer.config import DataConfig, Experiment, LoraConfig, ModelConfig, OptimizerConfig, UserError
from transformer.model import Transformer
from transformer.optimizer import make_optimizer
from transformer.parameters import name_of
from transformer.train import graph_of, init_state, make_train_step
from transformer.variants.finetuning import LORA, add_lora, merge_lora

SMALL = Experiment(
    "small",
    model=ModelConfig(vocab_size=40, num_layers=1, d_model=16, d_ff=32, num_heads=2, d_k=8, d_v=8),
    data=DataConfig(vocab_size=40, batch_tokens=128),
    optimizer=OptimizerConfig(warmup_steps=2),
)
BATCH = {
    "source": jnp.array([[5, 6, 7, 2], [9, 8, 2, 0]], jnp.int32),
    "target": jnp.array([[11, 12, 2, 0], [13, 14, 15, 2]], jnp.int32),
}


def after(experiment: Experiment, steps: int = 2):
    """The states before and after some steps."""
    before = init_state(experiment)
    step, state = jax.jit(make_train_step(experiment)), before
    for _ in range(steps):
        state, metrics = step(state, BATCH, jax.random.key(0))
        assert float(metrics.skipped) == 0
    return before, state


def changed(before, after) -> set[str]:
    pairs = zip(*map(jax.tree_util.tree_leaves_with_path, (before.params, after.params)), strict=True)
    return {name_of(path) for (path, x), (_, y) in pairs if (x != y).any()}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("encoder", r"encoder\."),
        ("encoder.*,embedding", r"encoder\.|embedding"),
        ("*.bias", r".*\.bias"),
        ("decoder.0.cross_attention", r"decoder\.0\.cross_attention\."),
    ],
)
def test_frozen_parameters_keep_every_bit_and_the_others_are_trained(pattern, expected):
    before, state = after(replace(SMALL, freeze=pattern))
    names = {name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(before.params)}
    frozen = {name for name in names if re.match(expected, name)}
    moved = changed(before, state)
    assert frozen and not moved & frozen
    # The bias of a key has no gradient: softmax does not change if all scores of a query grow by the same amount.
    assert {name for name in names - frozen - moved if not name.endswith("key.bias")} == set()


def test_frozen_parameters_have_no_optimizer_state():
    frozen = init_state(replace(SMALL, freeze="encoder,decoder"))
    moments = [leaf.shape for leaf in jax.tree.leaves(frozen.opt_state) if leaf.ndim]
    assert moments == [(40, 16), (40, 16)]


@pytest.mark.parametrize("pattern", ["encode", "encoder.1", "nothing.*"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(UserError, match="matches no parameter"):
        init_state(replace(SMALL, freeze=pattern))


def test_there_must_be_something_to_train():
    with pytest.raises(UserError, match="every parameter is frozen"):
        init_state(replace(SMALL, freeze="*"))


ALL = "query,key,value,output,inner,outer"


@pytest.mark.parametrize("on", ["query,value", ALL])
def test_an_adapted_model_starts_as_the_model_itself(on):
    params = init_state(SMALL).params
    config = LoraConfig(rank=2, on=on)
    adapted = merge_lora(add_lora(params, config, jax.random.key(1)), config)
    jax.tree.map(np.testing.assert_array_equal, adapted, params)


def test_only_the_factors_are_trained():
    before, state = after(replace(SMALL, lora=LoraConfig(rank=2, on=ALL)))
    moved = changed(before, state)
    assert moved and all(name.startswith(f"{LORA}.") for name in moved)
    factors = jax.tree_util.tree_leaves_with_path(before.params[LORA])
    # 2 factors for 4 projections of each of 3 attentions, and for 2 matrices of each of 2 feed-forward networks
    assert len(factors) == 2 * (4 * 3 + 2 * 2)
    assert {f"{LORA}.{name_of(path)}" for path, _ in factors} - moved == set()


def test_a_merged_model_adds_the_product_in_front_of_each_matrix():
    """x (W + s a b) = x W + s (x a) b, for a projection with several axes on either side."""
    config = LoraConfig(rank=2, alpha=6.0, on=ALL)
    params = add_lora(init_state(SMALL).params, config, jax.random.key(1))
    params[LORA] = jax.tree.map(lambda x: jax.random.normal(jax.random.key(2), x.shape), params[LORA])
    merged = merge_lora(params, config)
    assert LORA not in merged
    model, plain = (nnx.merge(graph_of(SMALL.model), p) for p in (merged, merge_lora(params | {LORA: {}}, config)))
    x = jax.random.normal(jax.random.key(3), (2, 3, 16))
    for name in ("query", "output"):
        factors = params[LORA]["decoder"][0]["cross_attention"][name]
        given = x if name == "query" else x.reshape(2, 3, 2, 8)
        with_lora, without = (getattr(m.decoder[0].cross_attention, name) for m in (model, plain))
        added = 3.0 * (x @ factors["a"]) @ factors["b"]
        np.testing.assert_allclose(with_lora(given), without(given) + added.reshape(with_lora(given).shape), atol=1e-5)
    assert isinstance(model, Transformer)


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": -1}, "lora.rank must be 0 or more"),
        ({"rank": 2, "alpha": 0.0}, "lora.alpha must be positive"),
        ({"rank": 2, "on": "query,values"}, "lora.on names 'values'; there are: query"),
        ({"rank": 2, "on": ""}, "lora.on names ''"),
        ({"rank": 17}, "lora.rank = 17 is larger than query, a matrix of 16 x 16"),
    ],
)
def test_impossible_adaptations_are_refused(lora, message):
    with pytest.raises(UserError, match=message):
        init_state(replace(SMALL, lora=LoraConfig(**lora)))


def assert_close(x, y):
    np.testing.assert_allclose(x, y, atol=1e-5)


def with_optimizer(**settings) -> Experiment:
    return replace(SMALL, optimizer=replace(SMALL.optimizer, **settings))


def test_clipping_scales_a_gradient_to_the_global_norm():
    optimizer = make_optimizer(with_optimizer(clip_norm=0.5))
    plain = make_optimizer(SMALL)
    params = {"a": {"kernel": jnp.ones((2, 2))}, "b": {"bias": jnp.ones(5)}}
    large = jax.tree.map(lambda p: 3.0 * p, params)  # of global norm 9
    for scale, grads in ((0.5 / 9.0, large), (1.0, jax.tree.map(lambda p: 0.1 * p, params))):
        clipped, state = optimizer.update(grads, optimizer.init(params), params)
        expected, other = plain.update(jax.tree.map(lambda g, s=scale: g * s, grads), plain.init(params), params)
        jax.tree.map(assert_close, (clipped, jax.tree.leaves(state)), (expected, jax.tree.leaves(other)))


def test_weight_decay_shrinks_matrices_only_and_by_the_learning_rate():
    grads = {"a": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}, "embedding": jnp.ones((3, 2))}
    params = jax.tree.map(lambda g: 5.0 * g, grads)
    decayed, plain = make_optimizer(with_optimizer(weight_decay=0.1)), make_optimizer(SMALL)
    ours, theirs = (o.update(grads, o.init(params), params)[0] for o in (decayed, plain))
    difference = jax.tree.map(lambda a, b: a - b, ours, theirs)
    assert_close(difference["a"]["kernel"], jnp.full((2, 2), 0.5))
    assert_close(difference["a"]["bias"], jnp.zeros(2))
    assert_close(difference["embedding"], jnp.full((3, 2), 0.5))


def test_neither_changes_the_state_of_a_run_without_them():
    assert isinstance(make_optimizer(SMALL).init({"kernel": jnp.ones(1)}), optax.ScaleByAdamState)
