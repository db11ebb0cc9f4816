"""Section 6.1: greedy search, beam search, and forced scoring (the probability of a given translation).

Each search is a compiled loop with a key/value cache. Apart from rounding, the result for a sentence does not depend on
the rest of its batch: each sentence has its own length limit, and its hypotheses are frozen once it is done.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from transformer.config import BOS, EOS, PAD


class Decodable(Protocol):
    """What decoding needs of a model: the methods of `transformer.model.Transformer` with these names."""

    def start_cache(self, source: Array, beam: int, length: int) -> Any: ...

    def step(self, tokens: Array, cache: Any, index: Array, history: Array) -> tuple[Array, Any]: ...

    def __call__(self, source: Array, target: Array) -> Array: ...


Rule = Callable[[Array, Array, Array], Array]
"""What an output may contain: (logits [B, K, V], tokens so far [B, K, L], index) -> logits, -inf for every token that
may not be at position `index`. It changes nothing else, so that the score of a hypothesis remains the model's."""


class Hypotheses(NamedTuple):
    """The best hypotheses of each sentence: finished ones, best first, then truncated ones, best first.

    A truncated hypothesis reached the length limit before EOS. Its score lacks the probability of EOS, so the scores of
    a sentence are not necessarily in descending order.
    """

    tokens: Array
    """[B, best, L] ids: a finished hypothesis ends with EOS, a truncated one has no EOS; PAD follows."""
    scores: Array
    """[B, best]: log P(tokens | source) / ((5 + length) / 6)^alpha, where length includes EOS. -inf: no hypothesis."""
    log_probs: Array | None
    """[B, best, L]: log-probability of each token, 0 at padding; meaningless where there is no hypothesis. A compiled
    search that leaves them out does not compute them: XLA removes from a loop what no result depends on."""


class Beams(NamedTuple):
    """The beam of each sentence: K unfinished or K finished hypotheses."""

    tokens: Array
    """[B, K, L] ids."""
    totals: Array
    """[B, K, L]: log-probability of the tokens up to each one."""
    scores: Array
    """[B, K]: log-probability if unfinished, length-penalized score if finished; -inf for an empty slot."""

    def of(self, chosen: Array, scores: Array) -> "Beams":
        """The hypotheses `chosen` [B, N], with these scores [B, N]."""
        return Beams(
            jnp.take_along_axis(self.tokens, chosen[:, :, None], axis=1),
            jnp.take_along_axis(self.totals, chosen[:, :, None], axis=1),
            scores,
        )

    def extended(self, parents: Array, index: Array, tokens: Array, totals: Array) -> "Beams":
        """The hypotheses `parents` [B, N] with one more token at position `index`; `totals` are their scores."""
        begun = self.of(parents, totals)
        return Beams(begun.tokens.at[:, :, index].set(tokens), begun.totals.at[:, :, index].set(totals), totals)


def length_penalty(length: ArrayLike, alpha: float) -> Array:
    """Length penalty ((5 + length) / 6)^alpha, as in Wu et al. (2016), the paper's reference [38]."""
    return ((5.0 + jnp.asarray(length, jnp.float32)) / 6.0) ** alpha


def length_limits(source: Array, extra_length: int) -> Array:
    """Maximum output lengths: source ids [B, S] -> [B], input length + extra_length, or 0 for an empty row."""
    lengths = (source != PAD).sum(axis=1)
    return jnp.where(lengths > 0, lengths + extra_length, 0)


def without_padding(logits: Array) -> Array:
    """Masks PAD and BOS, which cannot occur in a translation, in logits [..., V]."""
    return logits.at[..., jnp.array([PAD, BOS])].set(-jnp.inf)


def greedy_search(
    model: Decodable, source: Array, *, alpha: float, extra_length: int, rule: Rule | None = None
) -> Hypotheses:
    """Greedy search: the most likely token at each step. [B, S] ids -> one hypothesis each, L = S + extra_length."""
    B, S = source.shape
    L = S + extra_length
    limits = length_limits(source, extra_length)
    history = jnp.zeros((B, 1, L), jnp.int32)

    def unfinished(state) -> Array:
        return jnp.any(~state[-1])

    def extend(state):
        index, tokens, log_probs, log_prob, cache, done = state
        last = jnp.where(index == 0, BOS, tokens[:, index - 1])
        logits, cache = model.step(last[:, None], cache, index, history)
        each = jax.nn.log_softmax(without_padding(logits[:, 0]))
        if rule:
            each = rule(each[:, None], tokens[:, None], index)[:, 0]
        best = jnp.where(done, PAD, each.argmax(axis=-1).astype(jnp.int32))
        highest = jnp.where(done, 0.0, each.max(axis=-1))
        done |= (best == EOS) | (index + 1 >= limits)
        tokens, log_probs = tokens.at[:, index].set(best), log_probs.at[:, index].set(highest)
        return index + 1, tokens, log_probs, log_prob + highest, cache, done

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((B, L), PAD, jnp.int32),
        jnp.zeros((B, L)),
        jnp.zeros(B),
        model.start_cache(source, 1, L),
        limits == 0,
    )
    _, tokens, log_probs, log_prob, _, _ = jax.lax.while_loop(unfinished, extend, start)
    scores = log_prob / length_penalty((tokens != PAD).sum(axis=1), alpha)
    return Hypotheses(tokens[:, None], scores[:, None], log_probs[:, None])


