import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer.attention import (
    AttentionContext,
    MultiHeadAttention,
    causal_mask,
    padding_mask,
    scaled_dot_product_attention,
)
from transformer.config import ModelConfig

B, T, S, N, K, H = 2, 3, 5, 4, 6, 7


@pytest.fixture
def qkv():
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = (B, N, T, K), (B, N, K, S), (B, N, S, H)
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def test_worked_by_hand():
    # One query with scores 0 and ln 3 after scaling: weights 1/4 and 3/4.
    q = jnp.array([[[[2.0, 0.0, 0.0, 0.0]]]])
    k = jnp.array([[[[0.0, np.log(3.0)], [5.0, 9.0], [0.0, 0.0], [0.0, 0.0]]]])
    v = jnp.array([[[[4.0], [8.0]]]])
    output, weights = scaled_dot_product_attention(q, k, v, jnp.ones((1, 1, 1, 2), bool))
    np.testing.assert_allclose(weights[0, 0, 0], [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(output[0, 0, 0], [7.0], rtol=1e-6)


def test_weights_are_a_distribution_over_what_the_mask_allows(qkv):
    mask = jax.random.bernoulli(jax.random.key(1), 0.5, (B, 1, T, S)).at[..., 0].set(True)
    _, weights = scaled_dot_product_attention(*qkv, mask)
    assert weights.shape == (B, N, T, S)
    np.testing.assert_allclose(weights.sum(-1), 1.0, rtol=1e-6)
    assert jnp.all(jnp.where(mask, 0.0, weights) == 0.0)


def test_masked_keys_and_values_do_not_matter(qkv):
    q, k, v = qkv
    mask = jnp.array([True, True, False, True, False])[None, None, None]
    expected, _ = scaled_dot_product_attention(q, k, v, mask)
    other, _ = scaled_dot_product_attention(q, k.at[..., [2, 4]].set(1e4), v.at[:, :, [2, 4]].set(-1e4), mask)
    np.testing.assert_array_equal(other, expected)


def test_the_order_of_keys_does_not_matter(qkv):
    # Attention is permutation-equivariant: this is why the model needs positions.
    q, k, v = qkv
    order = jnp.array([3, 0, 4, 2, 1])
    mask = jnp.ones((1, 1, 1, S), bool)
    expected, _ = scaled_dot_product_attention(q, k, v, mask)
    shuffled, _ = scaled_dot_product_attention(q, k[..., order], v[:, :, order], mask)
    np.testing.assert_allclose(shuffled, expected, atol=1e-6)


def test_a_query_with_nothing_to_look_at_is_finite(qkv):
    output, weights = scaled_dot_product_attention(*qkv, jnp.zeros((1, 1, 1, S), bool))
    assert jnp.all(jnp.isfinite(output))
    np.testing.assert_allclose(weights, 1 / S, rtol=1e-6)
    gradient = jax.grad(lambda q: scaled_dot_product_attention(q, *qkv[1:], jnp.zeros((1, 1, 1, S), bool))[0].sum())
    assert jnp.all(jnp.isfinite(gradient(qkv[0])))


def test_softmax_is_float32_when_products_are_bfloat16(qkv):
    output, weights = scaled_dot_product_attention(*(x.astype(jnp.bfloat16) for x in qkv), jnp.ones((1, 1, 1, S), bool))
    assert output.dtype == jnp.bfloat16
    assert weights.dtype == jnp.float32


def test_a_bias_is_added_to_the_scores(qkv):
    mask, bias = jnp.ones((1, 1, 1, S), bool), jnp.log(jnp.arange(1.0, S + 1))
    _, plain = scaled_dot_product_attention(*qkv, mask)
    _, biased = scaled_dot_product_attention(*qkv, mask, bias)
    expected = plain * jnp.arange(1.0, S + 1)
    np.testing.assert_allclose(biased, expected / expected.sum(-1, keepdims=True), rtol=1e-5)


def test_queries_and_keys_are_turned_and_values_are_not(config):
    attention = MultiHeadAttention(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (B, T, config.d_model))
    mask = causal_mask(T)
    plain, thrice = attention.project(x), attention.project(x, lambda keys: 3 * keys)
    np.testing.assert_allclose(thrice.keys, 3 * plain.keys, rtol=1e-6)
    np.testing.assert_array_equal(thrice.values, plain.values)
    turned, by_hand = [], []
    attention(x, plain, AttentionContext(mask, rotate=lambda queries: 3 * queries), turned)
    attention(x, plain._replace(keys=3 * plain.keys), AttentionContext(mask), by_hand)
    np.testing.assert_allclose(turned[0], by_hand[0], rtol=1e-5)


def test_matrices_begin_with_glorots_variance_over_all_heads():
    D, N, K, H = 64, 8, 24, 40
    attention = MultiHeadAttention(ModelConfig(d_model=D, num_heads=N, d_k=K, d_v=H), rngs=nnx.Rngs(0))
    for name, width in (("query", K), ("key", K), ("value", H), ("output", H)):
        kernel = getattr(attention, name).kernel[...]
        np.testing.assert_allclose(kernel.std(), (2 / (D + N * width)) ** 0.5, rtol=0.05, err_msg=name)


def test_multi_head_is_the_papers_concatenation(config):
    # Concat(head_1 ... head_h) W^O, each head computed separately.
    attention = MultiHeadAttention(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (B, T, config.d_model))
    memory = jax.random.normal(jax.random.key(2), (B, S, config.d_model))
    heads = []
    for i in range(config.num_heads):
        q, k, v = (
            jnp.einsum("btd,dk->btk", inputs, layer.kernel[...][:, i]) + layer.bias[...][i]
            for inputs, layer in ((x, attention.query), (memory, attention.key), (memory, attention.value))
        )
        weights = jax.nn.softmax(jnp.einsum("btk,bsk->bts", q, k) / config.d_k**0.5)
        heads.append(weights @ v)
    kernel = attention.output.kernel[...].reshape(-1, config.d_model)
    expected = jnp.concatenate(heads, axis=-1) @ kernel + attention.output.bias[...]
    got = attention(x, attention.project(memory), AttentionContext(jnp.ones((1, 1, 1, S), bool)))
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_masks():
    np.testing.assert_array_equal(causal_mask(3)[0, 0], [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(padding_mask(jnp.array([[5, 3, 0]]))[0, 0], [[1, 1, 0]])
