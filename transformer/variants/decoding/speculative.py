"""Speculative decoding (Stern et al., 2018; Xia et al., 2023; Leviathan et al., 2023): greedy search in fewer steps.

A small model drafts the next tokens one by one, and the large one predicts all of their places in one pass, as in
training. The tokens up to the first that the large model would not have chosen are kept, with the one that it chooses
there. The output is that of greedy search with the large model, whatever the draft; a good draft saves most steps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import BOS, EOS, PAD
from transformer.decode import Hypotheses, length_limits, length_penalty, without_padding
from transformer.model import Cache, Transformer


class Drafted:
    """A model, and one that drafts for it, `length` tokens at a time.

    For every way to decode but greedy search it is the model alone.
    """

    def __init__(self, model: Transformer, draft: Transformer, length: int):
        self.model, self.draft, self.length = model, draft, length

    def start_cache(self, source: Array, beam: int, length: int) -> Cache:
        """As `Transformer.start_cache`."""
        return self.model.start_cache(source, beam, length)

    def step(self, tokens: Array, cache: Cache, index: Array, history: Array) -> tuple[Array, Cache]:
        """As `Transformer.step`."""
        return self.model.step(tokens, cache, index, history)

    def __call__(self, source: Array, target: Array) -> Array:
        """As `Transformer.__call__`."""
        return self.model(source, target)


class _State(NamedTuple):
    """Of one sentence."""

    written: Array
    """Number of tokens written."""
    tokens: Array
    log_probs: Array
    cache: Cache
    draft_cache: Cache
    done: Array


def speculative_search(drafted: Drafted, source: Array, *, alpha: float, extra_length: int) -> Hypotheses:
    """The result of `transformer.decode.greedy_search` for source ids [B, S], up to rounding in the logits."""
    length = source.shape[1] + extra_length
    tokens, log_probs = jax.vmap(lambda row, limit: _search(drafted, row[None], limit, length))(
        source, length_limits(source, extra_length)
    )
    lengths = (tokens != PAD).sum(axis=1)
    scores = log_probs.sum(axis=1) / length_penalty(lengths, alpha)
    return Hypotheses(tokens[:, None], scores[:, None], log_probs[:, None])


def _search(drafted: Drafted, source: Array, limit: Array, length: int) -> tuple[Array, Array]:
    """Tokens [length] and their log-probabilities for source ids [1, S]."""
    model, draft, k = drafted.model, drafted.draft, drafted.length
    capacity = length + k + 1  # a draft may go beyond the end
    history = jnp.zeros((1, 1, capacity), jnp.int32)

    def drafts(last: Array, state: _State) -> tuple[Array, Cache]:
        """The next k tokens of the draft, [k]. Of the last one too the keys and values are in the cache."""

        def propose(carry: tuple[Array, Cache], i: Array) -> tuple[tuple[Array, Cache], Array]:
            token, cache = carry
            logits, cache = draft.step(token[None, None], cache, state.written + i, history)
            token = without_padding(logits[0, 0]).argmax().astype(jnp.int32)
            return (token, cache), token

        (_, cache), tokens = jax.lax.scan(propose, (last, state.draft_cache), jnp.arange(k + 1))
        return tokens[:k], cache

    def extend(state: _State) -> _State:
        last = jnp.where(state.written == 0, BOS, state.tokens[state.written - 1])
        guessed, draft_cache = drafts(last, state)
        logits, cache = several_steps(model, jnp.concatenate([last[None], guessed])[None], state.cache, state.written)
        each = jax.nn.log_softmax(without_padding(logits[0]))
        chosen = each.argmax(axis=-1).astype(jnp.int32)  # [k + 1]
        accepted = jnp.cumprod(guessed == chosen[:k]).sum()
        end = jnp.where(chosen == EOS, jnp.arange(k + 1), k).min()
        new = jnp.minimum(jnp.minimum(accepted, end) + 1, limit - state.written)
        kept = jnp.arange(k + 1) < new

        def put(array: Array, values: Array) -> Array:
            return jax.lax.dynamic_update_slice_in_dim(array, jnp.where(kept, values, 0), state.written, axis=0)

        written = state.written + new
        done = (kept & (chosen == EOS)).any() | (written >= limit)
        return _State(
            written, put(state.tokens, chosen), put(state.log_probs, each.max(axis=-1)), cache, draft_cache, done
        )

    start = _State(
        jnp.zeros((), jnp.int32),
        jnp.full((capacity,), PAD, jnp.int32),
        jnp.zeros(capacity),
        model.start_cache(source, 1, capacity),
        draft.start_cache(source, 1, capacity),
        limit == 0,
    )
    state = jax.lax.while_loop(lambda state: ~state.done, extend, start)
    return state.tokens[:length], state.log_probs[:length]


def several_steps(model: Transformer, tokens: Array, cache: Cache, index: Array) -> tuple[Array, Cache]:
    """`Transformer.step` for several tokens [B, T] of one hypothesis, at position `index` and those after it.

    Returns:
        The logits [B, T, V] of the token after each, and the cache updated with `tokens`.
    """
    queries = (index + jnp.arange(tokens.shape[1]))[None]
    keys = jnp.arange(cache.seen[0].values.shape[2])[None]
    mask = (keys[:, None, :] <= queries[:, :, None])[:, None]
    context = model.attention_context(mask, queries, keys, causal=True)
    return model.advance(model.embed(tokens, model.positions(queries[0])[None]), cache, context, index)