def beam_search(
    model: Decodable,
    source: Array,
    *,
    beam: int,
    alpha: float,
    extra_length: int,
    best: int = 1,
    rule: Rule | None = None,
) -> Hypotheses:
    """Beam search with a length penalty.

    A sentence is done when no unfinished hypothesis can still score better than its `best` finished ones, or at its
    length limit of input length + extra_length.

    Args:
        source: [B, S] ids.
        beam: beam size K.
        alpha: exponent of the length penalty.
        extra_length: maximum output length minus input length.
        best: number of hypotheses to return for each sentence, at most `beam`.
        rule: what a hypothesis may contain; None: anything.

    Returns:
        Hypotheses with L = S + extra_length.
    """
    assert 1 <= best <= beam, (best, beam)
    B, S = source.shape
    K, L = beam, S + extra_length
    limits = length_limits(source, extra_length)

    def extend(state):
        index, alive, finished, history, cache, done = state
        last = jnp.where(index == 0, BOS, alive.tokens[:, :, index - 1])
        history = history.at[:, :, index].set(jnp.arange(K))
        logits, cache = model.step(last, cache, index, history)
        logits = without_padding(logits)
        allowed = rule(logits, alive.tokens, index) if rule else None
        scores, parents, tokens = candidates(alive.scores, logits, allowed)
        extended = alive.extended(parents, index, tokens, scores)

        ends = tokens == EOS
        ended = extended._replace(scores=jnp.where(ends, scores / length_penalty(index + 1, alpha), -jnp.inf))
        finished_now = best_of(K, finished, ended)
        going_on, kept = jax.lax.top_k(jnp.where(ends, -jnp.inf, scores), K)
        alive_now = extended.of(kept, going_on)

        parents = jnp.take_along_axis(parents, kept, axis=1)
        history = jnp.take_along_axis(history, parents[:, :, None], axis=1)

        alive, finished = where_beams(done, alive, alive_now), where_beams(done, finished, finished_now)
        # Upper bound for the final score of an unfinished hypothesis: its log-probability can only decrease, and the
        # (negative) score is divided by the largest penalty at the length limit.
        bound = alive.scores.max(axis=1) / length_penalty(limits, alpha)
        done |= (index + 1 >= limits) | (finished.scores[:, best - 1] >= bound)
        return index + 1, alive, finished, history, cache, done

    start = (jnp.zeros((), jnp.int32), *no_beams(B, K, L), *no_cache(model, source, K), limits == 0)
    _, alive, finished, _, _, _ = search_with_growing_cache(extend, start, S, L)
    return hypotheses(finished, alive._replace(scores=alive.scores / length_penalty(limits, alpha)[:, None]), best)


def no_beams(B: int, K: int, L: int) -> tuple[Beams, Beams]:
    """The unfinished and the finished hypotheses of B sentences before the first step: one empty one, and none."""
    nothing = jnp.full((B, K, L), PAD, jnp.int32)
    # One empty hypothesis: K equal ones would remain equal.
    first = jnp.where(jnp.arange(K) == 0, 0.0, -jnp.inf)
    totals = jnp.zeros((B, K, L))
    return Beams(nothing, totals, jnp.tile(first, (B, 1))), Beams(nothing, totals, jnp.full((B, K), -jnp.inf))


def no_cache(model: Decodable, source: Array, K: int) -> tuple[Array, Any]:
    """The history [B, K, 0] and the key/value cache of K hypotheses before the first step, without capacity yet."""
    return jnp.zeros((len(source), K, 0), jnp.int32), model.start_cache(source, K, 0)


def search_with_growing_cache(extend: Callable[[Any], Any], state: Any, source: int, longest: int) -> Any:
    """Extends the hypotheses of a batch until all sentences are done, while the cache grows; returns the last state.

    Args:
        extend: one step, from state to state. A state is (index, alive, finished, history, cache, ..., done).
        source: width of the sources, S.
        longest: maximum output length, L.
    """

    def unfinished(state: Any) -> Array:
        return jnp.any(~state[-1]) & (state[0] < state[3].shape[2])

    for capacity in cache_lengths(source, longest):
        index, alive, finished, history, cache, *others = state
        history = jnp.pad(history, ((0, 0), (0, 0), (0, capacity - history.shape[2])))
        state = index, alive, finished, history, cache.grow(capacity * history.shape[1]), *others
        state = jax.lax.while_loop(unfinished, extend, state)
    return state


