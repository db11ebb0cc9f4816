"""Section 4, "restricted self-attention": a token attends to a neighbourhood of r tokens. Table 1, fourth row.

Queries are cut into blocks of r/2 tokens. All neighbours of a block are in three blocks of keys, and equation 1 is
applied to each block of queries and its three blocks of keys: at most 1.5 r scores per token, whatever the length.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import ATTENTIONS, AttentionContext, MultiHeadAttention, scaled_dot_product_attention
from transformer.config import ModelConfig, UserError

Rows = TypeVar("Rows")


class Row(NamedTuple):
    """What attention needs to know of the tokens of a row. In blocks, the axis S is two axes, [blocks, length]."""

    keys: Array
    """[B, S, N, K]"""
    values: Array
    """[B, S, N, H]"""
    number: Array
    """[B, S]: the sentence that the token belongs to; NO_SENTENCE for a token that nothing attends to."""
    position: Array
    """[B, S]: position of the token in its sentence."""


NO_SENTENCE = -1


class RestrictedAttention(MultiHeadAttention):
    """Multi-head attention whose self-attention reaches r = config.attention_window tokens.

    In the encoder they are centred around the token; in the decoder they are the token itself and those before it.
    """

    self_only = True

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.window = config.attention_window

    @staticmethod
    def pairs(config: ModelConfig, tokens: int) -> float:
        """Number of scores for a sequence of `tokens`: O(r n)."""
        return tokens * min(tokens, 3 * block_length(config.attention_window))

    def pattern(self, queries: Array, keys: Array, causal: bool) -> Array:
        """Positions of queries [B, T] and keys [B, S] -> mask [B, T, S], True where a query reaches a key."""
        before, after = (self.window - 1, 0) if causal else (self.window // 2, (self.window - 1) // 2)
        distance = keys[:, None, :] - queries[:, :, None]
        return (-before <= distance) & (distance <= after)

    def attended(self, row: Row, causal: bool) -> Row:
        """Returns all tokens that each block of queries may attend to: a row -> blocks, [B, blocks, length, ...]."""
        blocks = in_blocks(row, block_length(self.window))
        parts = [shifted(blocks, offset) for offset in ((-2, -1, 0) if causal else (-1, 0, 1))]
        return jax.tree.map(lambda *arrays: jnp.concatenate(arrays, axis=2), *parts)

    def attend(self, queries: Array, keys: Array, values: Array, context: AttentionContext) -> tuple[Array, Array]:
        """Attention as in `MultiHeadAttention.attend`. The weights [B, N, T, S] cost nothing unless they are used."""
        if context.bias is not None:
            raise UserError("this model.attention cannot use an attention bias: choose other model.positions")
        assert context.positions is not None
        mask, (asking, asked) = context.mask, context.positions
        if beam := context.beam:
            first, reached = self.span(asking[0, 0], keys.shape[3] // beam)
            keys, values, mask, asked = (
                jax.lax.dynamic_slice_in_dim(x, first * beam, reached * beam, axis)
                for x, axis in ((keys, 3), (values, 2), (mask, 3), (asked, 1))
            )
        mask &= self.pattern(asking, asked, context.causal)[:, None]
        output, weights = scaled_dot_product_attention(queries, keys, values, mask, dropout=context.dropout)
        if context.tokens and queries.shape[2] > 3 * block_length(self.window):  # else three blocks are no less
            output = self.attend_in_blocks(queries, keys, values, context)
        return output, weights

    def span(self, index: Array, length: int) -> tuple[Array | int, int]:
        """First position and number of positions of a cache of `length` that position `index` may reach: O(r)."""
        return jnp.maximum(index + 1 - self.window, 0), min(self.window, length)

    def attend_in_blocks(self, queries: Array, keys: Array, values: Array, context: AttentionContext) -> Array:
        """The output [B, N, T, H] of self-attention, without an array that grows with the square of T."""
        tokens = context.tokens
        assert tokens
        B, N, T, _ = queries.shape
        row = Row(jnp.moveaxis(keys, 3, 1), values.swapaxes(1, 2), *tokens)
        found = self.attended(row, context.causal)
        asking = in_blocks((queries.swapaxes(1, 2), tokens.number, tokens.position), block_length(self.window))
        # Each block is a sequence of its own from here on.
        (q, number, position), found = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (asking, found))
        mask = (number[:, :, None] == found.number[:, None, :]) & self.pattern(position, found.position, context.causal)
        output, _ = super().attend(
            q.swapaxes(1, 2),
            found.keys.transpose(0, 2, 3, 1),
            found.values.swapaxes(1, 2),
            AttentionContext(mask[:, None], dropout=context.dropout),
        )
        return output.swapaxes(1, 2).reshape(B, -1, N, values.shape[3])[:, :T].swapaxes(1, 2)


def block_length(window: int) -> int:
    """Length of a block of queries, whose neighbourhoods of `window` tokens lie in three blocks."""
    return -(-window // 2)


def in_blocks(rows: Rows, length: int) -> Rows:
    """Arrays [B, S, ...] -> [B, blocks, length, ...]. The last block is filled with tokens that nothing attends to."""

    def cut(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -x.shape[1] % length), *[(0, 0)] * (x.ndim - 2)), constant_values=NO_SENTENCE)
        return x.reshape(x.shape[0], -1, length, *x.shape[2:])

    return jax.tree.map(cut, rows)


def shifted(blocks: Row, offset: int) -> Row:
    """Blocks [B, blocks, ...] -> those at `offset` from each of them. There is nothing to attend to beyond the ends."""

    def shift(x: Array) -> Array:
        x = jnp.roll(x, -offset, axis=1)
        outside = jnp.arange(x.shape[1]) + offset
        outside = (outside < 0) | (outside >= x.shape[1])
        return jnp.where(outside.reshape(-1, *[1] * (x.ndim - 2)), NO_SENTENCE, x)

    return jax.tree.map(shift, blocks)


ATTENTIONS.build_in({"restricted": RestrictedAttention})
