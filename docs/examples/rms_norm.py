"""RMSNorm (Zhang and Sennrich, 2019): layer normalization without subtracting the mean."""

import jax.numpy as jnp
from flax import nnx

from transformer.layers import NORMS


class RMSNorm(nnx.RMSNorm):
    def __init__(self, config, *, rngs):
        super().__init__(config.d_model, epsilon=config.norm_epsilon, dtype=jnp.dtype(config.dtype), rngs=rngs)


NORMS["rms"] = RMSNorm
