"""RMSNorm (Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization")."""

import jax.numpy as jnp
from flax import nnx

from transformer.config import ModelConfig
from transformer.layers import NORMS


class RMSNorm(nnx.RMSNorm):
    """x / sqrt(mean(x^2) + epsilon) times a learned scale: layer normalization without subtracting the mean."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config.d_model, epsilon=config.norm_epsilon, dtype=jnp.dtype(config.dtype), rngs=rngs)


NORMS.build_in({"rms": RMSNorm})
