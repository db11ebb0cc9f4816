"""Section 3.2: scaled dot-product attention, multi-head attention, and the attention masks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.config import PAD, ModelConfig
from transformer.initializers import make_initializer
from transformer.kernels.flash_attention import flash_attention, flash_attention_runs
from transformer.matmul import einsum
from transformer.mesh import platform
from transformer.registry import Registry
from transformer.segments import Segments


class KeysValues(NamedTuple):
    """Projected keys [B, N, K, S] and values [B, N, S, H] of a sequence, which queries attend to.

    During decoding this is the key/value cache: it has a capacity of S positions, filled from the first one on. The
    layout is the one that the matmuls read, so decoding never transposes the cache.
    """

    keys: Array
    values: Array

    def write(self, new: "KeysValues", index: Array) -> "KeysValues":
        """Returns a copy with `new` written at position `index` and the positions after it."""
        keys = jax.lax.dynamic_update_slice_in_dim(self.keys, new.keys, index, axis=3)
        values = jax.lax.dynamic_update_slice_in_dim(self.values, new.values, index, axis=2)
        return KeysValues(keys, values)

    def grow(self, capacity: int) -> "KeysValues":
        """Returns a copy padded to a capacity of S = `capacity` positions."""
        more = (0, capacity - self.values.shape[2])
        nothing = (0, 0)
        return KeysValues(
            jnp.pad(self.keys, (nothing, nothing, nothing, more)),
            jnp.pad(self.values, (nothing, nothing, more, nothing)),
        )


Rotate = Callable[[Array], Array]
"""Maps queries or keys [B, N, T, K] to the same shape, rotated by position, as in rotary position embeddings
(transformer/positions.py)."""


def identity(x: Array) -> Array:
    """Returns `x`: queries and keys with the paper's position encodings, and attention weights without dropout."""
    return x


class AttentionContext(NamedTuple):
    """All that attention depends on besides queries, keys and values: mask, positional terms, dropout."""

    mask: Array
    """Boolean, broadcastable to [B, N, T, S]: True where a query may attend to a key."""
    rotate: Rotate = identity
    """Applied to queries and keys (rotary position embeddings)."""
    bias: Array | None = None
    """Attention bias, broadcastable to [B, N, T, S], added to the scores."""
    dropout: Callable[[Array], Array] = identity
    """Applied to the attention weights [B, N, T, S] (model.attention_dropout, in training)."""
    positions: tuple[Array, Array] | None = None
    """In self-attention, the positions of queries [B, T] and keys [B, S] in their sentences (B may be 1)."""
    tokens: Segments | None = None
    """In self-attention of whole rows [B, T], the sentence and position of each token, which is both query and key."""
    causal: bool = False
    """Whether the mask hides later tokens: in the decoder."""
    beam: int | None = None
    """In a decoding step, the number K of hypotheses: the keys of position t are at t * K to t * K + K - 1."""


def padding_mask(tokens: Array) -> Array:
    """Padding mask: ids [B, S] -> [B, 1, 1, S], True at tokens and False at padding."""
    return (tokens != PAD)[:, None, None, :]


