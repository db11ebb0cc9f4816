"""Sections 3.1 and 3.3: feed-forward network, residual connections, encoder layer and decoder layer."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import ATTENTIONS, AttentionContext, KeysValues, MultiHeadAttention
from transformer.config import ModelConfig
from transformer.dropout import dropout, inner_key, split_key
from transformer.initializers import make_initializer
from transformer.kernels.residual import add_and_norm, residual_runs
from transformer.registry import Registry


@jax.custom_jvp
def relu(x: Array) -> Array:
    """max(0, x), whose gradient reads the output: the input need not be kept, nor written by the matmul before it."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = relu(*primals)
    # Not y > 0, which XLA would rewrite as a comparison of the input.
    return y, jnp.where(y != 0, tangents[0], 0)


def gelu(x: Array) -> Array:
    """x times the normal distribution function of x, exactly: GELU (Hendrycks and Gimpel, 2016), as in BERT."""
    return jax.nn.gelu(x, approximate=False)


def swish(x: Array) -> Array:
    """x times the logistic function of x: Swish (Ramachandran et al., 2017), also called SiLU."""
    return jax.nn.swish(x)


ACTIVATIONS: Registry[Callable[[Array], Array]] = Registry(
    "model.activation", {"relu": relu, "gelu": gelu, "swish": swish}
)
"""Activations by name: element-wise functions of an array."""


class FeedForward(nnx.Module):
    """Section 3.3, equation 2: position-wise feed-forward network, FFN(x) = max(0, x W1 + b1) W2 + b2.

    config.activation may name another function than the paper's max(0, x), the ReLU.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.activation = ACTIVATIONS.find(config.activation)
        self.rate = config.activation_dropout
        self.inner = make_linear(config, config.d_model, config.d_ff, rngs=rngs)
        self.outer = make_linear(config, config.d_ff, config.d_model, rngs=rngs)

    def hidden(self, x: Array) -> Array:
        """The inner layer: [B*T, D] -> [B*T, F]. A gated network overrides only this method."""
        return self.activation(self.inner(x))

    def __call__(self, x: Array, key: Array | None = None) -> Array:
        """[B, T, D] -> [B, T, D]. A `key` enables dropout after the activation (model.activation_dropout)."""
        hidden = self.hidden(x.reshape(-1, x.shape[-1]))
        if key is not None:
            hidden = dropout(hidden, self.rate, key)
        return self.outer(hidden).reshape(x.shape)


def make_linear(config: ModelConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
    """Builds a layer x W + b of a feed-forward network, W [inputs, outputs]; b is absent if config.biases is False."""
    init, dtype = make_initializer(config.initializer), jnp.dtype(config.dtype)
    return nnx.Linear(inputs, outputs, use_bias=config.biases, dtype=dtype, kernel_init=init, rngs=rngs)


def ffn(config: ModelConfig, *, rngs: nnx.Rngs) -> FeedForward:
    """The paper's: FFN(x) = max(0, x W_1 + b_1) W_2 + b_2."""
    return FeedForward(config, rngs=rngs)  # looked up here, so that a class assigned in its place is the one used


FEED_FORWARDS: Registry[Callable[..., Callable[..., Array]]] = Registry("model.feed_forward", {"ffn": ffn})
"""Feed-forward networks by name: classes constructed from (ModelConfig, rngs=...) that map [B, T, D] to [B, T, D]. With
model.activation_dropout, they are called in training with a second argument `key`, a dropout key."""


def make_feed_forward(config: ModelConfig, *, rngs: nnx.Rngs) -> Callable[..., Array]:
    """Builds the feed-forward network named by `config.feed_forward`."""
    return FEED_FORWARDS.find(config.feed_forward)(config, rngs=rngs)


def with_key(feed_forward: Callable[..., Array], key: Array | None) -> Callable[[Array], Array]:
    """The network with its dropout key. Without one it takes no second argument, so that a custom one need not."""
    return feed_forward if key is None else partial(feed_forward, key=key)


def with_dropout(context: AttentionContext, rate: float, key: Array | None) -> AttentionContext:
    """The context with dropout of the attention weights, if there is a key."""
    return context if key is None else context._replace(dropout=lambda weights: dropout(weights, rate, key))


