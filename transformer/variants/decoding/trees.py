"""Constrained decoding of trees: only sequences that are a tree over the words of the sentence (section 6.3).

A sequence has a symbol for each word, and an opening and a closing symbol around each constituent, as in
`(S (NP XX )NP (VP XX )VP )S`. The paper decodes without such a constraint.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from transformer.config import EOS
from transformer.decode import Rule

WORD, NEITHER = 0, 1 << 20
"""Codes of a symbol that stands for a word, and of a piece that is no symbol. Opening and closing the constituent of
number n are n and -n, counted from 1."""

DEEPEST = 100
"""The most constituents inside of each other."""


def codes_of(symbols: Sequence[str]) -> tuple[int, ...]:
    """Returns the code of each symbol of a vocabulary of trees; "" is a piece that is no symbol.

    A symbol that opens what nothing closes, or the other way round, has the code NEITHER: it is not used.
    """
    closed = [symbol[1:] for symbol in symbols if symbol.startswith("(") and f"){symbol[1:]}" in symbols]
    number = {label: n for n, label in enumerate(closed, start=1)}

    def code(symbol: str) -> int:
        if symbol.startswith(("(", ")")):
            n = number.get(symbol[1:], NEITHER)
            return -n if symbol.startswith(")") and n != NEITHER else n
        return WORD if symbol else NEITHER

    return tuple(map(code, symbols))


def only_trees(codes: Sequence[int], words: Array) -> Rule:
    """An output is a tree over the words of its sentence, unless it is cut off at its length limit.

    Each constituent has at least one word, and is closed by its own label; an output ends when all words are in it and
    everything is closed. There is always a symbol that is allowed.

    Args:
        codes: of each piece of the vocabulary, see WORD.
        words: [B] number of words of each sentence.
    """

    def rule(logits: Array, tokens: Array, index: Array) -> Array:
        rows = logits.shape[-1]
        code = jnp.array([*codes, *[NEITHER] * (rows - len(codes))])
        position = jnp.arange(tokens.shape[2])
        written = jnp.where(position < index, code[tokens], NEITHER)  # [B, K, L]
        opens, closes = (written > 0) & (written < NEITHER), written < 0
        depth = jnp.cumsum(opens.astype(int) - closes.astype(int), axis=2)
        now = depth[:, :, -1:]
        # The innermost constituent that is open was opened at the last position that led to this depth.
        innermost = jnp.where(opens & (depth == now), position, -1).argmax(axis=2, keepdims=True)
        label = jnp.take_along_axis(written, innermost, axis=2)
        left = words[:, None, None] - (written == WORD).sum(axis=2, keepdims=True)
        is_empty = jnp.take(opens, jnp.maximum(index - 1, 0), axis=2)[:, :, None]
        allowed = (
            ((code == WORD) & (left > 0))
            | ((code > 0) & (code < NEITHER) & (left > 0) & (now < DEEPEST))
            | ((code < 0) & (code == -label) & (now > 0) & ~is_empty)
            | ((jnp.arange(rows) == EOS) & (left == 0) & (now == 0))
        )
        return jnp.where(allowed, logits, -jnp.inf)

    return rule
