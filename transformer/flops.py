"""Floating-point operations (FLOPs) of the model: the multiplications and additions of its matmuls.

Normalization, softmax and residual additions are not counted, as is usual: their cost is memory traffic.
"""

import jax
from flax import nnx

from transformer.attention import ATTENTIONS
from transformer.config import ModelConfig
from transformer.initializers import rngs_of
from transformer.layers import make_feed_forward


def forward_flops(config: ModelConfig, source: int, target: int) -> int:
    """FLOPs of the forward pass for one sentence pair of `source` and `target` tokens.

    Decoder self-attention is counted in full, as the dense matmuls compute it, although the causal mask discards half.
    """
    weights = feed_forward_weights(config)
    queries_keys, values = config.num_heads * config.d_k, config.num_heads * config.d_v

    def attention(n_query: int, n_key: int, pairs: float) -> float:
        return 2 * (config.d_model * (n_query + n_key) + pairs) * (queries_keys + values)

    def self_attention(n: int) -> float:
        return attention(n, n, ATTENTIONS.find(config.attention).pairs(config, n))

    def feed_forward(n: int) -> int:
        return 2 * n * weights

    encoder = self_attention(source) + feed_forward(source)
    decoder = self_attention(target) + attention(target, source, target * source) + feed_forward(target)
    layers = config.num_layers * encoder + config.decoder_depth * decoder
    return round(layers) + 2 * target * config.d_model * config.vocab_size


def feed_forward_weights(config: ModelConfig) -> int:
    """Number of entries of the matrices of a feed-forward network, each of which multiplies every token once.

    It is 2 D F for the paper's. A custom network (model.feed_forward) is built without allocating it.
    """
    shapes = nnx.eval_shape(lambda: make_feed_forward(config, rngs=rngs_of(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param)) if leaf.ndim > 1)


def train_flops(config: ModelConfig, source: int, target: int) -> int:
    """FLOPs of one sentence pair, forward and backward: the backward pass has two matmuls for each forward one."""
    return 3 * forward_flops(config, source, target)