def cache_lengths(source: int, longest: int) -> list[int]:
    """Successive capacities of the key/value cache in positions; the last one is `longest`.

    Attention takes time in proportion to the capacity. Most translations are about as long as their sources and few
    come near the length limit, so the cache starts small and grows.
    """
    return [length for length in (source, 2 * source) if 1.25 * length < longest] + [longest]


def candidates(scores: Array, logits: Array, allowed: Array | None = None) -> tuple[Array, Array, Array]:
    """The 2K best one-token extensions of the hypotheses of each sentence.

    At most K of them end with EOS (one for each hypothesis), so at least K remain unfinished.

    Args:
        scores: [B, K], log-probabilities of the hypotheses.
        logits: [B, K, V], logits of their next tokens.
        allowed: the same, with -inf for tokens that a rule excludes; None: no rule.

    Returns:
        For each extension its log-probability, the index of the hypothesis it extends, and its token; each [B, 2K].
    """
    B, K, V = logits.shape
    # Each hypothesis contributes at most 2K extensions, and log-softmax keeps the order of its logits: select the 2K
    # largest logits first, then normalize only those.
    count = min(2 * K, V)
    highest, tokens = largest(logits if allowed is None else allowed, count)
    totals = scores[:, :, None] + highest - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    best, choice = jax.lax.top_k(totals.reshape(B, K * count), 2 * K)
    return best, choice // count, jnp.take_along_axis(tokens.reshape(B, K * count), choice, axis=1)


def largest(x: Array, count: int) -> tuple[Array, Array]:
    """The `count` largest values along the last axis and their indices: a faster `jax.lax.top_k`.

    All of them lie in the `count` blocks with the largest maxima, so only those blocks are searched. Unlike in `top_k`,
    ties are broken arbitrarily.
    """
    size = x.shape[-1]

    def values_compared(block: int) -> int:
        return size // block + count * block

    block = min((n for n in range(1, size + 1) if size % n == 0), key=values_compared)
    if values_compared(block) > size // 2:
        return jax.lax.top_k(x, count)
    x = x.reshape(*x.shape[:-1], size // block, block)
    _, blocks = jax.lax.top_k(x.max(axis=-1), count)
    x = jnp.take_along_axis(x, blocks[..., None], axis=-2).reshape(*x.shape[:-2], count * block)
    highest, index = jax.lax.top_k(x, count)
    return highest, jnp.take_along_axis(blocks, index // block, axis=-1) * block + index % block


def best_of(count: int, *groups: Beams) -> Beams:
    """The `count` best hypotheses of each sentence among all groups; ties go to the earlier one."""
    every = jax.tree.map(lambda *each: jnp.concatenate(each, axis=1), *groups)
    scores, best = jax.lax.top_k(every.scores, count)
    return every.of(best, scores)


def where_beams(condition: Array, yes: Beams, no: Beams) -> Beams:
    """`jnp.where` for beams: `yes` for the sentences where `condition` [B] is True, else `no`."""
    return Beams(
        jnp.where(condition[:, None, None], yes.tokens, no.tokens),
        jnp.where(condition[:, None, None], yes.totals, no.totals),
        jnp.where(condition[:, None], yes.scores, no.scores),
    )


def hypotheses(finished: Beams, truncated: Beams, best: int) -> Hypotheses:
    """The `best` of each sentence: finished ones first; the remaining slots are filled with truncated ones."""
    K = finished.scores.shape[1]
    slots = jnp.arange(K) - jnp.isfinite(finished.scores).sum(axis=1, keepdims=True)
    empty = slots >= 0
    order = jnp.where(empty, slots, 0)
    truncated = truncated.of(order, jnp.take_along_axis(truncated.scores, order, axis=1))
    tokens = jnp.where(empty[:, :, None], truncated.tokens, finished.tokens)[:, :best]
    totals = jnp.where(empty[:, :, None], truncated.totals, finished.totals)[:, :best]
    scores = jnp.where(empty, truncated.scores, finished.scores)[:, :best]
    log_probs = totals - jnp.pad(totals[..., :-1], ((0, 0), (0, 0), (1, 0)))
    # Rounding can make the total of a longer beginning larger.
    return Hypotheses(tokens, scores, jnp.where(tokens != PAD, jnp.minimum(log_probs, 0.0), 0.0))


def token_log_probs(model: Decodable, source: Array, target: Array) -> Array:
    """Forced scoring: log-probability of each target token, given the source and the tokens before it.

    Source ids [B, S], target ids [B, T] -> [B, T], 0 at padding, so that the sum of a row is log P(target | source).
    """
    log_probs = jax.nn.log_softmax(without_padding(model(source, target)))
    chosen = jnp.take_along_axis(log_probs, target[:, :, None], axis=-1)[:, :, 0]
    return jnp.where(target != PAD, chosen, 0.0)
