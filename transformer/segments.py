"""Packed sentences: a row holds several sentences one after the other, each terminated by EOS.

With packing, batches contain hardly any padding (data/batching.py). A row with a single sentence is the simplest case.
The first sentence of a source row is the source of the first sentence of its target row, and so on. Tokens attend only
within their sentence (or, in encoder-decoder attention, to the sentence's source).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import EOS


class Segments(NamedTuple):
    """Sentence number and position of each token of a batch [B, T]."""

    number: Array
    """[B, T]: which sentence of the row the token belongs to, counted from 1."""
    position: Array
    """[B, T]: position of the token in its sentence, counted from 0."""


def segments(tokens: Array) -> Segments:
    """Finds the packed sentences in ids [B, T]. The result for a token depends only on the tokens before it."""
    index = jnp.arange(tokens.shape[1])
    starts = jnp.pad(tokens[:, :-1] == EOS, ((0, 0), (1, 0)), constant_values=True)
    first = jax.lax.cummax(jnp.where(starts, index, 0), axis=1)
    return Segments(jnp.cumsum(starts, axis=1), index - first)


def same_sentence(queries: Segments, keys: Segments) -> Array:
    """Packing mask [B, 1, T, S]: True where query and key belong to the same sentence."""
    return queries.number[:, None, :, None] == keys.number[:, None, None, :]
