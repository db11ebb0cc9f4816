"""Rules on the tokens of an output, for every way to decode.

- `min_length`: as in OpenNMT (Klein et al., 2017) and most toolkits since.
- `no_repeated_ngram`: Paulus et al. (2018), A Deep Reinforced Model for Abstractive Summarization, section 2.5.
- `prefixed`: prefix-constrained decoding, Wuebker et al. (2016), Models and Inference for Prefix-Constrained Machine
  Translation.

A `Rule` (transformer/decode.py) treats each hypothesis by itself: results remain independent of the batch.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array

from transformer.config import EOS, PAD, UNK, DecodeConfig
from transformer.decode import Rule
from transformer.variants.decoding.trees import only_trees


def rule_of(
    decode: DecodeConfig,
    pieces: int,
    prefixes: Array | None = None,
    codes: Sequence[int] = (),
    words: Array | None = None,
) -> Rule | None:
    """Returns all rules that the settings and the prefixes ask for, as one; None if there are none.

    Args:
        pieces: size of the vocabulary. The embedding may have more rows: sampling never draws their ids, and
            `forbid_unk` excludes them, since they have no text.
        prefixes: [B, P] ids that the outputs begin with, padded; see `prefixed`.
        codes: of each piece of a vocabulary of trees, and `words` [B] of each sentence; see `only_trees`.
    """
    rules: list[Rule] = []
    if decode.min_length:
        rules.append(min_length(decode.min_length))
    if decode.no_repeat_ngram:
        rules.append(no_repeated_ngram(decode.no_repeat_ngram))
    if decode.forbid_unk or decode.sample:
        rules.append(only_pieces(pieces, unknown=not decode.forbid_unk))
    if decode.only_trees:
        assert words is not None
        rules.append(only_trees(codes, words))
    rule = all_of(rules) if rules else None
    return rule if prefixes is None else prefixed(prefixes, rule)


def all_of(rules: list[Rule]) -> Rule:
    """Combines rules. Where they leave no token at all, the output ends: EOS is allowed."""

    def rule(logits: Array, tokens: Array, index: Array) -> Array:
        allowed = logits
        for each in rules:
            allowed = each(allowed, tokens, index)
        nothing = jnp.isneginf(allowed.max(axis=-1))
        return allowed.at[..., EOS].set(jnp.where(nothing, logits[..., EOS], allowed[..., EOS]))

    return rule


def min_length(least: int) -> Rule:
    """An output has at least `least` tokens before EOS, unless its length limit is lower."""

    def rule(logits: Array, tokens: Array, index: Array) -> Array:
        return logits.at[..., EOS].set(jnp.where(index < least, -jnp.inf, logits[..., EOS]))

    return rule


def no_repeated_ngram(n: int) -> Rule:
    """No n-gram of tokens occurs twice in an output."""

    def rule(logits: Array, tokens: Array, index: Array) -> Array:
        B, K, L = tokens.shape
        if n > L:
            return logits
        starts = L - n + 1
        # An n-gram that begins at position t forbids its last token if its other tokens are the last n - 1 so far.
        repeated = jnp.arange(starts) + n - 1 < index
        for i in range(n - 1):
            last = jnp.take(tokens, jnp.maximum(index - (n - 1) + i, 0), axis=2)
            repeated = repeated & (tokens[:, :, i : i + starts] == last[:, :, None])
        forbidden = jnp.where(repeated, -jnp.inf, jnp.inf)
        rows = jnp.arange(B)[:, None, None], jnp.arange(K)[None, :, None]
        return logits.at[(*rows, tokens[:, :, n - 1 :])].min(forbidden)

    return rule


def only_pieces(pieces: int, unknown: bool) -> Rule:
    """An output has only ids of the vocabulary, and <unk> only if `unknown`."""

    def rule(logits: Array, tokens: Array, index: Array) -> Array:
        ids = jnp.arange(logits.shape[-1])
        return jnp.where((ids < pieces) & ((ids != UNK) | unknown), logits, -jnp.inf)

    return rule


def prefixed(prefixes: Array, rule: Rule | None = None) -> Rule:
    """An output begins with exactly the tokens of its prefix; from there on, `rule` applies.

    Args:
        prefixes: ids [B, P], padded; a row of padding forces nothing.
    """

    def forced(logits: Array, tokens: Array, index: Array) -> Array:
        allowed = rule(logits, tokens, index) if rule else logits
        token = jnp.take(prefixes, index, axis=1, fill_value=PAD)[:, None, None]
        given = jnp.where(jnp.arange(logits.shape[-1]) == token, logits, -jnp.inf)
        return jnp.where(token == PAD, allowed, given)

    return forced
