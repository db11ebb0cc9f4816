"""Sections 3.1 and 3.3: the feed-forward network, residual connections, and the two kinds of layer."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import ATTENTIONS, AttentionContext, KeysValues, MultiHeadAttention
from transformer.config import ModelConfig
from transformer.mesh import first_row
from transformer.registry import Registry


def split_key(key: Array | None, count: int) -> list[Array | None]:
    """One dropout key for each of `count` places; None (no dropout) stays None."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Section 5.4: zeroes each entry with probability `rate` and scales up the rest. No key: returns x."""
    if key is None or rate == 0.0:
        return x
    # The rate that is really drawn (to 1 part in 2^32) is the one divided by, so the mean is exact.
    threshold = min(round(rate * 2**32), 2**32 - 1)
    return jnp.where(random_bits(key, x.shape) >= jnp.uint32(threshold), x / (1 - threshold / 2**32), 0).astype(x.dtype)


def random_bits(key: Array, shape: tuple[int, ...]) -> Array:
    """uint32 [shape], each a hash of the key and of its own place.

    So XLA draws them where they are needed, without ever writing them to memory, and devices that share a batch draw
    what one device would.
    """
    place = jnp.full(shape, first_row(shape[0]), jnp.uint32)
    for axis, size in enumerate(shape):
        place = (place if axis == 0 else place * jnp.uint32(size)) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    first, second = jax.random.key_data(key)[:2]
    return _mix(_mix(place + first) ^ second)


def _mix(x: Array) -> Array:
    """Changes about half of the bits of a uint32 for each bit that differs; no two numbers become one."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


class FeedForward(nnx.Module):
    """Section 3.3, equation 2: max(0, x W1 + b1) W2 + b2, at each position alike."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        glorot = jax.nn.initializers.glorot_uniform()
        dtype = jnp.dtype(config.dtype)
        self.inner = nnx.Linear(config.d_model, config.d_ff, dtype=dtype, kernel_init=glorot, rngs=rngs)
        self.outer = nnx.Linear(config.d_ff, config.d_model, dtype=dtype, kernel_init=glorot, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        """[B, T, D] -> [B, T, D]"""
        return self.outer(jax.nn.relu(self.inner(x)))


class LayerNorm(nnx.LayerNorm):
    """Layer normalisation over D, its statistics in float32."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        # The plain two-pass variance: the fast one subtracts two large numbers.
        super().__init__(
            config.d_model, epsilon=1e-6, dtype=jnp.dtype(config.dtype), use_fast_variance=False, rngs=rngs
        )


NORMS: Registry[Callable[..., Callable[[Array], Array]]] = Registry("model.norm_type", {"layer": LayerNorm})
"""Classes like LayerNorm: made of a ModelConfig and rngs; [B, T, D] -> [B, T, D]."""


def make_norm(config: ModelConfig, *, rngs: nnx.Rngs) -> Callable[[Array], Array]:
    """The norm that the configuration names."""
    return NORMS.find(config.norm_type)(config, rngs=rngs)


def make_attention(config: ModelConfig, *, rngs: nnx.Rngs) -> MultiHeadAttention:
    """The attention that the configuration names."""
    return ATTENTIONS.find(config.attention)(config, rngs=rngs)


class Residual(nnx.Module):
    """Section 3.1: LayerNorm(x + Dropout(Sublayer(x))) around a sub-layer.

    With norm="pre" it is x + Dropout(Sublayer(LayerNorm(x))), which is not the paper's.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.norm = make_norm(config, rngs=rngs)
        self.pre = config.norm == "pre"
        self.rate = config.dropout

    def __call__(self, x: Array, sublayer: Callable[[Array], Array], key: Array | None) -> Array:
        """x [B, T, D] -> [B, T, D]"""
        if self.pre:
            return x + dropout(sublayer(self.norm(x)), self.rate, key)
        return self.norm(x + dropout(sublayer(x), self.rate, key))


class EncoderLayer(nnx.Module):
    """Section 3.1: self-attention, then the feed-forward network."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.self_attention = make_attention(config, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.residuals = nnx.List([Residual(config, rngs=rngs) for _ in range(2)])

    def __call__(
        self, x: Array, context: AttentionContext, key: Array | None, weights: list[Array] | None = None
    ) -> Array:
        """x [B, S, D] -> [B, S, D]"""
        keys = split_key(key, 2)

        def attend(x: Array) -> Array:
            return self.self_attention(x, self.self_attention.project(x, context.rotate), context, weights)

        x = self.residuals[0](x, attend, keys[0])
        return self.residuals[1](x, self.feed_forward, keys[1])


class DecoderLayer(nnx.Module):
    """Section 3.1: masked self-attention, attention over the encoder's output, feed-forward network."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.self_attention = make_attention(config, rngs=rngs)
        self.cross_attention = make_attention(config, rngs=rngs)
        self.feed_forward = FeedForward(config, rngs=rngs)
        self.residuals = nnx.List([Residual(config, rngs=rngs) for _ in range(3)])

    def __call__(
        self,
        x: Array,
        memory: KeysValues,
        context: AttentionContext,
        memory_context: AttentionContext,
        key: Array | None,
        weights: list[Array] | None = None,
        cache: KeysValues | None = None,
        index: Array | int = 0,
    ) -> tuple[Array, KeysValues]:
        """x [B, T, D] -> ([B, T, D], the keys and values that self-attention looked at).

        Without a cache x is a whole target, in training. With one, its keys and values are written into the cache
        from place `index` on, and x looks at all of it that `context` allows.
        """
        keys = split_key(key, 3)
        seen: list[KeysValues] = []

        def attend_self(x: Array) -> Array:
            new = self.self_attention.project(x, context.rotate)
            seen.append(new if cache is None else cache.write(new, jnp.asarray(index)))
            return self.self_attention(x, seen[0], context, weights)

        def attend_memory(x: Array) -> Array:
            return self.cross_attention(x, memory, memory_context, weights)

        x = self.residuals[0](x, attend_self, keys[0])
        x = self.residuals[1](x, attend_memory, keys[1])
        x = self.residuals[2](x, self.feed_forward, keys[2])
        return x, seen[0]
