"""ScaleNorm (Nguyen and Salazar, 2019): vectors are scaled to one length, which is learned."""

import jax.numpy as jnp
from flax import nnx

from transformer.layers import NORMS


class ScaleNorm(nnx.Module):
    def __init__(self, config, *, rngs):
        self.scale = nnx.Param(jnp.full((1,), config.d_model**0.5))
        self.epsilon, self.dtype = config.norm_epsilon, jnp.dtype(config.dtype)

    def __call__(self, x):  # [B, T, D]
        length = jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)
        return (self.scale[...] * x / jnp.maximum(length, self.epsilon)).astype(self.dtype)


NORMS["scale-norm"] = ScaleNorm
