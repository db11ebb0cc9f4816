"""Initial values of the matrices of attention and of the feed-forward networks. The paper does not specify them.

To add an initializer, write a function of the axes of a matrix and register it:

    INITIALIZERS["mine"] = lambda inputs, outputs: jax.nn.initializers.he_normal(inputs, outputs)

`ModelConfig(initializer="mine")` then selects it.
"""

from collections.abc import Sequence
from typing import Protocol

import jax
from flax import nnx

from transformer.registry import Registry


class MakeInitializer(Protocol):
    """Builds an initializer of JAX, a function (key, shape) -> array, for a matrix."""

    def __call__(self, inputs: Sequence[int], outputs: Sequence[int], /) -> jax.nn.initializers.Initializer:
        """The matrix maps its axes `inputs` to its axes `outputs`: (0,) to (1,) in [D, F], (0,) to (1, 2) in [D, N, K].

        Fan-in and fan-out are therefore those of all heads together.
        """


def glorot(inputs: Sequence[int], outputs: Sequence[int]) -> jax.nn.initializers.Initializer:
    """Glorot and Bengio (2010), as in the authors' code: uniform, with variance 2 / (fan-in + fan-out)."""
    return jax.nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", inputs, outputs)


def normal(inputs: Sequence[int], outputs: Sequence[int]) -> jax.nn.initializers.Initializer:
    """Normal with standard deviation 0.02 whatever the size, as in BERT and GPT-2."""
    return jax.nn.initializers.normal(0.02)


INITIALIZERS: Registry[MakeInitializer] = Registry("model.initializer", {"glorot": glorot, "normal": normal})
"""Initializers by name: functions of the input and output axes of a matrix that return an initializer of JAX."""


def make_initializer(name: str, inputs: int = 1, outputs: int = 1) -> jax.nn.initializers.Initializer:
    """Builds the named initializer for a matrix whose first `inputs` axes are mapped to its last `outputs` axes."""
    axes = range(inputs + outputs)
    return INITIALIZERS.find(name)(tuple(axes[:inputs]), tuple(axes[inputs:]))


class Stream(nnx.RngStream):
    """Flax's own stream of keys, faster to trace.

    Flax's asks the tracer of its counter for a sharding. A tracer has none, and the error message that JAX writes and
    nobody reads contains the program so far: four fifths of the time in which a model is traced.
    """

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.count[...])
        self.count.set_value(self.count[...] + 1)
        return key


def rngs_of(seed: int) -> nnx.Rngs:
    """`nnx.Rngs(seed)`, with the same keys."""
    rngs = nnx.Rngs(seed)
    setattr(rngs, "default", Stream(seed, tag="default"))  # noqa: B010, as Flax sets it
    return rngs
