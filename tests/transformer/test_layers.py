from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.scipy.special import expit, ndtr

from transformer.dropout import dropout, random_bits
from transformer.initializers import INITIALIZERS
from transformer.layers import EncoderLayer, FeedForward, LayerNorm, Residual


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate):
    x = jnp.ones((400, 500))
    y = dropout(x, rate, jax.random.key(0))
    n = x.size
    assert abs((y == 0).sum() / n - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    assert abs(y.mean() - 1) < 5 * (rate / (1 - rate) / n) ** 0.5
    kept = y[y != 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_random_bits_look_random(seed):
    """Every bit is 0 or 1 equally often, and independent of other bits, of neighbours and of other keys."""
    key, other = jax.random.split(jax.random.key(seed))
    shape = (64, 32, 48)

    def signs(key):
        bits = np.array(random_bits(key, shape))
        return np.stack([(bits >> i & 1) * 2.0 - 1 for i in range(32)])

    one, two = signs(key), signs(other)
    n = one[0].size
    flat = one.reshape(32, -1)
    correlations = flat @ flat.T / n - np.eye(32)
    neighbours = [(one * np.roll(one, 1, axis)).mean(axis=(1, 2, 3)) for axis in (1, 2, 3)]
    rows = one.mean(axis=(2, 3)), one.mean(axis=(1, 2))
    for what, count in [
        (flat.mean(axis=1), n), (correlations, n), (np.stack(neighbours), n), ((one * two).mean(axis=(1, 2, 3)), n),
        (flat @ two.reshape(32, -1).T / n, n), (rows[0], n / 64), (rows[1], n / 48),
    ]:  # fmt: skip
        assert np.abs(what).max() < 5.5 / count**0.5


def test_random_bits_are_of_the_place_and_the_key():
    key = jax.random.key(7)
    whole = random_bits(key, (6, 5))
    np.testing.assert_array_equal(random_bits(key, (3, 2, 5)).reshape(6, 5), whole)
    np.testing.assert_array_equal(random_bits(key, (2, 5)), whole[:2])
    assert jnp.all(random_bits(jax.random.fold_in(key, 1), (6, 5)) != whole)


def test_no_dropout_without_a_key_or_a_rate():
    x = jnp.arange(6.0)
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_dropout_keeps_the_type():
    assert dropout(jnp.ones(8, jnp.bfloat16), 0.3, jax.random.key(0)).dtype == jnp.bfloat16


def test_feed_forward_is_equation_2(config):
    layer = FeedForward(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 3, config.d_model))
    inner = jnp.maximum(0, x @ layer.inner.kernel[...] + layer.inner.bias[...])
    np.testing.assert_allclose(layer(x), inner @ layer.outer.kernel[...] + layer.outer.bias[...], atol=1e-5)


@pytest.mark.parametrize("name, theirs", [("gelu", lambda x: x * ndtr(x)), ("swish", lambda x: x * expit(x))])
def test_activations_are_their_formulas(config, name, theirs):
    layer = FeedForward(replace(config, activation=name), rngs=nnx.Rngs(0))
    x = 3 * jax.random.normal(jax.random.key(0), (2, 3, config.d_model))
    inner = theirs(x @ layer.inner.kernel[...])
    np.testing.assert_allclose(layer(x), inner @ layer.outer.kernel[...], atol=1e-5)


def test_activation_dropout_is_between_the_matrices(config):
    layer, key = FeedForward(replace(config, activation_dropout=0.3), rngs=nnx.Rngs(0)), jax.random.key(0)
    x = jax.random.normal(jax.random.key(1), (2, 3, config.d_model))
    hidden = dropout(layer.hidden(x.reshape(6, -1)), 0.3, key)
    assert jnp.any((hidden == 0) != (layer.hidden(x.reshape(6, -1)) == 0))
    np.testing.assert_allclose(layer(x, key).reshape(6, -1), layer.outer(hidden), atol=1e-6)
    np.testing.assert_allclose(layer(x), layer.outer(layer.hidden(x.reshape(6, -1))).reshape(x.shape), atol=1e-6)


@pytest.mark.parametrize("name", sorted(INITIALIZERS.built_in))
def test_matrices_begin_as_the_initializer_says(config, name):
    """Of attention and of the feed-forward networks, with the fans of all heads together."""
    config = replace(config, d_model=96, d_ff=160, initializer=name, num_heads=8, d_k=16)
    layer = EncoderLayer(config, rngs=nnx.Rngs(0))
    for matrix, fans in (
        (layer.feed_forward.inner.kernel, 96 + 160),
        (layer.feed_forward.outer.kernel, 96 + 160),
        (layer.self_attention.query.kernel, 96 + 8 * 16),
    ):
        expected = {"glorot": (2 / fans) ** 0.5, "normal": 0.02}[name]
        np.testing.assert_allclose(matrix[...].std(), expected, rtol=0.03)


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_the_norm_does_not_lose_a_small_spread_around_a_large_mean(config):
    x = jax.random.normal(jax.random.key(0), (2, 3, config.d_model))
    norm = LayerNorm(config, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(norm(x + 3000), norm(x), atol=2e-3)


def test_norm_stands_where_the_config_says(config):
    x = np.array(jax.random.normal(jax.random.key(0), (2, 3, config.d_model)))
    post = Residual(replace(config, norm="post"), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(post(x, jnp.sin, None), normalised(x + np.sin(x)), atol=1e-4)
    pre = Residual(replace(config, norm="pre"), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(pre(x, jnp.sin, None), x + np.sin(normalised(x)), atol=1e-4)


def test_dropout_is_on_the_sublayers_output_alone(config):
    key, x = jax.random.key(1), jax.random.normal(jax.random.key(0), (2, 3, config.d_model))
    mask = dropout(jnp.ones_like(x), 0.3, key)
    assert jnp.any(mask == 0) and jnp.any(mask > 1)
    post = Residual(replace(config, norm="post", dropout=0.3), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(post(x, jnp.sin, key), normalised(x + mask * np.sin(x)), atol=1e-4)
    pre = Residual(replace(config, norm="pre", dropout=0.3), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(pre(x, jnp.sin, key), x + mask * np.sin(normalised(x)), atol=1e-4)
