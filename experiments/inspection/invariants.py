"""The invariants that every variant of the model must satisfy, measured on a fresh model with random tokens.

For example, a model whose causal mask leaks has an excellent training loss, and cannot translate.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from jax.typing import ArrayLike

from transformer.config import BOS, ModelConfig
from transformer.model import Transformer, make_model

FIRST = 4  # the first ordinary token; the ids below it are special tokens


class Invariants(NamedTuple):
    """The largest violation of each invariant; rounding errors in float32 are about 1e-6."""

    causal: float
    """A target token does not change the logits up to its own position (section 3.2.3)."""
    padding: float
    """Padding after a source does not change the logits."""
    cached: float
    """Decoding token by token with a cache gives the same logits as training."""
    rows: float
    """Each row of the attention weights sums to 1."""


def measure_invariants(config: ModelConfig) -> Invariants:
    """Measures the invariants on a newly initialised model with these settings; each matrix needs more than 8 rows.

    Of a model without a decoder: those that it can violate.
    """
    model = make_model(config, rngs=nnx.Rngs(0))
    if not config.decoder_depth:
        return invariants_of_encoder(model)
    forward, step, weights = jax.jit(model.__call__), jax.jit(model.step), jax.jit(model.attention_weights)
    start = jax.jit(lambda source: model.start_cache(source, beam=1, length=7))
    chance, real = np.random.default_rng(1), config.vocab_size - FIRST
    sides = ((config.source_rows - FIRST, 9), (real, 7))
    source, target = (FIRST + chance.integers(0, rows, (3, length)) for rows, length in sides)
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


def invariants_of_encoder(model: Transformer) -> Invariants:
    """Measures the invariants of the encoder: there is no other part that looks at other positions."""
    source = FIRST + np.random.default_rng(1).integers(0, model.config.source_rows - FIRST, (3, 9))

    @jax.jit
    def encode(source: Array) -> tuple[Array, Array]:
        weights: list[Array] = []
        return model.encode(source, weights=weights), jnp.stack(weights)

    (memory, weights), (padded, _) = encode(source), encode(np.pad(source, ((0, 0), (0, 5))))
    return Invariants(0.0, largest(memory, padded[:, :9]), 0.0, largest(weights.sum(axis=-1), 1.0))


def largest(a: ArrayLike, b: ArrayLike, upto: int | None = None) -> float:
    """Returns the largest absolute difference of two arrays [B, T, ...], in the first `upto` target positions."""
    return float(np.abs(np.asarray(a) - np.asarray(b))[:, :upto].max())
