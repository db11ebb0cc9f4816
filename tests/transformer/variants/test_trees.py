"""Only trees: whatever the model prefers, the output is a tree over the words of the sentence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data.treebanks.linear import is_tree_over
from transformer.config import EOS
from transformer.variants.decoding.trees import DEEPEST, NEITHER, WORD, codes_of, only_trees

PIECES = ["<pad>", "<s>", "</s>", "<unk>", "XX", "(S", ")S", "(NP", ")NP", "NN"]
CODES = [NEITHER] * 4 + [WORD, 1, -1, 2, -2, WORD]
ROWS = 12  # of the embedding: two have no piece


def drawn(words: list[int], preference: np.ndarray, longest: int, seed: int) -> np.ndarray:
    """Draws outputs, one symbol after another, from a distribution with the rule applied."""
    rule = jax.jit(only_trees(CODES, jnp.array(words)))
    tokens, key = np.zeros((len(words), 1, longest), np.int32), jax.random.key(seed)
    ended = np.zeros(len(words), bool)
    for index in range(longest):
        logits = jnp.broadcast_to(jnp.array(preference, jnp.float32), (len(words), 1, ROWS))
        allowed = rule(logits, jnp.array(tokens), jnp.array(index))
        assert jnp.isfinite(allowed).any(axis=-1)[~ended].all(), "a symbol is always allowed"
        key, now = jax.random.split(key)
        chosen = np.asarray(jax.random.categorical(now, allowed))
        tokens[~ended, 0, index] = chosen[~ended, 0]
        ended |= chosen[:, 0] == EOS
    return tokens[:, 0]


@pytest.mark.parametrize("seed", range(3))
def test_every_output_that_ends_is_a_tree_over_the_words(seed):
    words = [1, 2, 3, 5, 8, 13, 4, 4]
    preference = np.random.default_rng(seed).normal(size=ROWS) - 1.5 * np.isin(np.arange(ROWS), [5, 7])
    complete = 0
    for count, row in zip(words, drawn(words, preference, 120, seed), strict=True):
        if EOS not in row:
            continue  # cut off
        complete += 1
        symbols = [PIECES[i] for i in row[: list(row).index(EOS)]]
        assert is_tree_over(["w"] * count, symbols), symbols
    assert complete >= 4


def test_what_is_a_tree_already_is_allowed_symbol_for_symbol():
    symbols = ["(S", "(NP", "XX", ")NP", "(S", "(NP", "NN", ")NP", "XX", ")S", ")S", "XX", "</s>"]
    ids = [PIECES.index(symbol) for symbol in symbols]
    rule = only_trees(CODES, jnp.array([4]))
    for index, i in enumerate(ids):
        tokens = jnp.array([[ids[:index] + [0] * (len(ids) - index)]])
        allowed = rule(jnp.zeros((1, 1, ROWS)), tokens, jnp.array(index))[0, 0]
        assert np.isfinite(allowed[i]), (symbols[:index], symbols[index])
        assert not np.isfinite(allowed[jnp.array([0, 1, 3, 10, 11])]).any()


def test_constituents_are_not_opened_without_an_end():
    preference = np.where(np.arange(ROWS) == 5, 50.0, 0.0)
    (row,) = drawn([3], preference, 2 * DEEPEST + 10, 0)
    assert (row[:DEEPEST] == 5).all() and EOS in row


def test_a_row_of_padding_ends_at_once():
    allowed = only_trees(CODES, jnp.array([0]))(jnp.zeros((1, 1, ROWS)), jnp.zeros((1, 1, 5), int), jnp.array(0))
    assert np.flatnonzero(np.isfinite(allowed[0, 0])).tolist() == [EOS]


def test_the_codes_are_those_of_the_symbols():
    assert list(codes_of([*[""] * 4, *PIECES[4:]])) == CODES
    assert codes_of(["", "(ONLY", ")OTHER", "-LRB-"]) == (NEITHER, NEITHER, NEITHER, WORD)
