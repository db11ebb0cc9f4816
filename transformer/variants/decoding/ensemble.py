"""Several models that translate as one: the mean of their probabilities at each step.

Sutskever et al. (2014), Sequence to Sequence Learning with Neural Networks, section 3.6.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer.decode import without_padding
from transformer.model import Cache, Transformer


class Caches(NamedTuple):
    """The caches of all models."""

    each: tuple[Cache, ...]

    def grow(self, capacity: int) -> "Caches":
        """Returns copies padded to a capacity of L * K = `capacity`."""
        return Caches(tuple(cache.grow(capacity) for cache in self.each))


class Ensemble:
    """Models with one vocabulary, as one model for every way to decode (`transformer.decode.Decodable`).

    Their sizes and components may differ. A single model is passed through: its results are bitwise its own.
    """

    def __init__(self, models: Sequence[Transformer]):
        self.models = tuple(models)

    def start_cache(self, source: Array, beam: int, length: int) -> Caches:
        """As `Transformer.start_cache`, for each model."""
        return Caches(tuple(model.start_cache(source, beam, length) for model in self.models))

    def step(self, tokens: Array, cache: Caches, index: Array, history: Array) -> tuple[Array, Caches]:
        """As `Transformer.step`; the logits are logarithms of the mean probabilities."""
        both = zip(self.models, cache.each, strict=True)
        logits, caches = zip(*(model.step(tokens, own, index, history) for model, own in both), strict=True)
        return log_mean(logits), Caches(caches)

    def __call__(self, source: Array, target: Array) -> Array:
        """As `Transformer.__call__`; the logits are logarithms of the mean probabilities."""
        return log_mean([model(source, target) for model in self.models])


def log_mean(logits: Sequence[Array]) -> Array:
    """The logarithm of the mean of the models' probabilities, in float32; the logits of a single model unchanged.

    Probabilities are those of a translation, which contains neither PAD nor BOS.
    """
    if len(logits) == 1:
        return logits[0]
    each = jnp.stack([jax.nn.log_softmax(without_padding(one.astype(jnp.float32))) for one in logits])
    return jax.nn.logsumexp(each, axis=0) - jnp.log(len(logits))
