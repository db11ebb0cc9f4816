"""Translations drawn at random (ancestral sampling), from the whole distribution or its most probable part.

- temperature: Ackley et al. (1985), A Learning Algorithm for Boltzmann Machines.
- top-k: Fan et al. (2018), Hierarchical Neural Story Generation.
- top-p: Holtzman et al. (2020), The Curious Case of Neural Text Degeneration.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from transformer.config import BOS, EOS, PAD
from transformer.decode import Decodable, Hypotheses, Rule, length_limits, length_penalty, without_padding


def line_keys(seed: int, lines: Sequence[int]) -> Array:
    """Random keys [B] of sentences: functions of the seed and of their line numbers alone.

    The generator is named, since JAX has one that gives other numbers in another batch, and settings that select it.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(seed, impl="threefry2x32"), np.array(lines, np.uint32)
    )


def sample(
    model: Decodable,
    source: Array,
    keys: Array,
    *,
    samples: int,
    alpha: float,
    extra_length: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    rule: Rule | None = None,
) -> Hypotheses:
    """Draws translations token by token.

    Apart from rounding, sample k of a sentence depends on the key of the sentence and on k alone: not on the rest of
    the batch, on padding, or on how many samples are drawn.

    Args:
        source: [B, S] ids.
        keys: [B], one random key for each sentence, as `line_keys` gives them.
        samples: number K of independent samples of each sentence.

    Returns:
        Hypotheses with L = S + extra_length, K for each sentence in the order drawn: neither sorted nor distinct. The
        scores are those of beam search: the model's probabilities, before temperature, top-k, top-p and rule.
    """
    B, S = source.shape
    K, L = samples, S + extra_length
    limits = length_limits(source, extra_length)[:, None]
    history = jnp.broadcast_to(jnp.arange(K)[:, None], (B, K, L))

    def fold_in(keys: Array, number: Array) -> Array:
        return jax.vmap(jax.random.fold_in, (0, None))(keys, number)

    keys = jax.vmap(fold_in, (None, 0), 1)(keys, jnp.arange(K)).reshape(B * K)

    def unfinished(state) -> Array:
        return jnp.any(~state[-1])

    def extend(state):
        index, tokens, log_probs, log_prob, cache, done = state
        last = jnp.where(index == 0, BOS, tokens[:, :, index - 1])
        logits, cache = model.step(last, cache, index, history)
        each = jax.nn.log_softmax(without_padding(logits))
        allowed = rule(each, tokens, index) if rule else each
        odds = truncated(allowed / temperature, top_k, top_p).reshape(B * K, -1)
        drawn = jax.vmap(jax.random.categorical)(fold_in(keys, index), odds).astype(jnp.int32).reshape(B, K)
        chosen = jnp.where(done, 0.0, jnp.take_along_axis(each, drawn[:, :, None], axis=2)[:, :, 0])
        drawn = jnp.where(done, PAD, drawn)
        done |= (drawn == EOS) | (index + 1 >= limits)
        tokens, log_probs = tokens.at[:, :, index].set(drawn), log_probs.at[:, :, index].set(chosen)
        return index + 1, tokens, log_probs, log_prob + chosen, cache, done

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((B, K, L), PAD, jnp.int32),
        jnp.zeros((B, K, L)),
        jnp.zeros((B, K)),
        model.start_cache(source, K, L),
        jnp.broadcast_to(limits == 0, (B, K)),
    )
    _, tokens, log_probs, log_prob, _, _ = jax.lax.while_loop(unfinished, extend, start)
    return Hypotheses(tokens, log_prob / length_penalty((tokens != PAD).sum(axis=2), alpha), log_probs)


def truncated(logits: Array, top_k: int = 0, top_p: float = 1.0) -> Array:
    """Excludes all but the `top_k` most probable tokens (0: none), and of those all outside of the nucleus.

    The nucleus is the smallest set of the most probable tokens whose probabilities add up to `top_p`. A token that is
    as probable as the last one kept is kept too. [..., V] -> [..., V], -inf for the excluded tokens.
    """
    if top_k:
        logits = jnp.where(logits < jax.lax.top_k(logits, top_k)[0][..., -1:], -jnp.inf, logits)
    if top_p < 1.0:
        ordered = jnp.flip(jnp.sort(logits, axis=-1), axis=-1)
        probabilities = jax.nn.softmax(ordered)
        kept = jnp.cumsum(probabilities, axis=-1) - probabilities < top_p
        least = jnp.where(kept, ordered, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits
