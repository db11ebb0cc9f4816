from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.registry import run_file
from tests.documents import tables_restored
from tests.examples import EXAMPLES
from transformer.config import (
    DataConfig,
    DecodeConfig,
    Experiment,
    MeshConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    UserError,
)
from transformer.initializers import rngs_of
from transformer.loss import cross_entropy
from transformer.model import count_parameters
from transformer.train import (
    LOSSES,
    batch_loss,
    dropout_key,
    graph_of,
    init_params,
    init_state,
    make_eval_step,
    make_train_step,
    sum_of_squares,
)


@pytest.fixture(scope="module")
def experiment(config):
    return Experiment(
        "test",
        model=replace(config, num_layers=1),  # one layer is enough to test a step
        data=DataConfig(vocab_size=20),
        optimizer=OptimizerConfig(warmup_steps=20),
        train=TrainConfig(label_smoothing=0.1),
    )


@pytest.fixture(scope="module")
def batch():
    """Eight pairs of very different lengths, two of them empty rows."""
    key = jax.random.key(0)
    tokens = jax.random.randint(key, (2, 8, 9), 4, 29)
    lengths = jnp.array([[9, 1, 4, 7, 2, 9, 0, 0], [1, 9, 2, 5, 8, 1, 0, 0]])
    real = jnp.arange(9) < lengths[:, :, None]
    source, target = jnp.where(real, tokens, 0)
    return {"source": source, "target": target}


def leaves_close(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@cache
def step_of(experiment):
    """The training step, compiled once for all tests."""
    return jax.jit(make_train_step(experiment))


def start_of(experiment):
    """The initial state, which is the same for all values of dropout and of the training settings."""
    return start_of_model(replace(experiment.model, dropout=0.0, dtype="float32"))


@cache
def start_of_model(model):
    return jax.jit(lambda: init_state(Experiment("start", model=model, data=DataConfig(vocab_size=20))))()


def first_step(experiment, batch):
    return step_of(experiment)(start_of(experiment), batch, jax.random.key(0))


@pytest.mark.parametrize("parts", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (4, 8))])
def test_accumulated_gradients_are_those_of_the_whole_batch(experiment, batch, parts):
    # Adam's first moment after one step is the gradient times 1 - b1. Dropout is off, since its masks would differ.
    whole, whole_metrics = first_step(still(experiment), batch)
    split, split_metrics = first_step(still(experiment, accumulate=parts), batch)
    leaves_close(split.opt_state.mu, whole.opt_state.mu, atol=1e-7, rtol=1e-5)
    np.testing.assert_allclose(split_metrics.loss, whole_metrics.loss, rtol=1e-6)
    assert split_metrics.tokens == whole_metrics.tokens == (batch["target"] != 0).sum()


@pytest.mark.parametrize(
    ("config", "name"),
    [(ModelConfig, "d_ff"), (DataConfig, "batch_tokens"), (OptimizerConfig, "warmup_steps"), (TrainConfig, "steps"),
     (MeshConfig, "fsdp"), (DecodeConfig, "beam")],
)  # fmt: skip
@pytest.mark.parametrize("value", [0, 2**31])
def test_a_count_that_jax_cannot_count_is_refused(config, name, value):
    with pytest.raises(UserError, match=rf"\.{name} must be at (least 1|most 2147483647), not {value}"):
        config(**{name: value})


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_numpy_or_jax_does_not_take_is_refused(seed):
    with pytest.raises(UserError, match=rf"train.seed must lie in \[0, 4294967295\], not {seed}"):
        TrainConfig(seed=seed)


def test_a_step_is_a_function_of_state_batch_and_key(experiment, batch):
    once, again = first_step(experiment, batch), first_step(experiment, batch)
    for x, y in zip(jax.tree.leaves(once), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)


def test_dropout_differs_from_step_to_step_and_from_seed_to_seed(experiment, batch):
    step, state = step_of(experiment), start_of(experiment)
    losses = [
        float(step(state._replace(step=jnp.array(n)), batch, jax.random.key(seed))[1].loss)
        for n, seed in ((0, 0), (1, 0), (0, 1))
    ]
    assert len(set(losses)) == 3


def still(experiment, **train):
    """The same without dropout, so that the gradient can be computed in other ways."""
    return replace(
        experiment,
        model=replace(experiment.model, dropout=0.0),
        train=replace(experiment.train, **train),
    )


