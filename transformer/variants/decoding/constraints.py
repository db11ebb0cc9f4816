"""Beam search for outputs that contain given phrases.

Post & Vilar (2018), Fast Lexically Constrained Decoding with Dynamic Beam Allocation for Neural Machine Translation:
the beam is shared out among banks, one for each number of constraint tokens that a hypothesis has met, so that
hypotheses that make progress are not pruned by more probable ones that make none. The sentences of a batch are searched
together, as in Hu et al. (2019), Improved Lexically Constrained Decoding for Translation and Monolingual Rewriting.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import BOS, EOS, PAD
from transformer.decode import (
    Beams,
    Decodable,
    Hypotheses,
    Rule,
    best_of,
    hypotheses,
    largest,
    length_limits,
    length_penalty,
    no_beams,
    no_cache,
    search_with_growing_cache,
    where_beams,
    without_padding,
)


class Progress(NamedTuple):
    """What each hypothesis has of its J phrases of up to M tokens."""

    matched: Array
    """[B, K, J, M]: whether the last m + 1 tokens are the first m + 1 of the phrase."""
    contained: Array
    """[B, K, J]: whether the hypothesis contains the whole phrase."""

    def of(self, parents: Array) -> "Progress":
        """That of the hypotheses `parents` [B, N]."""
        return Progress(
            jnp.take_along_axis(self.matched, parents[:, :, None, None], axis=1),
            jnp.take_along_axis(self.contained, parents[:, :, None], axis=1),
        )

    def after(self, tokens: Array, phrases: Array) -> "Progress":
        """After one more token each, `tokens` [B, K]; `phrases` are ids [B, J, M], padded."""
        before = jnp.pad(self.matched[..., :-1], ((0, 0), (0, 0), (0, 0), (1, 0)), constant_values=True)
        matched = before & (tokens[:, :, None, None] == phrases[:, None])
        ends = (phrases != PAD) & (jnp.pad(phrases[..., 1:], ((0, 0), (0, 0), (0, 1))) == PAD)
        return Progress(matched, self.contained | jnp.any(matched & ends[:, None], axis=-1))

    def met(self, phrases: Array) -> Array:
        """Number of constraint tokens met, [B, K]: those of contained phrases, and of the one furthest begun."""
        lengths = (phrases != PAD).sum(axis=2)[:, None]
        begun = jnp.where(self.matched, jnp.arange(1, phrases.shape[2] + 1), 0).max(axis=-1)
        return jnp.where(self.contained, lengths, 0).sum(axis=2) + jnp.where(self.contained, 0, begun).max(axis=2)


def constrained_beam_search(
    model: Decodable,
    source: Array,
    phrases: Array,
    *,
    beam: int,
    alpha: float,
    extra_length: int,
    best: int = 1,
    rule: Rule | None = None,
) -> Hypotheses:
    """Beam search in which EOS may follow only once a hypothesis contains all phrases of its sentence.

    So every finished hypothesis contains them. If none is finished at the length limit, the truncated ones with the
    most constraint tokens come first. Phrases may overlap; a phrase that is given twice need occur only once.

    Args:
        source: [B, S] ids.
        phrases: [B, J, M] ids of J phrases of up to M tokens, padded on the right; a row of padding is no phrase.
        beam, alpha, extra_length, best, rule: as in `transformer.decode.beam_search`.

    Returns:
        Hypotheses with L = S + extra_length; their scores are those of beam search.
    """
    assert 1 <= best <= beam, (best, beam)
    B, S = source.shape
    K, L = beam, S + extra_length
    J, M = phrases.shape[1:]
    limits = length_limits(source, extra_length)
    words = distinct(phrases.reshape(B, J * M))
    absent = ~jnp.any(phrases != PAD, axis=2)

    def extend(state):
        index, alive, finished, history, cache, progress, done = state
        last = jnp.where(index == 0, BOS, alive.tokens[:, :, index - 1])
        history = history.at[:, :, index].set(jnp.arange(K))
        logits, cache = model.step(last, cache, index, history)
        logits = without_padding(logits)
        allowed = rule(logits, alive.tokens, index) if rule else logits
        totals = alive.scores[:, :, None] + allowed - jax.nn.logsumexp(logits, axis=-1, keepdims=True)

        complete = progress.contained.all(axis=2)
        ended = Beams(
            alive.tokens.at[:, :, index].set(EOS),
            alive.totals.at[:, :, index].set(totals[:, :, EOS]),
            jnp.where(complete, totals[:, :, EOS] / length_penalty(index + 1, alpha), -jnp.inf),
        )
        finished_now = best_of(K, finished, ended)

        scores, parents, tokens = extensions(totals.at[:, :, EOS].set(-jnp.inf), words, 2 * K)
        reached = progress.of(parents).after(tokens, phrases)
        kept = shared_out(scores, reached.met(phrases), K)
        parents = jnp.take_along_axis(parents, kept, axis=1)
        alive_now = alive.extended(
            parents, index, jnp.take_along_axis(tokens, kept, axis=1), jnp.take_along_axis(scores, kept, axis=1)
        )
        history = jnp.take_along_axis(history, parents[:, :, None], axis=1)

        reached = reached.of(kept)
        progress = Progress(
            jnp.where(done[:, None, None, None], progress.matched, reached.matched),
            jnp.where(done[:, None, None], progress.contained, reached.contained),
        )
        alive, finished = where_beams(done, alive, alive_now), where_beams(done, finished, finished_now)
        bound = alive.scores.max(axis=1) / length_penalty(limits, alpha)  # as in beam_search
        done |= (index + 1 >= limits) | (finished.scores[:, best - 1] >= bound)
        return index + 1, alive, finished, history, cache, progress, done

    progress = Progress(jnp.zeros((B, K, J, M), bool), jnp.broadcast_to(absent[:, None], (B, K, J)))
    start = (jnp.zeros((), jnp.int32), *no_beams(B, K, L), *no_cache(model, source, K), progress, limits == 0)
    _, alive, finished, _, _, progress, _ = search_with_growing_cache(extend, start, S, L)
    scores = alive.scores / length_penalty(limits, alpha)[:, None]
    met = jnp.where(jnp.isneginf(scores), -1, progress.met(phrases))
    order = jnp.lexsort((-scores, -met))
    return hypotheses(finished, alive.of(order, jnp.take_along_axis(scores, order, axis=1)), best)


def distinct(tokens: Array) -> Array:
    """Replaces repeated ids of each row [B, N] by PAD, except for the first of them."""
    earlier = jnp.tril(tokens[:, :, None] == tokens[:, None, :], k=-1).any(axis=2)
    return jnp.where(earlier, PAD, tokens)


def extensions(totals: Array, words: Array, count: int) -> tuple[Array, Array, Array]:
    """One-token extensions of each hypothesis: with every constraint token, and with the `count` best other tokens.

    Args:
        totals: [B, K, V], log-probabilities of the extended hypotheses.
        words: [B, W], the distinct constraint tokens, with PAD anywhere.

    Returns:
        For each extension its log-probability (-inf for PAD), the hypothesis it extends, and its token; each [B, N].
    """
    B, K, V = totals.shape
    every = jnp.broadcast_to(words[:, None], (B, K, words.shape[1]))
    with_words = jnp.take_along_axis(totals, every, axis=2)  # PAD has -inf
    others = jax.vmap(lambda rows, ids: rows.at[:, ids].set(-jnp.inf))(totals, words)
    highest, tokens = largest(others, min(count, V))
    scores = jnp.concatenate([with_words, highest], axis=2)
    tokens = jnp.concatenate([every, tokens], axis=2)
    parents = jnp.broadcast_to(jnp.arange(K)[None, :, None], scores.shape)
    return scores.reshape(B, -1), parents.reshape(B, -1), tokens.reshape(B, -1)


def shared_out(scores: Array, banks: Array, count: int) -> Array:
    """Dynamic beam allocation: which `count` of N extensions stay in the beam, as indices [B, count].

    The banks take turns, the one with the most constraint tokens met first, and each gives its most probable extension
    that remains; a bank that has no more is passed over.

    Args:
        scores: [B, N], -inf for an extension that does not exist.
        banks: [B, N], the number of constraint tokens met.
    """
    exists = ~jnp.isneginf(scores)
    banks = jnp.where(exists, banks, -1)
    order = jnp.lexsort((-scores, -banks))
    in_order = jnp.take_along_axis(banks, order, axis=1)
    place = jnp.arange(scores.shape[1])
    begins = jnp.pad(in_order[:, 1:] != in_order[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    turn = place - jax.lax.cummax(jnp.where(begins, place, 0), axis=1)
    turn = jnp.where(in_order < 0, scores.shape[1], turn)
    chosen = jnp.argsort(turn, axis=1, stable=True)[:, :count]
    return jnp.take_along_axis(order, chosen, axis=1)
