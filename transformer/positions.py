"""Section 3.5: positional encodings, which tell the model the order of the tokens.

To add an encoding, write a subclass of `Positions` and register it:

    POSITIONS["mine"] = MyPositions

`ModelConfig(positions="mine")` then selects it.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.config import ModelConfig
from transformer.registry import Registry


class Positions(nnx.Module):
    """Base class of positional encodings: no positional information.

    A subclass overrides one or more of three methods: `__call__` (vectors added to the embeddings), `rotate` (rotary
    encodings of queries and keys) and `bias` (an attention bias, as for relative positions).

    Positions count the tokens of each sentence from 0, since a row may hold several packed sentences
    (transformer/segments.py). The result for a position must not depend on how many positions are passed: decoding
    passes one at a time.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        pass

    def __call__(self, positions: Array) -> Array:
        """Positions [T] -> vectors [T, D] (or [T, 1]) that are added to the embeddings."""
        return jnp.zeros((len(positions), 1))

    def rotate(self, x: Array, positions: Array) -> Array:
        """Rotates self-attention queries or keys [B, N, T, K] by positions [B, T] (B may be 1) -> [B, N, T, K]."""
        return x

    def bias(self, queries: Array, keys: Array) -> Array | None:
        """Attention bias added to the self-attention scores, or None for no bias.

        Args:
            queries: positions of the queries, [B, T]. Here and below, B may be 1.
            keys: positions of the keys, [B, S].

        Returns:
            An array that broadcasts to [B, N, T, S], or None.
        """
        return None


class SinusoidalPositions(Positions):
    """Sinusoidal encoding: PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos(pos / 10000^(2i/D)).

    Sines and cosines are interleaved, and there are no parameters. Positions beyond the training lengths have vectors
    too.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.d_model = config.d_model

    def __call__(self, positions: Array) -> Array:
        pairs = jnp.arange(0, self.d_model, 2)
        angles = positions[:, None] / jnp.power(10_000.0, pairs / self.d_model)
        interleaved = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(len(positions), -1)
        return interleaved[:, : self.d_model]  # an odd d_model ends with a sine


class LearnedPositions(Positions):
    """Learned positional embedding: one trained vector for each position (Table 3, row E).

    Positions at or beyond `config.max_positions` use the last vector, as nothing was learned about them.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        init = jax.nn.initializers.normal(config.d_model**-0.5)
        self.table = nnx.Param(init(rngs.params(), (config.max_positions, config.d_model)))

    def __call__(self, positions: Array) -> Array:
        return jnp.take(self.table[...], positions, axis=0, mode="clip")


POSITIONS: Registry[type[Positions]] = Registry(
    "model.positions", {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions, "none": Positions}
)
"""Positional encodings by name: subclasses of `Positions`."""
