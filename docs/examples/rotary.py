"""Rotary position embeddings (Su et al., 2021): queries and keys are rotated by angles proportional to their position.

The dot product of a query and a key then depends on the distance between their positions, not on the positions.
"""

import jax.numpy as jnp

from transformer.positions import POSITIONS, Positions


class RotaryPositions(Positions):
    def rotate(self, x, positions):  # [B, N, T, K], [B, T]
        half = x.shape[-1] // 2
        angles = positions[:, None, :, None] * 10_000.0 ** (-jnp.arange(half) / half)
        sin, cos = jnp.sin(angles), jnp.cos(angles)
        a, b = x[..., :half], x[..., half:]
        return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x.dtype)


POSITIONS["rotary"] = RotaryPositions
