"""Query-key normalization (Henry et al., 2020, "Query-Key Normalization for Transformers").

A score is the cosine of a query and a key, times a scale that each head learns. So scores are bounded, and large
queries and keys cannot saturate the softmax.
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import ATTENTIONS, AttentionContext, MultiHeadAttention
from transformer.config import ModelConfig

SCALE = 10.0
"""Initial scale. The paper on it takes log2(L^2 - L) for sentences of up to L tokens, which is 10 for 32."""


class QKNormAttention(MultiHeadAttention):
    """Multi-head attention whose scores are cosines times a scale g per head, in place of q k / sqrt(d_k)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.scale = nnx.Param(jnp.full((config.num_heads, 1, 1), SCALE))

    def attend(self, queries: Array, keys: Array, values: Array, context: AttentionContext) -> tuple[Array, Array]:
        """Attention as in `MultiHeadAttention.attend`."""
        scale = self.scale[...] * queries.shape[-1] ** 0.5  # undoes the division by sqrt(d_k) in equation 1
        queries, keys = (unit(queries, 3) * scale).astype(queries.dtype), unit(keys, 2).astype(keys.dtype)
        return super().attend(queries, keys, values, context)


def unit(x: Array, axis: int) -> Array:
    """Scales vectors along an axis to length 1, in float32. A vector of zeros stays one."""
    x = x.astype(jnp.float32)
    return x / jnp.sqrt(jnp.square(x).sum(axis, keepdims=True) + 1e-6)


ATTENTIONS.build_in({"qk-norm": QKNormAttention})
