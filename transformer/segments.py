"""Several sentences in one row, one after the other, each ended by EOS: which token belongs to which.

So batches hold hardly any padding (data/batching.py). A row of one sentence is the simplest case. The first sentence of
a source row belongs to the first of its target row, and so on; attention never goes from one sentence to another.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import EOS


class Segments(NamedTuple):
    """Of each token of a batch [B, T]."""

    number: Array
    """Which sentence of its row it belongs to, from 1. [B, T]"""
    position: Array
    """Its place in that sentence, from 0. [B, T]"""


def segments(tokens: Array) -> Segments:
    """Finds the sentences in ids [B, T]. What a token belongs to is decided by those before it, never by itself."""
    index = jnp.arange(tokens.shape[1])
    starts = jnp.pad(tokens[:, :-1] == EOS, ((0, 0), (1, 0)), constant_values=True)
    first = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return Segments(jnp.cumsum(starts, axis=1), index - first)


def same_sentence(queries: Segments, keys: Segments) -> Array:
    """[B, 1, T, S], True where a query and a key are of one sentence."""
    return queries.number[:, None, :, None] == keys.number[:, None, None, :]
