"""Attention with linear biases, ALiBi (Press et al., 2022): attention to a key decreases with its distance.

Each head has its own slope. The distance counts in both directions, because the encoder attends in both directions.
"""

import jax.numpy as jnp

from transformer.positions import POSITIONS, Positions


class LinearBiases(Positions):
    def __init__(self, config, *, rngs):
        self.slopes = tuple(2.0 ** (-8 * (head + 1) / config.num_heads) for head in range(config.num_heads))

    def bias(self, queries, keys):  # [B, T], [B, S] -> [B, N, T, S]
        distance = jnp.abs(queries[:, None, :, None] - keys[:, None, None, :])
        return -jnp.array(self.slopes)[:, None, None] * distance


POSITIONS["alibi"] = LinearBiases
