"""Soft-capping of attention scores (Gemma 2; Gemma Team, 2024): a tanh keeps them between -CAP and CAP."""

import jax
import jax.numpy as jnp

from transformer.attention import ATTENTIONS, MultiHeadAttention
from transformer.matmul import einsum

CAP = 50.0


class SoftCapAttention(MultiHeadAttention):
    def attend(self, queries, keys, values, context):  # [B, N, T, K], [B, N, K, S], [B, N, S, H]
        scores = einsum("BNTK,BNKS->BNTS", queries * queries.shape[-1] ** -0.5, keys)
        scores = CAP * jnp.tanh(scores / CAP) + (0.0 if context.bias is None else context.bias)
        weights = jax.nn.softmax(jnp.where(context.mask, scores, jnp.finfo(scores.dtype).min), axis=-1)
        dropped = context.dropout(weights).astype(values.dtype)
        return einsum("BNTS,BNSH->BNTH", dropped, values).astype(values.dtype), weights


ATTENTIONS["soft-cap"] = SoftCapAttention
