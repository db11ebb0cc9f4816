"""Section 6.1: greedy search, beam search, and the probability of a given translation.

Each search is a compiled loop around a key/value cache. But for rounding, a sentence's result does not depend on the
others in its batch: its length limit is its own, and once it is done its hypotheses are frozen.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from transformer.config import BOS, EOS, PAD
from transformer.model import Transformer


class Hypotheses(NamedTuple):
    """The best translations of each sentence: finished ones, the best first, then those that the length limit cut off,
    the best first. So the scores of all may not fall: what is cut off lacks the price of its end."""

    tokens: Array
    """[B, best, L] ids: EOS ends a hypothesis, PAD follows. One cut off by the length limit has no EOS."""
    scores: Array
    """[B, best]: log P(tokens | source) / ((5 + length) / 6)^alpha, an EOS counted too. -inf: an empty place."""


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


def without_padding(logits: Array) -> Array:
    """Logits [..., V] of what can stand in a translation: PAD and BOS cannot."""
    return logits.at[..., jnp.array([PAD, BOS])].set(-jnp.inf)


def greedy_search(model: Transformer, source: Array, *, alpha: float, extra_length: int) -> Hypotheses:
    """The likeliest token at each step. source [B, S] -> hypotheses with K = 1 and L = S + extra_length."""
    B, S = source.shape
    L = S + extra_length
    limits = length_limits(source, extra_length)
    history = jnp.zeros((B, 1, L), jnp.int32)

    def unfinished(state) -> Array:
        return jnp.any(~state[-1])

    def extend(state):
        index, tokens, log_prob, cache, done = state
        last = jnp.where(index == 0, BOS, tokens[:, index - 1])
        logits, cache = model.step(last[:, None], cache, index, history)
        log_probs = jax.nn.log_softmax(without_padding(logits[:, 0]))
        best = jnp.where(done, PAD, log_probs.argmax(axis=-1).astype(jnp.int32))
        log_prob += jnp.where(done, 0.0, log_probs.max(axis=-1))
        done |= (best == EOS) | (index + 1 >= limits)
        return index + 1, tokens.at[:, index].set(best), log_prob, cache, done

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((B, L), PAD, jnp.int32),
        jnp.zeros(B),
        model.start_cache(source, 1, L),
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
    K, L = beam, S + extra_length
    limits = length_limits(source, extra_length)

    def unfinished(state) -> Array:
        return jnp.any(~state[-1]) & (state[0] < state[3].shape[2])

    def extend(state):
        index, alive, finished, history, cache, done = state
        last = jnp.where(index == 0, BOS, alive.tokens[:, :, index - 1])
        history = history.at[:, :, index].set(jnp.arange(K))
        logits, cache = model.step(last, cache, index, history)
        scores, parents, tokens = candidates(alive.scores, without_padding(logits))
        sequences = jnp.take_along_axis(alive.tokens, parents[:, :, None], axis=1)
        sequences = sequences.at[:, :, index].set(tokens)

        ends = tokens == EOS
        ended = Beams(sequences, jnp.where(ends, scores / length_penalty(index + 1, alpha), -jnp.inf))
        finished_now = best_of(K, finished, ended)
        going_on, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), K)
        alive_now = Beams(jnp.take_along_axis(sequences, kept[:, :, None], axis=1), going_on)

        parents = jnp.take_along_axis(parents, kept, axis=1)
        history = jnp.take_along_axis(history, parents[:, :, None], axis=1)

        alive, finished = where_beams(done, alive, alive_now), where_beams(done, finished, finished_now)
        # Log-probabilities only fall, and the penalty divides most at the limit: no unfinished one ends above this.
        bound = alive.scores.max(axis=1) / length_penalty(limits, alpha)
        done |= (index + 1 >= limits) | (finished.scores[:, best - 1] >= bound)
        return index + 1, alive, finished, history, cache, done

    nothing = jnp.full((B, K, L), PAD, jnp.int32)
    # One empty hypothesis to begin with: K equal ones would stay equal.
    first = jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf)
    state = (
        jnp.zeros((), jnp.int32),
        Beams(nothing, jnp.tile(first, (B, 1))),
        Beams(nothing, jnp.full((B, K), -jnp.inf)),
        jnp.zeros((B, K, 0), jnp.int32),
        model.start_cache(source, K, 0),
        limits == 0,
    )
    for room in cache_lengths(S, L):
        index, alive, finished, history, cache, done = state
        history = jnp.pad(history, ((0, 0), (0, 0), (0, room - history.shape[2])))
        state = index, alive, finished, history, cache.grow(room * K), done
        state = jax.lax.while_loop(unfinished, extend, state)
    _, alive, finished, _, _, _ = state
    cut_off = Beams(alive.tokens, alive.scores / length_penalty(limits, alpha)[:, None])
    tokens, scores = fill_up(finished, cut_off)
    return Hypotheses(tokens[:, :best], scores[:, :best])


def cache_lengths(source: int, longest: int) -> list[int]:
    """How many positions the cache has room for, one after the other, the last of them `longest`.

    Most translations are about as long as their sources and few come near their limit, but attention takes time for
    all the room there is.
    """
    return [length for length in (source, 2 * source) if 1.25 * length < longest] + [longest]


def candidates(scores: Array, logits: Array) -> tuple[Array, Array, Array]:
    """The 2K best ways to go on: of these at most K end (one for each hypothesis), so at least K go on.

    Args:
        scores: [B, K], log-probabilities of the hypotheses.
        logits: [B, K, V], of their next tokens.

    Returns:
        Their log-probabilities, the hypotheses that they continue, and their tokens; each [B, 2K].
    """
    B, K, V = logits.shape
    # No hypothesis gives more than 2K of them, and the order of its tokens is that of their logits: so the largest ones
    # are found first, and only those are made log-probabilities.
    count = min(2 * K, V)
    highest, tokens = largest(logits, count)
    totals = scores[:, :, None] + highest - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    best, choice = jax.lax.top_k(totals.reshape(B, K * count), 2 * K)
    return best, choice // count, jnp.take_along_axis(tokens.reshape(B, K * count), choice, axis=1)


def largest(x: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest numbers of the last axis and their places, as `jax.lax.top_k` gives them but sooner.

    They are all in the `count` blocks with the largest maxima. Of equal numbers any may be taken.
    """
    size = x.shape[-1]

    def looked_at(block: int) -> int:
        return size // block + count * block

    block = min((n for n in range(1, size + 1) if size % n == 0), key=looked_at)
    if looked_at(block) > size // 2:
        return jax.lax.top_k(x, count)
    x = x.reshape(*x.shape[:-1], size // block, block)
    _, blocks = jax.lax.top_k(x.max(axis=-1), count)
    x = jnp.take_along_axis(x, blocks[..., None], axis=-2).reshape(*x.shape[:-2], count * block)
    highest, places = jax.lax.top_k(x, count)
    return highest, jnp.take_along_axis(blocks, places // block, axis=-1) * block + places % block


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
    log_probs = jax.nn.log_softmax(without_padding(model(source, target)))
    chosen = jnp.take_along_axis(log_probs, target[:, :, None], axis=-1)[:, :, 0]
    return jnp.where(target != PAD, chosen, 0.0)
