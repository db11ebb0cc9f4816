"""Section 6.1: greedy search, beam search, and the probability of a given translation.

Each search is one compiled loop around a key/value cache. A sentence's result never depends on the
others in its batch: its length limit is its own, and once it is done its hypotheses are frozen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from transformer.config import BOS, EOS, PAD
from transformer.model import Cache, Transformer


class Hypotheses(NamedTuple):
    """The best translations of each sentence, the best first."""

    tokens: Array
    """[B, best, L] ids: EOS ends a hypothesis, PAD follows. One cut off by the length limit has no EOS."""
    scores: Array
    """[B, best]: log P(target | source) / ((5 + length) / 6)^alpha, the EOS counted."""


class Beams(NamedTuple):
    """Partial or finished hypotheses of each sentence."""

    tokens: Array
    """[B, K, L]"""
    scores: Array
    """[B, K]: log-probability of a partial one, penalised score of a finished one; -inf: an empty place."""


def length_penalty(length: ArrayLike, alpha: float) -> Array:
    """((5 + length) / 6)^alpha, as in the paper's reference [38]."""
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha


def length_limits(source: Array, extra_length: int) -> Array:
    """[B, S] ids -> [B]: how long an output may be: the input's tokens + extra_length. 0 for an empty row."""
    lengths = (source != PAD).sum(axis=1)
    return jnp.where(lengths > 0, lengths + extra_length, 0)


def next_log_probs(model: Transformer, tokens: Array, cache: Cache, index: Array) -> tuple[Array, Cache]:
    """Log-probabilities [B, V] of what follows `tokens` [B]."""
    logits, cache = model.step(tokens, cache, index)
    return log_softmax(logits), cache


def log_softmax(logits: Array) -> Array:
    """Log-probabilities [..., V] over what can stand in a translation: PAD and BOS cannot."""
    return jax.nn.log_softmax(logits.at[..., jnp.array([PAD, BOS])].set(-jnp.inf), axis=-1)


def greedy_search(model: Transformer, source: Array, *, alpha: float, extra_length: int) -> Hypotheses:
    """The likeliest token at each step. source [B, S] -> hypotheses with K = 1 and L = S + extra_length."""
    B, S = source.shape
    limits = length_limits(source, extra_length)

    def unfinished(state) -> Array:
        return jnp.any(~state[-1])

    def extend(state):
        index, tokens, log_prob, cache, done = state
        last = jnp.where(index == 0, BOS, tokens[:, index - 1])
        log_probs, cache = next_log_probs(model, last, cache, index)
        best = jnp.where(done, PAD, log_probs.argmax(axis=-1).astype(jnp.int32))
        log_prob += jnp.where(done, 0.0, log_probs.max(axis=-1))
        done |= (best == EOS) | (index + 1 >= limits)
        return index + 1, tokens.at[:, index].set(best), log_prob, cache, done

    L = S + extra_length
    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((B, L), PAD, jnp.int32),
        jnp.zeros(B),
        model.start_cache(source, L),
        limits == 0,
    )
    _, tokens, log_prob, _, _ = jax.lax.while_loop(unfinished, extend, start)
    lengths = (tokens != PAD).sum(axis=1)
    return Hypotheses(tokens[:, None], (log_prob / length_penalty(lengths, alpha))[:, None])