class LayerNorm(nnx.LayerNorm):
    """Layer normalization over D, with float32 statistics."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        # Two-pass variance: the fast one, E[x^2] - E[x]^2, loses precision by subtracting two large numbers.
        super().__init__(
            config.d_model,
            epsilon=config.norm_epsilon,
            dtype=jnp.dtype(config.dtype),
            use_fast_variance=False,
            rngs=rngs,
        )


NORMS: Registry[Callable[..., Callable[[Array], Array]]] = Registry("model.norm_type", {"layer": LayerNorm})
"""Normalization layers by name: classes constructed from (ModelConfig, rngs=...) that map [B, T, D] to [B, T, D]."""


def make_norm(config: ModelConfig, *, rngs: nnx.Rngs) -> Callable[[Array], Array]:
    """Builds the normalization layer named by `config.norm_type`."""
    return NORMS.find(config.norm_type)(config, rngs=rngs)


def make_attention(config: ModelConfig, *, rngs: nnx.Rngs, to_memory: bool = False) -> MultiHeadAttention:
    """Builds the attention module named by `config.attention`, for self-attention or attention `to_memory`."""
    kind = ATTENTIONS.find(config.attention)
    return (MultiHeadAttention if to_memory and kind.self_only else kind)(config, rngs=rngs)


class Residual(nnx.Module):
    """Section 3.1: residual connection and layer normalization around a sub-layer.

    The paper's post-norm computes LayerNorm(x + Dropout(Sublayer(x))). With config.norm = "pre" (pre-norm, not in the
    paper) it is x + Dropout(Sublayer(LayerNorm(x))).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.norm = make_norm(config, rngs=rngs)
        self.pre = config.norm == "pre"
        self.rate = config.dropout
        self.kernels = config.kernels

    def __call__(self, x: Array, sublayer: Callable[[Array], Array], key: Array | None) -> Array:
        """x [B, T, D] -> [B, T, D]"""
        if self.pre:
            return x + dropout(sublayer(self.norm(x)), self.rate, key)
        update = sublayer(x)
        if self.kernels and type(self.norm) is LayerNorm and residual_runs(x, update):
            assert self.norm.scale is not None and self.norm.bias is not None
            return add_and_norm(x, update, self.norm.scale[...], self.norm.bias[...], self.norm.epsilon, self.rate, key)
        return self.norm(x + dropout(update, self.rate, key))


class EncoderLayer(nnx.Module):
    """Section 3.1: encoder layer, with self-attention and feed-forward sub-layers."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.self_attention = make_attention(config, rngs=rngs)
        self.feed_forward = make_feed_forward(config, rngs=rngs)
        self.residuals = nnx.List([Residual(config, rngs=rngs) for _ in range(2)])
        self.attention_dropout, self.activation_dropout = config.attention_dropout, config.activation_dropout

    def __call__(
        self, x: Array, context: AttentionContext, key: Array | None, weights: list[Array] | None = None
    ) -> Array:
        """x [B, S, D] -> [B, S, D]"""
        keys = split_key(key, 2)
        context = with_dropout(context, self.attention_dropout, inner_key(keys[0], self.attention_dropout))
        feed_forward = with_key(self.feed_forward, inner_key(keys[1], self.activation_dropout))

        def attend(x: Array) -> Array:
            return self.self_attention(x, self.self_attention.project(x, context.rotate), context, weights)

        x = self.residuals[0](x, attend, keys[0])
        return self.residuals[1](x, feed_forward, keys[1])


class DecoderLayer(nnx.Module):
    """Section 3.1: decoder layer, with masked self-attention, encoder-decoder attention and feed-forward sub-layers."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.self_attention = make_attention(config, rngs=rngs)
        self.cross_attention = make_attention(config, rngs=rngs, to_memory=True)
        self.feed_forward = make_feed_forward(config, rngs=rngs)
        self.residuals = nnx.List([Residual(config, rngs=rngs) for _ in range(3)])
        self.attention_dropout, self.activation_dropout = config.attention_dropout, config.activation_dropout

    def __call__(
        self,
        x: Array,
        memory: KeysValues,
        context: AttentionContext,
        memory_context: AttentionContext,
        key: Array | None,
        weights: list[Array] | None = None,
        cache: KeysValues | None = None,
        index: Array | int = 0,
    ) -> tuple[Array, KeysValues]:
        """Applies the layer to x [B, T, D].

        Args:
            memory: keys and values of the encoder output, for encoder-decoder attention.
            context: mask and positional terms of self-attention.
            memory_context: mask of encoder-decoder attention.
            key: dropout key; None disables dropout.
            weights: if a list, the attention weights are appended to it, self-attention first.
            cache: keys and values of earlier target positions. Those of x are written at `index`, and x attends to all
                positions of the cache that `context` allows. None in training (teacher forcing): x is the whole target.
            index: first cache position to write.

        Returns:
            The output [B, T, D], and the keys and values that self-attention attended to (the updated cache).
        """
        keys = split_key(key, 3)
        rate = self.attention_dropout
        context = with_dropout(context, rate, inner_key(keys[0], rate))
        memory_context = with_dropout(memory_context, rate, inner_key(keys[1], rate))
        feed_forward = with_key(self.feed_forward, inner_key(keys[2], self.activation_dropout))
        seen: list[KeysValues] = []

        def attend_self(x: Array) -> Array:
            new = self.self_attention.project(x, context.rotate)
            seen.append(new if cache is None else cache.write(new, jnp.asarray(index)))
            return self.self_attention(x, seen[0], context, weights)

        def attend_memory(x: Array) -> Array:
            return self.cross_attention(x, memory, memory_context, weights)

        x = self.residuals[0](x, attend_self, keys[0])
        x = self.residuals[1](x, attend_memory, keys[1])
        x = self.residuals[2](x, feed_forward, keys[2])
        return x, seen[0]
