"""Query-key normalization (Henry et al., 2020): a score is the cosine of query and key, times a learned scale."""

import jax.numpy as jnp
from flax import nnx

from transformer.attention import ATTENTIONS, MultiHeadAttention, scaled_dot_product_attention


def unit(x, axis):
    return x / jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis, keepdims=True) + 1e-6)


class CosineAttention(MultiHeadAttention):
    def __init__(self, config, *, rngs):
        super().__init__(config, rngs=rngs)
        self.scale = nnx.Param(jnp.full((config.num_heads, 1, 1), 10.0))

    def attend(self, queries, keys, values, context):  # [B, N, T, K], [B, N, K, S], [B, N, S, H]
        scale = self.scale[...] * queries.shape[-1] ** 0.5  # undoes the division by sqrt(d_k) in equation 1
        queries, keys = (unit(queries, 3) * scale).astype(queries.dtype), unit(keys, 2).astype(keys.dtype)
        return scaled_dot_product_attention(queries, keys, values, context.mask, context.bias, context.dropout)


ATTENTIONS["cosine"] = CosineAttention