def beam_search(
    model: Transformer, source: Array, *, beam: int, alpha: float, extra_length: int, best: int = 1
) -> Hypotheses:
    """The hypotheses with the best penalised scores that a beam of the given size finds.

    A sentence is done when its `best` finished hypotheses beat whatever its unfinished ones could still
    become, or at its length limit, input + extra_length.

    Args:
        source: [B, S] ids.
        best: how many hypotheses to return for each sentence, at most `beam`.

    Returns:
        Hypotheses with L = S + extra_length.
    """
    assert 1 <= best <= beam, (best, beam)
    B, S = source.shape
    K, L, V = beam, S + extra_length, model.config.vocab_size
    limits = length_limits(source, extra_length)

    def unfinished(state) -> Array:
        return jnp.any(~state[-1])

    def extend(state):
        index, alive, finished, cache, done = state
        last = jnp.where(index == 0, BOS, alive.tokens[:, :, index - 1])
        log_probs, cache = next_log_probs(model, last.reshape(B * K), cache, index)
        totals = alive.scores[:, :, None] + log_probs.reshape(B, K, V)
        # Of 2K candidates at most K end here (one for each beam), so at least K go on.
        scores, choice = jax.lax.top_k(totals.reshape(B, K * V), 2 * K)
        parents, tokens = choice // V, (choice % V).astype(jnp.int32)
        sequences = jnp.take_along_axis(alive.tokens, parents[:, :, None], axis=1)
        sequences = sequences.at[:, :, index].set(tokens)

        ends = tokens == EOS
        ended = Beams(sequences, jnp.where(ends, scores / length_penalty(index + 1, alpha), -jnp.inf))
        finished_now = best_of(K, finished, ended)
        going_on, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), K)
        alive_now = Beams(jnp.take_along_axis(sequences, kept[:, :, None], axis=1), going_on)

        # Only the target's keys and values differ between a sentence's beams.
        rows = (jnp.arange(B)[:, None] * K + jnp.take_along_axis(parents, kept, axis=1)).reshape(B * K)
        cache = cache._replace(seen=jax.tree.map(lambda x: x[rows], cache.seen))

        alive, finished = where_beams(done, alive, alive_now), where_beams(done, finished, finished_now)
        # Log-probabilities only fall, and the penalty divides most at the limit: no unfinished one ends above this.
        bound = alive.scores.max(axis=1) / length_penalty(limits, alpha)
        done |= (index + 1 >= limits) | (finished.scores[:, best - 1] >= bound)
        return index + 1, alive, finished, cache, done

    nothing = jnp.full((B, K, L), PAD, jnp.int32)
    # One empty hypothesis to begin with: K equal ones would stay equal.
    first = jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf)
    start = (
        jnp.zeros((), jnp.int32),
        Beams(nothing, jnp.tile(first, (B, 1))),
        Beams(nothing, jnp.full((B, K), -jnp.inf)),
        jax.tree.map(lambda x: jnp.repeat(x, K, axis=0), model.start_cache(source, L)),
        limits == 0,
    )
    _, alive, finished, _, _ = jax.lax.while_loop(unfinished, extend, start)
    cut_off = Beams(alive.tokens, alive.scores / length_penalty(limits, alpha)[:, None])
    tokens, scores = fill_up(finished, cut_off)
    return Hypotheses(tokens[:, :best], scores[:, :best])


def best_of(count: int, *groups: Beams) -> Beams:
    """The `count` best of all groups, sentence by sentence; on a tie the earlier one."""
    tokens = jnp.concatenate([group.tokens for group in groups], axis=1)
    scores, best = jax.lax.top_k(jnp.concatenate([group.scores for group in groups], axis=1), count)
    return Beams(jnp.take_along_axis(tokens, best[:, :, None], axis=1), scores)


def where_beams(condition: Array, yes: Beams, no: Beams) -> Beams:
    """Sentence by sentence, `yes` where `condition` [B] holds."""
    return Beams(
        jnp.where(condition[:, None, None], yes.tokens, no.tokens),
        jnp.where(condition[:, None], yes.scores, no.scores),
    )


def fill_up(finished: Beams, cut_off: Beams) -> Beams:
    """Finished hypotheses first; the places left over go to those that the length limit cut off."""
    K = finished.scores.shape[1]
    places = jnp.arange(K) - jnp.isfinite(finished.scores).sum(axis=1, keepdims=True)
    empty = places >= 0
    order = jnp.where(empty, places, 0)
    return Beams(
        jnp.where(empty[:, :, None], jnp.take_along_axis(cut_off.tokens, order[:, :, None], axis=1), finished.tokens),
        jnp.where(empty, jnp.take_along_axis(cut_off.scores, order, axis=1), finished.scores),
    )


def token_log_probs(model: Transformer, source: Array, target: Array) -> Array:
    """Forced scoring: log P of each token of target [B, T] given source [B, S] and the tokens before it.

    [B, T], 0 at padding, so a row's sum is log P(target | source).
    """
    log_probs = log_softmax(model(source, target))
    chosen = jnp.take_along_axis(log_probs, target[:, :, None], axis=-1)[:, :, 0]
    return jnp.where(target != PAD, chosen, 0.0)
