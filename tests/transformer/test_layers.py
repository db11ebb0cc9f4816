from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer.layers import FeedForward, Residual, dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("generator", ["threefry2x32", "rbg"])
def test_dropout_zeroes_its_share_and_keeps_the_mean(rate, generator):
    x = jnp.ones((400, 500))
    y = dropout(x, rate, jax.random.key(0, impl=generator))
    n = x.size
    assert abs((y == 0).sum() / n - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    assert abs(y.mean() - 1) < 5 * (rate / (1 - rate) / n) ** 0.5
    kept = y[y != 0]
    np.testing.assert_allclose(kept, 1 / (1 - rate), rtol=1e-3)


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


def normalised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def test_norm_stands_where_the_config_says(config):
    x = np.array(jax.random.normal(jax.random.key(0), (2, 3, config.d_model)))
    post = Residual(replace(config, norm="post"), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(post(x, jnp.sin, None), normalised(x + np.sin(x)), atol=1e-4)
    pre = Residual(replace(config, norm="pre"), rngs=nnx.Rngs(0))
    np.testing.assert_allclose(pre(x, jnp.sin, None), x + np.sin(normalised(x)), atol=1e-4)


def test_dropout_is_on_the_sublayers_output(config):
    # A dropped output leaves x itself: with everything dropped but a sliver, the norm of x comes out.
    x = jax.random.normal(jax.random.key(0), (2, 3, config.d_model))
    layer = Residual(replace(config, dropout=0.99), rngs=nnx.Rngs(0))
    untouched = np.isclose(layer(x, jnp.zeros_like, jax.random.key(1)), normalised(np.array(x)), atol=1e-4)
    assert untouched.all()
