"""Linear attention (Katharopoulos et al., 2020): the softmax is replaced by a product of feature maps.

The weight of a key is phi(q) phi(k) / sum of phi(q) phi(k'), with phi(x) = elu(x) + 1, which is positive. Since
sum_j (phi(q) phi(k_j)) v_j = phi(q) (sum_j phi(k_j) v_j^T), tokens that are far away enter as one [K, H] matrix, which
takes O(n d_k d_v) instead of O(n^2 d_k). Within a chunk of tokens the pairs are computed one by one, as this is what
the matmul units do best.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import ATTENTIONS, AttentionContext, MultiHeadAttention
from transformer.config import ModelConfig, UserError
from transformer.matmul import einsum
from transformer.variants.long.restricted import Row, in_blocks

CHUNK = 64
"""Tokens of a chunk."""


Sums = tuple[Array, Array]
"""Sums [B, N, K, H] over tokens of a sentence, and the number [B] of this sentence."""


def feature_map(x: Array) -> Array:
    """elu(x) + 1: x + 1 above 0 and exp(x) below."""
    return jax.nn.elu(x.astype(jnp.float32)).astype(x.dtype) + 1


class LinearAttention(MultiHeadAttention):
    """Multi-head attention whose self-attention has no softmax; encoder-decoder attention is the paper's."""

    self_only = True

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        if config.attention_dropout:  # there are no weights to drop out
            raise UserError("model.attention linear has no weights for model.attention_dropout: set it to 0")
        super().__init__(config, rngs=rngs)

    @staticmethod
    def pairs(config: ModelConfig, tokens: int) -> float:
        """What as many scores would cost: those of the chunks, and the sums of products of features."""
        K, H = config.d_k, config.d_v
        return tokens * (CHUNK + 2 * K * H / (K + H))

    def attend(self, queries: Array, keys: Array, values: Array, context: AttentionContext) -> tuple[Array, Array]:
        """Attention as in `MultiHeadAttention.attend`. The weights [B, N, T, S] cost nothing unless they are used."""
        if context.bias is not None:
            raise UserError("this model.attention cannot use an attention bias: choose other model.positions")
        queries, keys = feature_map(queries), feature_map(keys)
        mask = context.mask | ~context.mask.any(axis=-1, keepdims=True)  # a fully masked row would be 0/0
        weights = jnp.where(mask, einsum("BNTK,BNKS->BNTS", queries, keys), 0.0)
        weights /= weights.sum(axis=-1, keepdims=True)
        if context.tokens is None:
            output = einsum("BNTS,BNSH->BNTH", weights.astype(values.dtype), values)
            return output.astype(values.dtype), weights
        row = Row(jnp.moveaxis(keys, 3, 1), values.swapaxes(1, 2), *context.tokens)
        return in_chunks(queries.swapaxes(1, 2), row, context.causal).swapaxes(1, 2), weights


def in_chunks(queries: Array, row: Row, causal: bool) -> Array:
    """Linear attention of features [B, T, N, K] to the tokens of the same sentence -> [B, T, N, H].

    Args:
        row: features of the keys, values, and the sentence of each token.
        causal: attend to earlier tokens and the token itself only.
    """
    B, T, N, _ = queries.shape
    ones = jnp.ones((*row.values.shape[:-1], 1), row.values.dtype)
    row = row._replace(values=jnp.concatenate([row.values, ones], axis=-1))  # the last column sums the weights
    q, (k, v, number, position) = in_blocks((queries, row), CHUNK)
    mask = number[..., :, None] == number[..., None, :]
    if causal:
        mask &= position[..., None, :] <= position[..., :, None]
    scores = jnp.where(mask[:, :, None], einsum("BnTNK,BnSNK->BnNTS", q, k), 0.0)
    total = einsum("BnNTS,BnSNH->BnTNH", scores.astype(v.dtype), v)
    for backwards in (False,) if causal else (False, True):
        total += from_other_chunks(q, k, v, number, backwards)
    total = total.reshape(B, -1, N, total.shape[-1])[:, :T]  # without what fills the last chunk
    return (total[..., :-1] / jnp.maximum(total[..., -1:], 1e-30)).astype(row.values.dtype)


def from_other_chunks(q: Array, k: Array, v: Array, number: Array, backwards: bool) -> Array:
    """Sums over the tokens of the same sentence in earlier chunks, or in later ones: [B, chunks, T, N, H], float32.

    Only the last sentence of a chunk (backwards, the first) continues in the next one: its sums are carried on.
    """
    open_ = number[..., 0] if backwards else number[..., -1]  # [B, chunks]
    own = jnp.where((number == open_[..., None])[..., None, None], k, 0)
    added = einsum("BnSNK,BnSNH->BnNKH", own, v)

    def carry(before: Sums, chunk: Sums) -> tuple[Sums, Sums]:
        sums, sentence = before
        added, open_ = chunk
        continued = jnp.where((sentence == open_)[:, None, None, None], sums, 0.0)
        return (continued + added, open_), (sums, sentence)

    start = jnp.zeros_like(added[:, 0]), jnp.full_like(open_[:, 0], -2)
    _, (sums, sentence) = jax.lax.scan(carry, start, (added.swapaxes(0, 1), open_.swapaxes(0, 1)), reverse=backwards)
    sums, sentence = sums.swapaxes(0, 1), sentence.swapaxes(0, 1)
    asked = jnp.where((number == sentence[..., None])[..., None, None], q, 0)
    return einsum("BnTNK,BnNKH->BnTNH", asked.astype(jnp.float32), sums)


ATTENTIONS.build_in({"linear": LinearAttention})