def causal_mask(length: int) -> Array:
    """Causal mask [1, 1, T, T], lower triangular: a position attends to itself and earlier ones (section 3.2.3)."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def scaled_dot_product_attention(
    queries: Array,
    keys: Array,
    values: Array,
    mask: Array,
    bias: Array | None = None,
    dropout: Callable[[Array], Array] = identity,
) -> tuple[Array, Array]:
    """Equation 1: softmax(Q K^T / sqrt(d_k)) V.

    Args:
        queries: [B, N, T, K]
        keys: [B, N, K, S]
        values: [B, N, S, H]
        mask: boolean, broadcastable to [B, N, T, S]; True where a query may attend to a key.
        bias: attention bias, broadcastable to [B, N, T, S], added to the scores. The paper has none.
        dropout: applied to the weights before they are multiplied with V. The paper has none.

    Returns:
        The output [B, N, T, H], and the attention weights before dropout, [B, N, T, S] in float32. Each row sums
        to 1. A fully masked row (as in an all-padding sentence) is uniform, never NaN.
    """
    scale = queries.shape[-1] ** -0.5
    scores = einsum("BNTK,BNKS->BNTS", queries * scale, keys)
    if bias is not None:
        scores += bias
    # Mask with the lowest finite number, not -inf, which would make a fully masked row 0/0.
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # Softmax, with the division moved after the matmul with V, where it divides T x H numbers instead of T x S.
    exps = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = exps.sum(axis=-1, keepdims=True)
    output = einsum("BNTS,BNSH->BNTH", dropout(exps).astype(values.dtype), values)
    return (output / total).astype(values.dtype), exps / total


class Projection(nnx.Module):
    """x W + b, to or from all heads at once, as one matmul over the flattened axes of the heads. b is optional.

    Args:
        inputs: the last axes of x, (D,) or (N, H).
        outputs: the axes that replace them, (N, K) or (D,). `kernel` is [*inputs, *outputs] and `bias` is [*outputs].
    """

    def __init__(self, inputs: tuple[int, ...], outputs: tuple[int, ...], config: ModelConfig, *, rngs: nnx.Rngs):
        init = make_initializer(config.initializer, len(inputs), len(outputs))
        self.kernel = nnx.Param(init(rngs.params(), (*inputs, *outputs)))
        if config.biases:
            self.bias = nnx.Param(jax.nn.initializers.zeros(rngs.params(), outputs))
        self.biased = config.biases
        self.inputs, self.outputs = inputs, outputs
        self.dtype = jnp.dtype(config.dtype)

    def __call__(self, x: Array) -> Array:
        """[..., *inputs] -> [..., *outputs]"""
        batch = x.shape[: x.ndim - len(self.inputs)]
        width = math.prod(self.inputs)
        kernel = self.kernel[...].astype(self.dtype)
        # On a CPU, all positions are on one axis: otherwise XLA transposes the gradient of y together with everything
        # that it is computed from, entry by entry (15% of a step with pre-norm).
        axes = (-1,) if platform() == "cpu" else batch
        y = x.astype(self.dtype).reshape(*axes, width) @ kernel.reshape(width, -1)
        if self.biased:
            y += self.bias[...].astype(self.dtype).ravel()
        return y.reshape(*batch, *self.outputs)


class MultiHeadAttention(nnx.Module):
    """Section 3.2.2: Concat(head_1, ..., head_h) W^O, head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V).

    The projection matrices of all heads are stored in one array: `query` is W^Q [D, N, K], `key` is W^K [D, N, K],
    `value` is W^V [D, N, H] and `output` is W^O [N, H, D]. Each projection has a bias, unless
    config.biases is False.
    """

    self_only = False
    """Whether encoder-decoder attention is the paper's if this is the self-attention."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, N, K, H = config.d_model, config.num_heads, config.d_k, config.d_v
        self.kernels = config.kernels
        self.query = Projection((D,), (N, K), config, rngs=rngs)
        self.key = Projection((D,), (N, K), config, rngs=rngs)
        self.value = Projection((D,), (N, H), config, rngs=rngs)
        self.output = Projection((N, H), (D,), config, rngs=rngs)

    @staticmethod
    def pairs(config: ModelConfig, tokens: int) -> float:
        """Number of pairs of a query and a key, each with a score, for self-attention of a sentence of `tokens`."""
        return tokens * tokens

    def project(self, memory: Array, rotate: Rotate = identity) -> KeysValues:
        """Projects `memory` [B, S, D] to keys and values."""
        keys = rotate(self.key(memory).swapaxes(1, 2))
        return KeysValues(keys.swapaxes(2, 3), self.value(memory).swapaxes(1, 2))

    def attend(self, queries: Array, keys: Array, values: Array, context: AttentionContext) -> tuple[Array, Array]:
        """Queries [B, N, T, K], keys [B, N, K, S] and values [B, N, S, H] -> output [B, N, T, H], weights [B, N, T, S].

        To implement another kind of attention, override only this method (and `pairs`, for fewer scores).
        """
        mask, bias, dropout = context.mask, context.bias, context.dropout
        output, weights = scaled_dot_product_attention(queries, keys, values, mask, bias, dropout)
        if self.kernels and dropout is identity and flash_attention_runs(queries, keys, values, mask, bias):
            # The same output. The compiler drops the plain one, and the weights unless they are used.
            output = flash_attention(queries, keys, values, mask)
        return output, weights

    def __call__(
        self, x: Array, attended: KeysValues, context: AttentionContext, weights: list[Array] | None = None
    ) -> Array:
        """Multi-head attention from x [B, T, D] to the keys and values `attended` -> [B, T, D].

        If `weights` is a list, the attention weights [B, N, T, S] are appended to it.
        """
        heads, attention = self.attend(context.rotate(self.query(x).swapaxes(1, 2)), *attended, context)
        if weights is not None:
            weights.append(attention)
        return self.output(heads.swapaxes(1, 2))


ATTENTIONS: Registry[type[MultiHeadAttention]] = Registry("model.attention", {"softmax": MultiHeadAttention})
"""Attention modules by name: subclasses of `MultiHeadAttention`. Those for long inputs are in
transformer/variants/long."""