def mean_gradient(experiment, batch):
    """Returns the gradient of the loss per token as a function of the parameters, computed from all logits at once."""

    def loss(params):
        logits = nnx.merge(graph_of(experiment.model), params)(batch["source"], batch["target"])
        total, count = cross_entropy(logits, batch["target"], experiment.train.label_smoothing)
        return total / count

    return jax.jit(jax.grad(loss))


def test_two_steps_follow_adam_and_the_schedule(experiment, batch):
    """Compares with Algorithm 1 of Kingma and Ba, on gradients that are computed independently of the step."""
    experiment = still(experiment)
    step, state, gradient_at = step_of(experiment), start_of(experiment), mean_gradient(experiment, batch)
    m = v = jax.tree.map(lambda p: np.zeros(p.shape), state.params)
    for t in (1, 2):
        gradient = gradient_at(state.params)
        m = jax.tree.map(lambda m, g: 0.9 * m + (1 - 0.9) * np.array(g), m, gradient)
        v = jax.tree.map(lambda v, g: 0.98 * v + (1 - 0.98) * np.array(g) ** 2, v, gradient)
        rate = experiment.model.d_model**-0.5 * t * experiment.optimizer.warmup_steps**-1.5
        after, _ = step(state, batch, jax.random.key(0))
        # Adam's update does not depend on the gradient's scale, but its moments do.
        leaves_close(after.opt_state.mu, m, rtol=1e-3, atol=1e-7)
        leaves_close(after.opt_state.nu, v, rtol=2e-3, atol=1e-11)
        checked = 0
        for p0, p1, m_t, v_t in zip(*map(jax.tree.leaves, (state.params, after.params, m, v)), strict=True):
            update = rate * (m_t / (1 - 0.9**t)) / (np.sqrt(v_t / (1 - 0.98**t)) + 1e-9)
            # Where the gradient is only rounding noise, as for the key biases, the update is arbitrary.
            sure = np.sqrt(v_t) > 1e-5
            checked += sure.sum()
            np.testing.assert_allclose((p0 - p1)[sure], update[sure], rtol=1e-2, atol=1e-6)
        assert checked > 0.9 * count_parameters(experiment.model)
        state = after


def test_each_part_of_a_batch_draws_its_own_dropout(experiment, batch, monkeypatch):
    drawn = []

    def spy(model, batch, key, smoothing):
        jax.debug.callback(lambda data: drawn.append(tuple(data.tolist())), jax.random.key_data(key))
        return batch_loss(model, batch, key, smoothing)

    monkeypatch.setattr("transformer.train.batch_loss", spy)
    parts = replace(experiment, train=replace(experiment.train, accumulate=4))
    jax.jit(make_train_step(parts))(start_of(parts), batch, jax.random.key(0))
    jax.effects_barrier()
    assert len(set(drawn)) == len(drawn) == 4


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_what_is_dropped_owes_nothing_to_where_the_parameters_began(seed):
    key, counts = jax.random.key(seed), jnp.arange(1000)
    initial = jax.random.key_data(jax.vmap(lambda n: jax.random.fold_in(key, n))(counts))
    for rngs in (nnx.Rngs(seed), rngs_of(seed)):  # as Flax derives them
        np.testing.assert_array_equal(initial[:3], [jax.random.key_data(rngs.params()) for _ in range(3)])
    drawn = jax.random.key_data(jax.vmap(lambda n: dropout_key(key, n))(counts))
    both = np.concatenate([initial, drawn])
    assert len(np.unique(both, axis=0)) == len(both) == 2000


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_non_finite_step_changes_no_parameter_and_is_counted(experiment, batch, poison):
    step = step_of(experiment)
    good, _ = step(start_of(experiment), batch, jax.random.key(0))
    broken = good._replace(params=jax.tree.map(jnp.copy, good.params))
    broken.params["encoder"][0]["feed_forward"]["inner"]["bias"] += poison
    after, metrics = step(broken, batch, jax.random.key(0))
    assert metrics.skipped == 1 and metrics.tokens == 0 and metrics.loss == 0
    assert after.step == good.step + 1 and after.bad_steps == 1
    for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(broken.params), strict=True):
        np.testing.assert_array_equal(x, y)
    for x, y in zip(jax.tree.leaves(after.opt_state), jax.tree.leaves(good.opt_state), strict=True):
        np.testing.assert_array_equal(x, y)
    again, _ = step(after, batch, jax.random.key(0))
    assert again.bad_steps == 2
    healed, metrics = step(again._replace(params=good.params), batch, jax.random.key(0))
    assert healed.bad_steps == 0 and metrics.skipped == 0


