"""The laws that every variant of the model must keep, measured on a model and on random tokens.

A mask that leaks makes a model that looks excellent in training and cannot translate.
"""

from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from transformer.config import BOS, ModelConfig
from transformer.model import Transformer

FIRST = 4  # what comes before it are the special tokens


class Invariants(NamedTuple):
    """The largest error of each law; float32 rounds at about 1e-6."""

    causal: float
    """A token of the target changes no logits up to its own place (section 3.2.3)."""
    padding: float
    """Padding behind a source changes no logits."""
    cached: float
    """Decoding token by token with a cache gives the logits of training."""
    rows: float
    """Each row of the attention weights sums to 1."""


def measure_invariants(config: ModelConfig) -> Invariants:
    """Of a fresh model with these settings. Its vocabulary has more than 8 tokens."""
    model = Transformer(config, rngs=nnx.Rngs(0))
    forward, step, weights = jax.jit(model.__call__), jax.jit(model.step), jax.jit(model.attention_weights)
    start = jax.jit(lambda source: model.start_cache(source, beam=1, length=7))
    chance, real = np.random.default_rng(1), config.vocab_size - FIRST
    source, target = (FIRST + chance.integers(0, real, (3, length)) for length in (9, 7))
    logits = forward(source, target)

    causal = 0.0
    for t in range(7):
        other = target.copy()
        other[:, t] = FIRST + (target[:, t] - FIRST + 1) % real
        causal = max(causal, largest(logits, forward(source, other), upto=t + 1))

    padding = largest(logits, forward(np.pad(source, ((0, 0), (0, 5))), target))

    cache, history = start(source), np.zeros((3, 1, 7), np.int32)
    shifted = np.concatenate([np.full((3, 1), BOS), target[:, :-1]], axis=1)
    one_by_one = []
    for t in range(7):
        found, cache = step(shifted[:, t : t + 1], cache, t, history)
        one_by_one.append(found)
    cached = largest(logits, np.concatenate(one_by_one, axis=1))

    rows = max(largest(attention.sum(axis=-1), 1.0) for attention in weights(source, target))
    return Invariants(causal, padding, cached, rows)


def largest(a: ArrayLike, b: ArrayLike, upto: int | None = None) -> float:
    """The largest difference [B, T, ...], up to so many places of the target."""
    return float(np.abs(np.asarray(a) - np.asarray(b))[:, :upto].max())
