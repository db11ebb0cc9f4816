"""Section 3.5: what tells the model the order of its tokens.

To try another encoding, write a class like these two and add a line:

    POSITIONS["mine"] = MyPositions

Then `ModelConfig(positions="mine")` builds it.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.config import ModelConfig
from transformer.registry import Registry


class Positions(nnx.Module):
    """An encoding says something in one or more of three places. This one says nothing in any of them.

    Positions count the tokens of a sentence from 0, for a row may hold several (transformer/segments.py). What is said
    of one depends on it alone, and not on how many there are: decoding asks for one at a time.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        pass

    def __call__(self, positions: Array) -> Array:
        """[T] -> vectors [T, D] (or [T, 1]), which are added to the embeddings."""
        return jnp.zeros((len(positions), 1))

    def rotate(self, x: Array, positions: Array) -> Array:
        """Queries or keys of self-attention [B, N, T, K], and their positions [B, T] (B may be 1) -> [B, N, T, K]."""
        return x

    def bias(self, queries: Array, keys: Array) -> Array | None:
        """Positions of queries [B, T] and keys [B, S] -> what is added to the scores of self-attention [B, N, T, S].

        B may be 1, here and there. None: nothing.
        """
        return None


class SinusoidalPositions(Positions):
    """PE(pos, 2i) = sin(pos / 10000^(2i/D)), PE(pos, 2i+1) = cos of the same: interleaved, no parameters.

    Any position has a vector, also one beyond the training lengths.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.d_model = config.d_model

    def __call__(self, positions: Array) -> Array:
        pairs = jnp.arange(0, self.d_model, 2)
        angles = positions[:, None] / jnp.power(10_000.0, pairs / self.d_model)
        interleaved = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(len(positions), -1)
        return interleaved[:, : self.d_model]  # an odd d_model ends on a sine


class LearnedPositions(Positions):
    """One trained vector for each position (Table 3, row E).

    Positions past the table share its last row: there is nothing learned about them.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        init = jax.nn.initializers.normal(config.d_model**-0.5)
        self.table = nnx.Param(init(rngs.params(), (config.max_positions, config.d_model)))

    def __call__(self, positions: Array) -> Array:
        return jnp.take(self.table[...], positions, axis=0, mode="clip")


POSITIONS: Registry[type[Positions]] = Registry(
    "model.positions", {"sinusoidal": SinusoidalPositions, "learned": LearnedPositions}
)
