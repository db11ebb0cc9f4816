"""Attention with linear biases (Press et al., 2022): a key counts for less, the further it stands from the query.

Each head has a slope of its own. Here both directions count, for the encoder looks both ways.
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