def test_one_infinity_in_any_array_makes_the_sum_of_squares_infinite(config):
    params = init_params(replace(config, num_layers=2), seed=0)
    zeros = jax.tree.map(jnp.zeros_like, params)
    leaves, structure = jax.tree.flatten(params)
    total = jax.jit(sum_of_squares)
    np.testing.assert_allclose(total(params, zeros), sum(np.sum(np.square(leaf)) for leaf in leaves), rtol=1e-5)
    for n, leaf in enumerate(leaves):
        infinite = jnp.zeros_like(leaf).at[(-1,) * leaf.ndim].set(-jnp.inf)
        poisoned = jax.tree.unflatten(structure, [*leaves[:n], infinite, *leaves[n + 1 :]])
        assert total(poisoned, zeros) == total(zeros, poisoned) == jnp.inf


def test_an_update_beyond_all_numbers_is_skipped_too(experiment, batch, monkeypatch):
    """The loss and its gradient are finite, but the learning rate is not."""
    monkeypatch.setattr("transformer.train.learning_rate", lambda step, experiment: jnp.float32(jnp.inf))
    start = start_of(experiment)
    after, metrics = jax.jit(make_train_step(experiment))(start, batch, jax.random.key(0))
    assert metrics.skipped == 1
    for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(start.params), strict=True):
        np.testing.assert_array_equal(x, y)


def test_an_empty_batch_is_harmless(experiment, batch):
    empty = jax.tree.map(jnp.zeros_like, batch)
    state, metrics = first_step(experiment, empty)
    assert metrics.tokens == 0 and metrics.skipped == 0
    assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))


def test_evaluation_has_neither_smoothing_nor_dropout(experiment, batch):
    state = start_of(experiment)
    evaluate = jax.jit(make_eval_step(experiment))
    loss, count = evaluate(state.params, batch)
    assert (loss, count) == evaluate(state.params, batch)
    _, metrics = first_step(still(experiment, label_smoothing=0.0), batch)
    np.testing.assert_allclose(loss, metrics.loss, rtol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        {},
        pytest.param({"norm": "pre"}, marks=pytest.mark.slow),
        pytest.param({"positions": "learned"}, marks=pytest.mark.slow),
        pytest.param({"dtype": "bfloat16"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_it_learns_to_reverse(experiment, change):
    """End-to-end test: the model learns nearly all of a toy task that requires attention and positions."""
    toy = replace(
        experiment,
        model=replace(experiment.model, dropout=0.0, **change),
        optimizer=OptimizerConfig(warmup_steps=200, scale=0.5),
        train=replace(experiment.train, label_smoothing=0.0),
    )
    step, state, key = step_of(toy), start_of(toy), jax.random.key(0)
    rng = np.random.default_rng(0)
    # Stop at the threshold: the task is learned after about 150 steps, but rounding may cause a later relapse.
    for _ in range(1000):
        words = rng.integers(4, 14, (64, 5))
        end = np.full((64, 1), 2)
        batch = {"source": np.hstack([words, end]), "target": np.hstack([words[:, ::-1], end])}
        state, metrics = step(state, batch, key)
        if metrics.loss / metrics.tokens < 0.1:
            return
    pytest.fail(f"after 1,000 steps the loss is {metrics.loss / metrics.tokens:.2f} per token")


@pytest.fixture
def focal():
    with tables_restored():
        run_file(EXAMPLES / "focal_loss.py")
        yield LOSSES["focal"]


@pytest.mark.slow
def test_a_training_loss_of_ones_own_is_what_is_trained_and_not_what_is_validated(focal, experiment, batch):
    own = replace(experiment, train=replace(experiment.train, loss="focal"))
    state, key = start_of(own), jax.random.key(0)
    (_, ours), (_, usual) = (step_of(one)(state, batch, key) for one in (own, experiment))
    model = nnx.merge(graph_of(own.model), state.params)
    np.testing.assert_allclose(ours.loss, focal(model, batch, dropout_key(key, 0), own)[0], rtol=1e-4)
    assert abs(float(ours.loss - usual.loss)) > 1e-2
    both = [jax.jit(make_eval_step(one))(state.params, batch) for one in (own, experiment)]
    np.testing.assert_array_equal(*both)
