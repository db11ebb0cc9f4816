"""A decoder in segments with memory: equal to full attention where the memory covers everything."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.transformer.compiled import decode, encode
from transformer.config import EOS, PAD, ModelConfig
from transformer.model import Transformer
from transformer.variants.long.recurrence import RecurrentTransformer

decode_next = jax.jit(RecurrentTransformer.decode_next)


def made(config: ModelConfig, **changes) -> RecurrentTransformer:
    small = {"architecture": "recurrent", "attention": "relative", "positions": "none"}
    return RecurrentTransformer(replace(config, **{**small, **changes}), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def rows():
    """Sources [3, 8] and targets [3, 12]: two sentences, one with padding, one without EOS."""
    rng = np.random.default_rng(0)
    source, target = rng.integers(4, 29, (3, 8)), rng.integers(4, 29, (3, 12))
    source[0, 3] = target[0, 6] = source[:, -1] = EOS
    target[1, 8:] = [EOS, PAD, PAD, PAD]
    return jnp.asarray(source), jnp.asarray(target)


@pytest.mark.parametrize("changes", [{}, {"attention": "softmax", "positions": "sinusoidal"}], ids=str)
def test_a_memory_of_everything_is_full_attention(config, rows, changes):
    source, target = rows
    model = made(config, attention_window=4, attention_memory=12, **changes)
    memory = encode(model, source)
    full = nnx.merge(nnx.graphdef(Transformer(model.config, rngs=nnx.Rngs(0))), nnx.state(model))
    np.testing.assert_allclose(decode(model, target, memory, source), decode(full, target, memory, source), atol=2e-5)


@pytest.mark.parametrize(("window", "memory"), [(1, 1), (3, 2), (4, 4), (5, 1)])
def test_segments_are_attention_with_a_mask(config, rows, window, memory):
    source, target = rows
    model = made(config, attention_window=window, attention_memory=memory)
    encoded = encode(model, source)
    at_once = jax.jit(lambda model: model.decode(target, encoded, source, weights=[]))(model)
    np.testing.assert_allclose(decode(model, target, encoded, source), at_once, atol=2e-5)


def test_a_text_goes_on_in_the_next_row(config, rows):
    source, target = rows
    model = made(config, attention_window=2, attention_memory=3)
    encoded = encode(model, source)
    state, parts = model.no_memory(3, encoded.dtype), []
    for start in range(0, 12, 4):
        x, state = decode_next(model, target[:, start : start + 4], encoded, source, state)
        parts.append(x)
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), decode(model, target, encoded, source), atol=2e-5)


@pytest.mark.slow
def test_no_gradient_flows_into_the_memory(config):
    source, target = jnp.array([[5, 6, EOS]]), jnp.array([[7, 8, 9, 10]])
    model = made(config, attention_window=2, attention_memory=4)

    def part(model, t):
        x = model.decode(target, jnp.ones((1, 3, config.d_model)), source)[0, t].sum()
        return x

    def gradient(t):  # of the embeddings
        return nnx.grad(part)(model, t)["embedding"][...]

    # The input at position t is the token at t - 1. Position 3 is in a segment with 2, and remembers 0 and 1.
    assert jnp.any(gradient(3)[9] != 0) and jnp.any(gradient(3)[8] != 0)
    assert jnp.all(gradient(3)[7] == 0)
    assert jnp.any(gradient(1)[7] != 0)


def test_a_row_has_whole_segments(config, rows):
    source, target = rows
    model = made(config, attention_window=5)
    with pytest.raises(ValueError, match="12 tokens"):
        model.decode_next(target, jnp.zeros((3, 8, config.d_model)), source, model.no_memory(3, jnp.float32))


@pytest.mark.slow
def test_memory_grows_with_the_length(config):
    model = made(config, attention_window=64, attention_memory=64)

    def bytes_of(length):
        def loss(model, target):
            return model.decode(target, jnp.zeros((1, 4, config.d_model)), jnp.ones((1, 4), jnp.int32)).sum()

        target = jax.ShapeDtypeStruct((1, length), jnp.int32)
        compiled = jax.jit(nnx.grad(loss)).lower(model, target).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert bytes_of(4096) / bytes_of(1024) < 4.5
