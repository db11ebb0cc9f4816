"""Parts that came after 2017: each is its formula, and has the property that it is used for."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit

from tests.transformer.compiled import forward
from transformer.attention import ATTENTIONS, AttentionContext, causal_mask
from transformer.checkpoint import Checkpoints
from transformer.config import (
    PAD,
    DataConfig,
    Experiment,
    LoraConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    UserError,
)
from transformer.layers import make_feed_forward, make_norm
from transformer.loss import cross_entropy
from transformer.model import Transformer
from transformer.optimizer import inverse_sqrt, learning_rate, make_optimizer
from transformer.parameters import named
from transformer.positions import POSITIONS
from transformer.train import LOSSES, init_params, init_state, make_train_step
from transformer.variants.modern.muon import is_matrix

SMALL = Experiment(
    "small",
    model=ModelConfig(vocab_size=40, num_layers=1, d_model=16, d_ff=24, num_heads=2, d_k=6, d_v=10, dropout=0.0),
    data=DataConfig(vocab_size=40, batch_tokens=128),
    optimizer=OptimizerConfig(warmup_steps=4),
    train=TrainConfig(steps=20, label_smoothing=0.1),
)
BATCH = {
    "source": jnp.array([[5, 6, 7, 2], [9, 8, 2, 0]], jnp.int32),
    "target": jnp.array([[11, 12, 2, 0], [13, 14, 15, 2]], jnp.int32),
}


def using(name: str, **changes) -> Experiment:
    return replace(SMALL, optimizer=replace(SMALL.optimizer, name=name, **changes))


def random(*shape: int, seed: int = 0):
    return jax.random.normal(jax.random.key(seed), shape)


def test_rotary_products_depend_on_the_distance_alone(config):
    rotary = POSITIONS["rotary"](config, rngs=nnx.Rngs(0))
    query, key = (jnp.broadcast_to(random(10, seed=seed), (1, 1, 12, 10)) for seed in (0, 1))
    places = jnp.arange(12)[None]
    products = rotary.rotate(query, places)[0, 0] @ rotary.rotate(key, places + 100)[0, 0].T
    shifted = rotary.rotate(query, places + 900)[0, 0] @ rotary.rotate(key, places + 1000)[0, 0].T
    np.testing.assert_allclose(products, shifted, atol=2e-3)  # angles of 1,000 have a rounding error of 1e-4
    diagonals = [np.diagonal(products, distance) for distance in range(-8, 9)]
    assert all(np.ptp(diagonal) < 2e-4 for diagonal in diagonals)
    assert np.ptp([diagonal[0] for diagonal in diagonals]) > 0.1
    np.testing.assert_array_equal(rotary.rotate(query, 0 * places), query)


def test_rotary_pairs_turn_at_the_papers_wavelengths(config):
    """As multiplication of complex numbers by exp(i position / 10000^(2i / K))."""
    x, places = random(1, 1, 7, 10), jnp.arange(7)[None]
    turned = POSITIONS["rotary"](config, rngs=nnx.Rngs(0)).rotate(x, places)
    pairs = (x[..., :5] + 1j * x[..., 5:]) * np.exp(1j * np.arange(7)[:, None] / 10_000 ** (np.arange(0, 10, 2) / 10))
    np.testing.assert_allclose(turned, np.concatenate([pairs.real, pairs.imag], axis=-1), atol=1e-5)


def test_rotary_refuses_what_has_no_pairs(config):
    with pytest.raises(UserError, match=r"model\.positions rotary needs an even model\.d_k, not 7"):
        Transformer(replace(config, positions="rotary", d_k=7), rngs=nnx.Rngs(0))


def test_rms_norm_is_its_formula(config):
    norm, x = make_norm(replace(config, norm_type="rms"), rngs=nnx.Rngs(0)), 3 + random(2, 3, config.d_model)
    norm.scale[...] = random(config.d_model, seed=1)
    expected = x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + 1e-6) * norm.scale[...]
    np.testing.assert_allclose(norm(x), expected, rtol=1e-5)


def test_a_gated_network_is_its_formula(config):
    layer = make_feed_forward(replace(config, feed_forward="gated", activation="swish", biases=False), rngs=nnx.Rngs(0))
    x = random(2, 3, config.d_model)
    a = x @ layer.inner.kernel[...]
    expected = (a * expit(a) * (x @ layer.gate.kernel[...])) @ layer.outer.kernel[...]
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


def test_query_key_normalization_ignores_the_length_of_queries_and_keys(config):
    attention = ATTENTIONS["qk-norm"](config, rngs=nnx.Rngs(0))
    attention.scale[...] = jnp.array([2.0, 5.0, 10.0])[:, None, None]
    q, k, v = random(2, 3, 4, 10), random(2, 3, 10, 4, seed=1), random(2, 3, 4, 7, seed=2)
    context = AttentionContext(causal_mask(4))
    output, weights = attention.attend(q, k, v, context)
    longer, _ = attention.attend(20 * q, 0.3 * k, v, context)
    np.testing.assert_allclose(longer, output, atol=1e-5)
    cosines = (q @ k) / jnp.linalg.norm(q, axis=3, keepdims=True) / jnp.linalg.norm(k, axis=2, keepdims=True)
    scores = jnp.where(causal_mask(4), jnp.array([2.0, 5.0, 10.0])[:, None, None] * cosines, -jnp.inf)
    np.testing.assert_allclose(weights, jax.nn.softmax(scores, axis=-1), atol=1e-5)
    np.testing.assert_allclose(output, weights @ v, atol=1e-5)


def test_r_drop_is_its_formula():
    experiment = replace(SMALL, model=replace(SMALL.model, dropout=0.1))
    model, key = Transformer(experiment.model, rngs=nnx.Rngs(0)), jax.random.key(5)
    r_drop = LOSSES["r_drop"]

    def paper(p, q):
        real = BATCH["target"] != PAD
        divergence = [jnp.where(real, (a * jnp.log(a / b)).sum(axis=-1), 0).sum() for a, b in ((p, q), (q, p))]
        likelihoods = [cross_entropy(jnp.log(each), BATCH["target"], 0.1) for each in (p, q)]
        return (sum(loss for loss, _ in likelihoods) + 5.0 / 2 * sum(divergence)) / 2, likelihoods[0][1]

    for given, keys in ((key, jax.random.split(key)), (None, (None, None))):
        passes = [jax.nn.softmax(forward(model, BATCH["source"], BATCH["target"], each)) for each in keys]
        np.testing.assert_allclose(r_drop(model, BATCH, given, experiment), paper(*passes), rtol=1e-4)
    without, with_dropout = (float(r_drop(model, BATCH, given, experiment)[0]) for given in (None, key))
    assert abs(with_dropout - without) > 1e-2


def rates_of(schedule: str, steps: int, warmup: int) -> np.ndarray:
    experiment = using("adam", schedule=schedule, warmup_steps=warmup)
    experiment = replace(experiment, train=replace(SMALL.train, steps=steps))
    peak = inverse_sqrt(warmup, experiment)
    return np.array(jax.vmap(lambda step: learning_rate(step, experiment))(jnp.arange(1, steps + 1)) / peak)


def test_wsd_rises_stays_and_falls_to_zero():
    rates = rates_of("wsd", steps=1000, warmup=100)
    np.testing.assert_allclose(rates[:100], np.arange(1, 101) / 100, rtol=1e-5)
    np.testing.assert_allclose(rates[100:600], 1.0, rtol=1e-6)
    np.testing.assert_allclose(rates[600:], np.arange(400, 0, -1) / 401, rtol=1e-4)


@pytest.mark.parametrize(("steps", "warmup"), [(100, 90), (100, 100), (100, 4000), (1, 1), (2, 1)])
def test_wsd_does_not_decay_before_the_warmup_ends_and_every_rate_is_positive(steps, warmup):
    rates = rates_of("wsd", steps, warmup)
    first = min(steps, warmup)
    np.testing.assert_allclose(rates[:first], np.arange(1, first + 1) / warmup, rtol=1e-5)
    assert (rates > 0).all() and (np.diff(rates[first:]) < 0).all()


def test_constant_is_constant_after_the_warmup():
    rates = rates_of("constant", steps=1000, warmup=100)
    np.testing.assert_allclose(rates, np.minimum(np.arange(1, 1001) / 100, 1.0), rtol=1e-5)


@cache
def params_and_grads():
    params = init_params(SMALL.model, 0)
    leaves, structure = jax.tree.flatten(params)
    return params, jax.tree.unflatten(structure, [0.01 * random(*x.shape, seed=n) for n, x in enumerate(leaves)])


def direction_of(experiment: Experiment):
    params, grads = params_and_grads()
    optimizer = make_optimizer(experiment)

    @jax.jit
    def direction(params, grads):
        return optimizer.update(grads, optimizer.init(params), params)[0]

    return direction(params, grads)


def test_muon_makes_matrices_orthogonal_and_leaves_the_rest_to_adam():
    """D x NK and NH x D: what queries, keys, values and heads are multiplied by, with those of all heads together."""
    found, adams = named(direction_of(using("muon"))), named(direction_of(SMALL))
    grads, seen = named(params_and_grads()[1]), 0
    for name, update in found.items():
        if not name.endswith("kernel"):
            np.testing.assert_allclose(update, adams[name], rtol=1e-5, err_msg=name)
            continue
        rows = 20 if "output" in name else update.shape[0]
        matrix, gradient = (np.asarray(x).reshape(rows, -1) for x in (update, grads[name]))
        values = np.linalg.svd(matrix, compute_uv=False) / (0.2 * max(matrix.shape) ** 0.5)
        assert values.min() > 0.6 and values.max() < 1.3, (name, values)
        u, _, v = np.linalg.svd(gradient, full_matrices=False)
        assert ((u @ v) * matrix).sum() > 0.95 * np.linalg.norm(u @ v) * np.linalg.norm(matrix), name
        assert np.sqrt(np.mean(np.square(matrix))) == pytest.approx(0.2, rel=0.15), name
        seen += 1
    assert seen == 3 * 4 + 2 * 2


def test_muon_takes_low_rank_factors_for_matrices_and_embeddings_for_none():
    experiment = replace(SMALL, lora=LoraConfig(rank=2, on="query,output"))
    chosen = named(is_matrix(jax.eval_shape(lambda: init_state(experiment).params)))
    assert chosen == {name: name.endswith(("kernel", ".a", ".b")) for name in chosen}
    assert chosen["lora.decoder.0.cross_attention.output.b"] and not chosen["embedding"]


def after(experiment: Experiment, steps: int, state=None):
    """The state after some more steps, and the loss of each."""
    state, losses = init_state(experiment) if state is None else state, []
    for _ in range(steps):
        state, metrics = step_of(experiment)(state, BATCH, jax.random.key(0))
        assert float(metrics.skipped) == 0
        losses.append(float(metrics.loss))
    return state, losses


@cache
def step_of(experiment: Experiment):
    return jax.jit(make_train_step(experiment))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muon", "schedule_free"])
def test_a_run_goes_downhill_and_resumes_bitwise(tmp_path, name):
    experiment = using(name, schedule="constant", warmup_steps=40)
    state, losses = after(experiment, 4)
    assert losses[3] < losses[2] < losses[1] < losses[0]
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state, {"dev_loss": 1.0})
    checkpoints.close()
    restored, _ = Checkpoints(tmp_path).restore_state(state)
    (one, _), (other, _) = after(experiment, 2, state), after(experiment, 2, restored)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["muon", "schedule_free"])
@pytest.mark.parametrize("how", [{"freeze": "encoder"}, {"lora": LoraConfig(rank=2)}], ids=["freeze", "lora"])
def test_what_is_frozen_stays_and_the_rest_moves(name, how):
    experiment = replace(using(name, clip_norm=1.0, weight_decay=0.1 * (name == "muon")), **how)
    before, trained = named(init_state(experiment).params), named(after(experiment, 2)[0].params)
    for key, old in before.items():
        moves = not key.startswith("encoder") if "freeze" in how else key.startswith("lora")
        assert np.any(trained[key] != old) == moves, key


def test_weight_decay_is_added_to_muon():
    params, _ = params_and_grads()
    plain, decayed = (named(direction_of(using("muon", weight_decay=decay))) for decay in (0.0, 0.1))
    for name, x in named(params).items():
        expected = 0.0 if name.endswith(("bias", "scale")) else 0.1 * x
        np.testing.assert_allclose(decayed[name] - plain[name], expected, atol=1e-6, err_msg=name)


def test_schedule_free_is_the_papers_algorithm():
    """Algorithm 1 of Defazio et al. with bias correction, in NumPy, on noisy gradients of a parabola."""
    experiment = using("schedule_free", schedule="constant", warmup_steps=4, b1=0.8)
    b1, b2, eps = 0.8, experiment.optimizer.b2, experiment.optimizer.eps
    start, noise = np.linspace(-1, 2, 5), np.random.default_rng(0).normal(size=(9, 5))
    optimizer = make_optimizer(experiment)
    update = jax.jit(optimizer.update)
    params = {"w": jnp.array(start, jnp.float32)}
    state = optimizer.init(params)
    x, z, v, weights = start.copy(), start.copy(), np.zeros(5), 0.0
    for t in range(1, 10):
        rate = float(learning_rate(t, experiment))
        y = (1 - b1) * z + b1 * x
        np.testing.assert_allclose(params["w"], y, rtol=1e-5, atol=1e-6)
        gradient = y + noise[t - 1]
        v = b2 * v + (1 - b2) * gradient**2
        z = z - rate * gradient / (np.sqrt(v / (1 - b2**t)) + eps)
        weights += rate**2
        x = x + rate**2 / weights * (z - x)
        direction, state = update({"w": params["w"] + noise[t - 1].astype(np.float32)}, state, params)
        params = jax.tree.map(lambda p, d, rate=rate: p - rate * d, params, direction)
    assert np.abs(params["w"] - start).max() > 0.1


@pytest.mark.parametrize(("changes", "named"), [({"b1": 0.0}, "b1 above 0"), ({"weight_decay": 0.1}, "weight_decay")])
def test_schedule_free_refuses_what_it_has_not(changes, named):
    with pytest.raises(UserError, match=rf"optimizer\.name schedule_free .*optimizer\.{named}"):
        make_optimizer(using("schedule_free", **changes))
