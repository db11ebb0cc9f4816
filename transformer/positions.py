"""Section 3.5: what tells the model the order of its tokens.

To try another encoding, write a class like these two and add a line to POSITIONS:

    POSITIONS["mine"] = MyPositions

Then `ModelConfig(positions="mine")` builds it.
"""

from typing import Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.config import ModelConfig, UserError


class Positions(Protocol):
    """Maps position numbers [T] to vectors [T, D], which are added to the embeddings."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs): ...

    def __call__(self, positions: Array) -> Array: ...


class SinusoidalPositions(nnx.Module):
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


class LearnedPositions(nnx.Module):
    """One trained vector for each position (Table 3, row E).

    Positions past the table share its last row: there is nothing learned about them.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        init = jax.nn.initializers.normal(config.d_model**-0.5)
        self.table = nnx.Param(init(rngs.params(), (config.max_positions, config.d_model)))

    def __call__(self, positions: Array) -> Array:
        return jnp.take(self.table[...], positions, axis=0, mode="clip")


POSITIONS: dict[str, type[Positions]] = {
    "sinusoidal": SinusoidalPositions,
    "learned": LearnedPositions,
}


def make_positions(config: ModelConfig, *, rngs: nnx.Rngs) -> Positions:
    """The encoding that `config.positions` names. UserError lists the names there are."""
    if config.positions not in POSITIONS:
        raise UserError(f"unknown model.positions {config.positions!r}; there are: {', '.join(sorted(POSITIONS))}")
    return POSITIONS[config.positions](config, rngs=rngs)
