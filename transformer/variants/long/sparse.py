"""Sparse attention: a neighbourhood of r tokens, and global tokens that are seen from everywhere.

After the "fixed" pattern of the Sparse Transformer (Child et al., 2019): the last token of every r/2 is global. It
sees its neighbours, and everything sees it, so that two layers connect any two tokens. With r in proportion to sqrt(n)
the cost is O(n sqrt(n)) instead of O(n^2).
"""

import jax
import jax.numpy as jnp
from jax import Array

from transformer.attention import ATTENTIONS
from transformer.config import ModelConfig
from transformer.variants.long.restricted import NO_SENTENCE, RestrictedAttention, Row, block_length


class SparseAttention(RestrictedAttention):
    """Restricted attention that also reaches the global tokens of its sentence; in the decoder, the earlier ones."""

    @staticmethod
    def pairs(config: ModelConfig, tokens: int) -> float:
        """Number of scores for a sequence of `tokens`: O(r n + n^2 / r)."""
        return RestrictedAttention.pairs(config, tokens) + tokens * (tokens // block_length(config.attention_window))

    def is_global(self, position: Array) -> Array:
        """Whether the tokens at these positions of their sentences are global."""
        return (position + 1) % block_length(self.window) == 0

    def pattern(self, queries: Array, keys: Array, causal: bool) -> Array:
        """Positions of queries [B, T] and keys [B, S] -> mask [B, T, S], True where a query reaches a key."""
        seen = self.is_global(keys)[:, None, :]
        if causal:
            seen &= keys[:, None, :] <= queries[:, :, None]
        return seen | super().pattern(queries, keys, causal)

    def attended(self, row: Row, causal: bool) -> Row:
        """Returns all tokens that each block of queries may attend to: its neighbours, then all global tokens."""
        is_global = self.is_global(row.position) & (row.number != NO_SENTENCE)
        near = super().attended(row._replace(number=jnp.where(is_global, NO_SENTENCE, row.number)), causal)
        # Each global token ends a run of so many tokens of its sentence, which bounds their number.
        most = is_global.shape[1] // block_length(self.window)
        index = jax.vmap(lambda row: jnp.nonzero(row, size=most, fill_value=len(row))[0])(is_global)

        def chosen(x: Array, near: Array) -> Array:
            places = index.reshape(*index.shape, *[1] * (x.ndim - 2))
            found = jnp.take_along_axis(x, places, axis=1, mode="fill", fill_value=NO_SENTENCE)[:, None]
            return jnp.broadcast_to(found, (*near.shape[:2], *found.shape[2:]))

        return jax.tree.map(lambda x, near: jnp.concatenate([near, chosen(x, near)], axis=2), row, near)

    def span(self, index: Array, length: int) -> tuple[Array | int, int]:
        """The whole cache: the global tokens are everywhere in it."""
        return 0, length


ATTENTIONS.build_in({"sparse": SparseAttention})
