"""Attentions for long inputs: equal to attention with a mask, and linear in the length."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import Array

from tests.transformer.compiled import beam_search, token_log_probs
from transformer.attention import (
    ATTENTIONS,
    AttentionContext,
    MultiHeadAttention,
    causal_mask,
    scaled_dot_product_attention,
)
from transformer.config import EOS, PAD, UserError
from transformer.model import Transformer
from transformer.segments import same_sentence, segments
from transformer.variants.long.linear import CHUNK, feature_map

WINDOWS = [("restricted", 1), ("restricted", 4), ("restricted", 7), ("sparse", 2), ("sparse", 5), ("sparse", 8)]


def packed_row(length: int, seed: int) -> Array:
    """Ids [2, length] of sentences of 1 to `length` tokens, the second row ending with padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 30, (2, length))
    tokens[rng.random((2, length)) < rng.choice([0.02, 0.1, 0.4])] = EOS
    padding = length // 3
    tokens[1, length - padding - 1 :] = [EOS] + [PAD] * padding
    return jnp.asarray(tokens)


def context_of(tokens: Array, causal: bool) -> AttentionContext:
    found = segments(tokens)
    mask = same_sentence(found, found)
    if causal:
        mask &= causal_mask(tokens.shape[1])
    return AttentionContext(mask, positions=(found.position,) * 2, tokens=found, causal=causal)


def made(config, name: str, window: int = 4) -> MultiHeadAttention:
    config = replace(config, attention=name, attention_window=window)
    return ATTENTIONS.find(name)(config, rngs=nnx.Rngs(1))


def random_inputs(config, length: int) -> tuple[Array, Array, Array]:
    """Queries [2, N, T, K], keys [2, N, K, T], values [2, N, T, H]."""
    N, K, H = config.num_heads, config.d_k, config.d_v
    shapes = (2, N, length, K), (2, N, K, length), (2, N, length, H)
    return tuple(jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes))


def by_mask(attention: MultiHeadAttention, inputs: tuple[Array, ...], context: AttentionContext) -> Array:
    """The output of equation 1 with the pattern as a mask."""
    positions = context.tokens.position
    reached = attention.pattern(positions, positions, context.causal)[:, None]
    return scaled_dot_product_attention(*inputs, context.mask & reached)[0]


def same_values_and_gradients(both, inputs, atol: float) -> None:
    """Asserts that the two results of a function of the inputs are equal, and their gradients too."""
    (found, expected), pull_back = jax.vjp(jax.jit(both), inputs)
    np.testing.assert_allclose(found, expected, atol=atol)
    wave = jnp.cos(jnp.arange(found.size).reshape(found.shape))
    zero = jnp.zeros_like(wave)
    for ours, theirs in zip(pull_back((wave, zero))[0], pull_back((zero, wave))[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5 * atol)


@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "decoder"])
@pytest.mark.parametrize(("name", "window"), WINDOWS)
def test_attention_in_blocks_is_attention_with_a_mask(config, name, window, causal):
    attention = made(config, name, window)
    for length in (13, 41):
        inputs, context = random_inputs(config, length), context_of(packed_row(length, length), causal)

        def both(inputs, context=context):
            return attention.attend(*inputs, context)[0], by_mask(attention, inputs, context)

        same_values_and_gradients(both, inputs, atol=2e-6)


@pytest.mark.parametrize("name", ["restricted", "sparse"])
def test_a_neighbourhood_of_everything_is_full_attention(config, name):
    inputs = random_inputs(config, 24)
    for causal in (False, True):
        context = context_of(packed_row(24, 3), causal)
        full, _ = MultiHeadAttention(config, rngs=nnx.Rngs(1)).attend(*inputs, context)
        np.testing.assert_allclose(made(config, name, 48).attend(*inputs, context)[0], full, atol=2e-6)


@pytest.mark.parametrize(("window", "causal", "expected"), [(4, False, [3, 4, 5, 6]), (4, True, [2, 3, 4, 5])])
def test_the_neighbourhood_has_r_tokens(config, window, causal, expected):
    position = jnp.arange(12)[None]
    reached = made(config, "restricted", window).pattern(position, position, causal)[0, 5]
    assert np.flatnonzero(reached).tolist() == expected


