"""Section 3.1 and Figure 1: the encoder-decoder model, and its embedding matrices (section 3.4)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import AttentionContext, KeysValues, causal_mask, padding_mask
from transformer.config import BOS, PAD, ModelConfig
from transformer.dropout import dropout, split_key
from transformer.initializers import rngs_of
from transformer.layers import DecoderLayer, EncoderLayer, make_norm
from transformer.matmul import einsum
from transformer.mesh import whole_rows
from transformer.positions import POSITIONS
from transformer.registry import Registry
from transformer.segments import Segments, same_sentence, segments

Layer = TypeVar("Layer")


class Cache(NamedTuple):
    """Decoder state kept between decoding steps, for a batch of sources with K hypotheses each."""

    memory: tuple[KeysValues, ...]
    """For each layer, the keys and values of the encoder output, shared by the hypotheses of a source."""
    memory_mask: Array
    """Padding mask of the sources, [B, 1, 1, S]."""
    seen: tuple[KeysValues, ...]
    """For each layer, the self-attention keys and values of the targets so far, with a capacity of L * K. Those of
    position t are at t * K to t * K + K - 1, in the order of the tokens that were passed to `step`."""

    def grow(self, capacity: int) -> "Cache":
        """Returns a copy padded to a capacity of L * K = `capacity`."""
        return self._replace(seen=tuple(layer.grow(capacity) for layer in self.seen))


class AttentionWeights(NamedTuple):
    """Attention weights of every layer and head, in float32. Each row sums to 1."""

    encoder: Array
    """Encoder self-attention, [layer, B, N, S, S]."""
    decoder: Array
    """Decoder masked self-attention, [layer, B, N, T, T]."""
    cross: Array
    """Encoder-decoder attention, [layer, B, N, T, S]: target position t attends to source position s."""


class Transformer(nnx.Module):
    """The Transformer of Figure 1, from token ids to logits.

    A row of ids may hold several packed sentences (transformer/segments.py). Passing a `key` enables dropout; without
    it the model is deterministic.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        init = jax.nn.initializers.normal(config.d_model**-0.5)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.d_model)))
        self.positions = POSITIONS.find(config.positions)(config, rngs=rngs)
        encoder, decoder = config.num_layers // config.shared_layers, config.decoder_depth // config.shared_layers
        self.encoder = nnx.List([EncoderLayer(config, rngs=rngs) for _ in range(encoder)])
        self.decoder = nnx.List([DecoderLayer(config, rngs=rngs) for _ in range(decoder)])
        if config.norm == "pre":  # the output of a pre-norm stack is not normalized; the paper needs no such norm
            self.encoder_norm = make_norm(config, rngs=rngs)
            self.decoder_norm = make_norm(config, rngs=rngs)
        # After everything else, so that the other parameters begin with the same values whatever is tied.
        if config.tied != "all":
            self.source_embedding = nnx.Param(init(rngs.params(), (config.source_rows, config.d_model)))
        if config.tied == "none":
            self.output_embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.d_model)))
        if config.output_bias:
            self.output_bias = nnx.Param(jnp.zeros(config.vocab_size))

    @property
    def source_table(self) -> Array:
        """Embedding matrix of the source, [V, D] or [source_rows, D]; that of the target is always `embedding`."""
        return (self.embedding if self.config.tied == "all" else self.source_embedding)[...]

    @property
    def output_table(self) -> Array:
        """Pre-softmax matrix, whose transpose gives the logits, [V, D]."""
        return (self.output_embedding if self.config.tied == "none" else self.embedding)[...]

    @property
    def logits_bias(self) -> Array | None:
        """Bias of the logits [V], or None as in the paper."""
        return self.output_bias[...] if self.config.output_bias else None

    def applied(self, stack: Sequence[Layer]) -> list[Layer]:
        """The layers of the encoder or the decoder in the order in which they are applied: the paper's, each once."""
        return [layer for layer in stack for _ in range(self.config.shared_layers)]

    def embed(self, tokens: Array, positions: Array, key: Array | None = None, table: Array | None = None) -> Array:
        """Section 3.4: embeddings of ids [B, T], scaled by sqrt(D), plus position vectors [B, T, D] -> [B, T, D].

        `table` is the embedding matrix [V, D]. None: that of the target, which in the paper is that of the source too.
        """
        table = self.embedding[...] if table is None else table
        x = jnp.take(whole_rows(table), tokens, axis=0)
        if self.config.scale_embeddings:
            x *= self.config.d_model**0.5
        return dropout((x + positions).astype(self.config.dtype), self.config.dropout, key)

    def position_vectors(self, position: Array) -> Array:
        """Positions in a sentence [B, T], each below T -> position vectors [B, T, D]."""
        return jnp.take(self.positions(jnp.arange(position.shape[1])), position, axis=0)

    def attention_context(self, mask: Array, queries: Array, keys: Array, **more: Any) -> AttentionContext:
        """Context of self-attention, from the mask and the positions of queries [B, T] and keys [B, S].

        `more` are fields of the context that the paper's attention does not need.
        """
        rotate, bias = partial(self.positions.rotate, positions=queries), self.positions.bias(queries, keys)
        return AttentionContext(mask, rotate, bias, positions=(queries, keys), **more)

    def encode(self, source: Array, key: Array | None = None, weights: list[Array] | None = None) -> Array:
        """Encoder: source ids [B, S] -> [B, S, D]. If `weights` is a list, the attention weights are appended to it."""
        layers = self.applied(self.encoder)
        keys = split_key(key, len(layers) + 1)
        found = segments(source)
        mask = same_sentence(found, found) & padding_mask(source)
        tokens = found._replace(number=jnp.where(source == PAD, 0, found.number))
        context = self.attention_context(mask, found.position, found.position, tokens=tokens)
        x = self.embed(source, self.position_vectors(found.position), keys[0], self.source_table)
        for layer, layer_key in zip(layers, keys[1:], strict=True):
            x = layer(x, context, layer_key, weights)
        return self.encoder_norm(x) if self.config.norm == "pre" else x

    def decode(
        self,
        target: Array,
        memory: Array,
        source: Array,
        key: Array | None = None,
        weights: list[Array] | None = None,
    ) -> Array:
        """Decoder with teacher forcing: target ids [B, T], encoder output [B, S, D], source ids [B, S] -> [B, T, D].

        The target is shifted right, so that the output at position t depends only on the target tokens before t.
        """
        layers = self.applied(self.decoder)
        keys = split_key(key, len(layers) + 1)
        found = segments(target)
        mask = same_sentence(found, found) & causal_mask(target.shape[1])
        context = self.attention_context(mask, found.position, found.position, tokens=found, causal=True)
        memory_context = AttentionContext(same_sentence(found, segments(source)) & padding_mask(source))
        x = self.embed(shift_right(target, found), self.position_vectors(found.position), keys[0])
        for layer, layer_key in zip(layers, keys[1:], strict=True):
            attended = layer.cross_attention.project(memory)
            x, _ = layer(x, attended, context, memory_context, layer_key, weights)
        return self.decoder_norm(x) if self.config.norm == "pre" else x

    def logits(self, x: Array) -> Array:
        """Output projection by the transposed embedding matrix (3.4): [B, T, D] -> logits [B, T, V] in float32."""
        logits = einsum("BTD,VD->BTV", x, self.output_table.astype(x.dtype))
        return logits if self.logits_bias is None else logits + self.logits_bias

    def __call__(self, source: Array, target: Array, key: Array | None = None) -> Array:
        """Source ids [B, S], target ids [B, T] -> logits [B, T, V]; those at position t predict target[:, t]."""
        return self.logits(self.outputs(source, target, key))

    def outputs(self, source: Array, target: Array, key: Array | None = None) -> Array:
        """Figure 1 without the final linear layer: source ids [B, S], target ids [B, T] -> [B, T, D]."""
        encoder_key, decoder_key = split_key(key, 2)
        return self.decode(target, self.encode(source, encoder_key), source, decoder_key)

    def predicted(self, target: Array) -> Array:
        """The ids of targets [B, T] that the loss counts, PAD in place of others: in the paper, all of them."""
        return target

    def attention_weights(self, source: Array, target: Array) -> AttentionWeights:
        """Attention weights of the model for source ids [B, S] and target ids [B, T]."""
        encoder: list[Array] = []
        decoder: list[Array] = []
        memory = self.encode(source, weights=encoder)
        self.decode(target, memory, source, weights=decoder)
        # A decoder layer appends twice: masked self-attention, then encoder-decoder attention.
        return AttentionWeights(jnp.stack(encoder), jnp.stack(decoder[0::2]), jnp.stack(decoder[1::2]))

    def start_cache(self, source: Array, beam: int, length: int) -> Cache:
        """Encodes source ids [B, S] and allocates a cache for `beam` hypotheses of `length` positions per source."""
        memory = self.encode(source)
        attended = tuple(layer.cross_attention.project(memory) for layer in self.applied(self.decoder))
        B, N, capacity = len(source), self.config.num_heads, length * beam
        empty = KeysValues(
            jnp.zeros((B, N, self.config.d_k, capacity), memory.dtype),
            jnp.zeros((B, N, capacity, self.config.d_v), memory.dtype),
        )
        return Cache(attended, padding_mask(source), (empty,) * len(attended))

    def step(self, tokens: Array, cache: Cache, index: Array, history: Array) -> tuple[Array, Cache]:
        """One decoding step: extends every hypothesis by one token.

        The K hypotheses of a source are laid out like the positions of a target in training, and a mask restricts each
        to its own tokens. When a beam search reorders its hypotheses, only `history` changes; the cache is not copied.

        Args:
            tokens: [B, K], the token at position `index` of each hypothesis.
            cache: from `start_cache` or the previous step.
            index: scalar, the position of `tokens`.
            history: [B, K, L], for each hypothesis and each position t <= index, which of the K tokens that were passed
                at position t belongs to it.

        Returns:
            The logits [B, K, V] of the next token, and the cache updated with `tokens`.
        """
        B, K = tokens.shape
        positions = jnp.arange(history.shape[2])
        own = (history[..., None] == jnp.arange(K)) & (positions <= index)[:, None]
        mask = own.reshape(B, 1, K, -1)
        queries, keys = jnp.full((1, K), index), jnp.repeat(positions, K)[None]
        context = self.attention_context(mask, queries, keys, causal=True, beam=K)
        return self.advance(self.embed(tokens, self.positions(index[None])[None]), cache, context, index * K)

    def advance(self, x: Array, cache: Cache, context: AttentionContext, index: Array) -> tuple[Array, Cache]:
        """The decoder for embeddings x [B, T, D], whose keys and values are written into the cache at `index`.

        Returns:
            The logits [B, T, V] of the token after each, and the updated cache.
        """
        memory_context = AttentionContext(cache.memory_mask)
        seen = []
        for layer, attended, before in zip(self.applied(self.decoder), cache.memory, cache.seen, strict=True):
            x, now = layer(x, attended, context, memory_context, None, cache=before, index=index)
            seen.append(now)
        x = self.decoder_norm(x) if self.config.norm == "pre" else x
        return self.logits(x), cache._replace(seen=tuple(seen))


def shift_right(target: Array, found: Segments) -> Array:
    """Shifts each packed sentence of `target` [B, T] right by one token: it begins with BOS and drops its last id."""
    before = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(found.position == 0, BOS, before)


def encoder_decoder(config: ModelConfig, *, rngs: nnx.Rngs) -> Transformer:
    """The paper's model: `Transformer`."""
    return Transformer(config, rngs=rngs)  # looked up here, so that a class assigned in its place is the one used


ARCHITECTURES: Registry[Callable[..., Transformer]] = Registry(
    "model.architecture", {"encoder-decoder": encoder_decoder}
)
"""Models by name: subclasses of Transformer, constructed from (ModelConfig, rngs=...). Others than the paper's are in
transformer/variants."""


def make_model(config: ModelConfig, *, rngs: nnx.Rngs) -> Transformer:
    """Builds the model named by `config.architecture`."""
    return ARCHITECTURES.find(config.architecture)(config, rngs=rngs)


def count_parameters(config: ModelConfig) -> int:
    """Number of parameters, computed without allocating them."""
    shapes = nnx.eval_shape(lambda: make_model(config, rngs=rngs_of(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param)))
