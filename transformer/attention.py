"""Section 3.2: scaled dot-product attention, multi-head attention, and the masks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.config import PAD, ModelConfig
from transformer.products import product
from transformer.registry import Registry


class KeysValues(NamedTuple):
    """Projected keys [B, N, K, S] and values [B, N, S, H] of a sequence: what queries attend to.

    This is the layout that the matrix products read, so a cache is never transposed while decoding.

    While decoding, this is the cache: it has room for S positions, of which the first ones are filled.
    """

    keys: Array
    values: Array

    def write(self, new: "KeysValues", index: Array) -> "KeysValues":
        """A copy with `new` written from position `index` on."""
        keys = jax.lax.dynamic_update_slice_in_dim(self.keys, new.keys, index, axis=3)
        values = jax.lax.dynamic_update_slice_in_dim(self.values, new.values, index, axis=2)
        return KeysValues(keys, values)

    def grow(self, room: int) -> "KeysValues":
        """The same with room for S = `room` positions."""
        more = (0, room - self.values.shape[2])
        nothing = (0, 0)
        return KeysValues(
            jnp.pad(self.keys, (nothing, nothing, nothing, more)),
            jnp.pad(self.values, (nothing, nothing, more, nothing)),
        )


Rotate = Callable[[Array], Array]
"""Queries or keys [B, N, T, K] -> the same shape, each rotated by its position (transformer/positions.py)."""


def identity(x: Array) -> Array:
    """No rotation: the paper's encodings, and cross-attention."""
    return x


class AttentionContext(NamedTuple):
    """Besides queries, keys and values, all that attention depends on: the mask, and what positions contribute."""

    mask: Array
    """Booleans that broadcast to [B, N, T, S], True where a query may attend to a key."""
    rotate: Rotate = identity
    bias: Array | None = None
    """Broadcasts to [B, N, T, S]; added to the scores."""


def padding_mask(tokens: Array) -> Array:
    """[B, S] ids -> [B, 1, 1, S], True where there is a token: padding is never attended to."""
    return (tokens != PAD)[:, None, None, :]


def causal_mask(length: int) -> Array:
    """[1, 1, T, T], lower triangular: position t attends to itself and to earlier ones (section 3.2.3)."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def scaled_dot_product_attention(
    queries: Array, keys: Array, values: Array, mask: Array, bias: Array | None = None
) -> tuple[Array, Array]:
    """Equation 1: softmax(Q K^T / sqrt(d_k)) V.

    Args:
        queries: [B, N, T, K]
        keys: [B, N, K, S]
        values: [B, N, S, H]
        mask: booleans that broadcast to [B, N, T, S], True where a query may attend to a key.
        bias: broadcasts to [B, N, T, S] and is added to the scores. The paper has none.

    Returns:
        The output [B, N, T, H], and the weights [B, N, T, S] in float32. Each row of the weights sums
        to 1. A fully masked row (of an all-padding sentence, say) is uniform, never NaN.
    """
    scale = queries.shape[-1] ** -0.5
    scores = product("BNTK,BNKS->BNTS", queries * scale, keys)
    if bias is not None:
        scores += bias
    # The lowest finite number and not -inf: a fully masked row would be 0/0.
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # The division of the softmax comes last: there it is of T x H numbers instead of T x S.
    exps = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = exps.sum(axis=-1, keepdims=True)
    output = product("BNTS,BNSH->BNTH", exps.astype(values.dtype), values)
    return (output / total).astype(values.dtype), exps / total


class MultiHeadAttention(nnx.Module):
    """Section 3.2.2: Concat(head_1, ..., head_h) W^O, head_i = Attention(Q W_i^Q, K W_i^K, V W_i^V).

    The heads' matrices are stored side by side: `query` is W^Q [D, N, K], `key` is W^K [D, N, K],
    `value` is W^V [D, N, H] and `output` is W^O [N, H, D], each with a bias.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        D, N, K, H = config.d_model, config.num_heads, config.d_k, config.d_v

        def projection(equation: str, shape: tuple[int, ...], bias: tuple[int, ...], inputs: tuple[int, ...]):
            # Glorot's fans, counted over all heads as in one [D, N*K] matrix.
            outputs = tuple(axis for axis in range(3) if axis not in inputs)
            glorot = jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", inputs, outputs)
            return nnx.Einsum(equation, shape, bias, dtype=jnp.dtype(config.dtype), kernel_init=glorot, rngs=rngs)

        self.query = projection("BTD,DNK->BTNK", (D, N, K), (N, K), inputs=(0,))
        self.key = projection("BSD,DNK->BNKS", (D, N, K), (N, K), inputs=(0,))
        self.value = projection("BSD,DNH->BSNH", (D, N, H), (N, H), inputs=(0,))
        self.output = projection("BNTH,NHD->BTD", (N, H, D), (D,), inputs=(0, 1))

    def project(self, memory: Array, rotate: Rotate = identity) -> KeysValues:
        """[B, S, D] -> its keys and values."""
        keys = rotate(self.key(memory).swapaxes(2, 3)).swapaxes(2, 3)
        return KeysValues(keys, self.value(memory).swapaxes(1, 2))

    def attend(self, queries: Array, keys: Array, values: Array, context: AttentionContext) -> tuple[Array, Array]:
        """Queries [B, N, T, K], keys [B, N, K, S] and values [B, N, S, H] -> output [B, N, T, H], weights [B, N, T, S].

        Another kind of attention overrides this method alone.
        """
        return scaled_dot_product_attention(queries, keys, values, context.mask, context.bias)

    def __call__(
        self, x: Array, attended: KeysValues, context: AttentionContext, weights: list[Array] | None = None
    ) -> Array:
        """The queries of x [B, T, D] attend to `attended` within `context` -> [B, T, D].

        The attention weights [B, N, T, S] are appended to `weights`, if a list is given.
        """
        heads, attention = self.attend(context.rotate(self.query(x).swapaxes(1, 2)), *attended, context)
        if weights is not None:
            weights.append(attention)
        return self.output(heads)


ATTENTIONS: Registry[type[MultiHeadAttention]] = Registry("model.attention", {"softmax": MultiHeadAttention})