@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "decoder"])
def test_two_sparse_layers_connect_everything(config, causal):
    position = jnp.arange(60)[None]
    once = np.asarray(made(config, "sparse", 6).pattern(position, position, causal)[0], int)
    allowed = np.tril(np.ones_like(once)) if causal else np.ones_like(once)
    assert (once < allowed).any()
    np.testing.assert_array_equal(once @ once > 0, allowed > 0)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True], ids=["encoder", "decoder"])
def test_linear_attention_in_chunks_is_a_normalized_product_of_features(config, causal):
    attention = made(config, "linear")
    long, one = packed_row(3 * CHUNK + 7, 7), jnp.full((2, CHUNK + 1), 5)  # one sentence in two chunks
    for tokens in (long, one, one[:, :1]):
        inputs, context = random_inputs(config, tokens.shape[1]), context_of(tokens, causal)

        def dense(inputs, context=context):
            queries, keys, values = inputs
            scores = jnp.einsum("BNTK,BNKS->BNTS", feature_map(queries), feature_map(keys)) * context.mask
            return jnp.einsum("BNTS,BNSH->BNTH", scores / scores.sum(axis=-1, keepdims=True), values)

        def both(inputs, context=context):
            return attention.attend(*inputs, context)[0], dense(inputs)

        same_values_and_gradients(both, inputs, atol=1e-5)
        weights = jax.jit(partial(attention.attend, context=context))(*inputs)[1]
        np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-5)


@pytest.mark.slow
def test_what_fills_the_last_chunk_of_linear_attention_has_no_gradient(config):
    """Not compiled: XLA may or may not remove a product of 0 and NaN."""
    attention, context = made(config, "linear"), context_of(jnp.full((2, CHUNK + 1), 5), True)
    gradients = jax.grad(lambda inputs: attention.attend(*inputs, context)[0].sum())(random_inputs(config, CHUNK + 1))
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)


def test_features_are_positive():
    assert (feature_map(jnp.array([-8.0, -1.0, 0.0, 3.0])) > 0).all()
    np.testing.assert_allclose(feature_map(jnp.array([-1.0, 0.0, 3.0])), [np.exp(-1), 1, 4], rtol=1e-6)


def bytes_of(config, name: str, length: int) -> int:
    """Temporary memory of the compiled gradient of self-attention to one sentence of this length."""
    attention = made(config, name, 64)

    def loss(inputs):
        tokens = jnp.full((1, length), 5)
        return attention.attend(*inputs, context_of(tokens, True))[0].sum()

    shapes = jax.eval_shape(lambda: tuple(x[:1] for x in random_inputs(config, length)))
    return jax.jit(jax.grad(loss)).lower(shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(("name", "linear"), [("softmax", False), ("restricted", True), ("linear", True)])
def test_memory_grows_with_the_length(config, name, linear):
    growth = bytes_of(config, name, 4096) / bytes_of(config, name, 1024)
    assert (3.5 < growth < 4.5) if linear else growth > 8


def test_memory_of_sparse_attention_grows_less_than_with_the_square(config):
    assert bytes_of(config, "sparse", 4096) < bytes_of(config, "softmax", 4096) / 4


@pytest.mark.parametrize("name", ["restricted", "sparse", "linear"])
def test_an_attention_bias_is_refused(config, name):
    context = context_of(packed_row(8, 0), False)._replace(bias=jnp.zeros(()))
    with pytest.raises(UserError, match="attention bias"):
        made(config, name).attend(*random_inputs(config, 8), context)


def test_linear_attention_refuses_dropout_of_weights_that_it_does_not_have(config):
    with pytest.raises(UserError, match="attention_dropout"):
        made(replace(config, attention_dropout=0.1), "linear")


@pytest.mark.parametrize("name", ["restricted", "sparse", "linear"])
def test_a_search_with_a_cache_scores_as_forced_scoring_does(config, source, name):
    model = Transformer(replace(config, attention=name, attention_window=3), rngs=nnx.Rngs(0))
    found = beam_search(model, source, beam=3, alpha=0.0, extra_length=9, best=3)
    for rank in range(3):
        tokens = found.tokens[:, rank]
        scores = jnp.where(tokens == PAD, 0.0, token_log_probs(model, source, tokens)).sum(axis=1)
        np.testing.assert_allclose(found.scores[:, rank], scores, atol=1e-5)
