"""Section 3.2: scaled dot-product attention, multi-head attention, and the masks."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.config import PAD, ModelConfig
from transformer.parts import Parts
from transformer.products import product


class KeysValues(NamedTuple):
    """Projected keys [B, N, K, S] and values [B, N, S, H] of a sequence: what attention looks at.

    The axes stand as the products want them: so a cache is read as it lies, and not turned at each step.

    In decoding it is the cache: room for S positions, of which the first ones are filled.
    """

    keys: Array
    values: Array

    def write(self, new: "KeysValues", index: Array) -> "KeysValues":
        """A copy with the positions from `index` on replaced by those of `new`."""
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


Turn = Callable[[Array], Array]
"""Queries or keys [B, N, T, K] -> the same, changed each by its position (transformer/positions.py)."""


def as_it_is(x: Array) -> Array:
    """The turn that changes nothing: of the paper's encodings, and of attention over the source."""
    return x


class Sight(NamedTuple):
    """What the queries of a sequence may look at, and how their positions come into it."""

    mask: Array
    """Booleans that broadcast to [B, N, T, S], True where a query may look at a key."""
    turn: Turn = as_it_is
    bias: Array | None = None
    """Broadcasts to [B, N, T, S]; added to the scores."""


def padding_mask(tokens: Array) -> Array:
    """[B, S] ids -> [B, 1, 1, S], True where there is a token: nobody attends to padding."""
    return (tokens != PAD)[:, None, None, :]


def causal_mask(length: int) -> Array:
    """[1, 1, T, T], True where position t may look: at itself and at what came before (3.2.3)."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def scaled_dot_product_attention(
    queries: Array, keys: Array, values: Array, mask: Array, bias: Array | None = None
) -> tuple[Array, Array]:
    """Equation 1: softmax(Q K^T / sqrt(d_k)) V.

    Args:
        queries: [B, N, T, K]
        keys: [B, N, K, S]
        values: [B, N, S, H]
        mask: booleans that broadcast to [B, N, T, S], True where a query may look at a key.
        bias: broadcasts to [B, N, T, S] and is added to the scores. The paper has none.

    Returns:
        The output [B, N, T, H], and the weights [B, N, T, S] in float32. Each row of the weights sums
        to 1. A row with nothing to look at is uniform (of an all-padding sentence, say), never NaN.
    """
    scale = queries.shape[-1] ** -0.5
    scores = product("BNTK,BNKS->BNTS", queries * scale, keys)
    if bias is not None:
        scores += bias
    # The lowest finite number and not -inf: a fully masked row would be 0/0.
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # The softmax's division comes last, where it is of T x H numbers and not of T x S.
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

    def project(self, memory: Array, turn: Turn = as_it_is) -> KeysValues:
        """[B, S, D] -> the keys and values that a query will look at."""
        keys = turn(self.key(memory).swapaxes(2, 3)).swapaxes(2, 3)
        return KeysValues(keys, self.value(memory).swapaxes(1, 2))

    def attend(self, queries: Array, keys: Array, values: Array, sight: Sight) -> tuple[Array, Array]:
        """Queries [B, N, T, K], keys [B, N, K, S] and values [B, N, S, H] -> output [B, N, T, H], weights [B, N, T, S].

        The one method that another kind of attention has to change.
        """
        return scaled_dot_product_attention(queries, keys, values, sight.mask, sight.bias)

    def __call__(self, x: Array, attended: KeysValues, sight: Sight, weights: list[Array] | None = None) -> Array:
        """The queries of x [B, T, D] look at `attended`, where `sight` lets them -> [B, T, D].

        The attention weights [B, N, T, S] are appended to `weights`, if a list is given.
        """
        heads, attention = self.attend(sight.turn(self.query(x).swapaxes(1, 2)), *attended, sight)
        if weights is not None:
            weights.append(attention)
        return self.output(heads)


ATTENTIONS: Parts[type[MultiHeadAttention]] = Parts("model.attention", {"softmax": MultiHeadAttention})
