"""Relative positions as in Transformer-XL (Dai et al., 2019): scores depend on the distance between two tokens.

The score of query i and key j is (q_i + u) k_j + (q_i + v) W_R r_{i-j}, with the sinusoidal encoding r of the distance
and two learned vectors u and v for each head. With model.positions = "none", nothing depends on absolute positions.
"""

from dataclasses import replace

import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import (
    ATTENTIONS,
    AttentionContext,
    MultiHeadAttention,
    Projection,
    scaled_dot_product_attention,
)
from transformer.config import ModelConfig
from transformer.matmul import einsum
from transformer.positions import SinusoidalPositions


class RelativeAttention(MultiHeadAttention):
    """Multi-head self-attention whose scores depend on distances; encoder-decoder attention is the paper's."""

    self_only = True

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        N, K = config.num_heads, config.d_k
        self.distances = SinusoidalPositions(config, rngs=rngs)
        # A bias would add the same to the scores of all keys, which the softmax ignores.
        self.distance = Projection((config.d_model,), (N, K), replace(config, biases=False), rngs=rngs)
        self.content_bias = nnx.Param(jnp.zeros((N, K)))
        self.distance_bias = nnx.Param(jnp.zeros((N, K)))

    def attend(self, queries: Array, keys: Array, values: Array, context: AttentionContext) -> tuple[Array, Array]:
        """Attention as in `MultiHeadAttention.attend`."""
        u, v = (bias[...].astype(queries.dtype)[:, None] for bias in (self.content_bias, self.distance_bias))
        scores = self.distance_scores(queries + v, keys.shape[3], context)
        if context.bias is not None:
            scores += context.bias
        return scaled_dot_product_attention(queries + u, keys, values, context.mask, scores, context.dropout)

    def distance_scores(self, queries: Array, length: int, context: AttentionContext) -> Array:
        """Scores [B, N, T, S] of the distances between queries [B, N, T, K] and S = `length` keys."""
        assert context.positions is not None
        asking, asked = context.positions
        if context.beam:  # all queries are at one position
            table = self.encoded(asking[0, 0] - asked[0])
            scores = einsum("BNTK,SNK->BNTS", queries, table)
        else:
            table = self.encoded(jnp.arange(1 - length, length))
            index = asking[:, :, None] - asked[:, None, :] + length - 1  # where it is outside, the mask is False
            every = einsum("BNTK,SNK->BNTS", queries, table)
            scores = jnp.take_along_axis(every, index[:, None], axis=3, mode="clip")
        return scores * queries.shape[-1] ** -0.5

    def encoded(self, distances: Array) -> Array:
        """W_R r for distances [S] -> [S, N, K]."""
        return self.distance(self.distances(distances))


ATTENTIONS.build_in({"relative": RelativeAttention})
