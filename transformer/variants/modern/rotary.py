"""Rotary position embeddings (Su et al., 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding").

Queries and keys are rotated by angles that are proportional to their positions. The dot product of a query and a key
then depends on the distance between their positions, not on the positions.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.config import ModelConfig, UserError
from transformer.positions import POSITIONS, Positions


class RotaryPositions(Positions):
    """Rotary position embeddings (RoPE): pair i of d_k / 2 is rotated by position / 10000^(2i / d_k)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        if config.d_k % 2:
            raise UserError(f"model.positions rotary needs an even model.d_k, not {config.d_k}: it rotates pairs")

    def rotate(self, x: Array, positions: Array) -> Array:
        """Rotates queries or keys [B, N, T, K] by positions [B, T]. A pair is entries i and i + K / 2."""
        half = x.shape[-1] // 2
        angles = positions[:, None, :, None] * 10_000.0 ** (-jnp.arange(half) / half)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


POSITIONS.build_in({"rotary": RotaryPositions})
