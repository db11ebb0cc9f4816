"""Section 3.1: the encoder, the decoder, and the one matrix they share (3.4). Parts are wired only here."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from transformer.attention import AttentionContext, KeysValues, causal_mask, padding_mask
from transformer.config import BOS, ModelConfig
from transformer.layers import DecoderLayer, EncoderLayer, dropout, make_norm, split_key
from transformer.mesh import whole_rows
from transformer.positions import POSITIONS
from transformer.products import product
from transformer.segments import Segments, same_sentence, segments


class Cache(NamedTuple):
    """What decoding keeps from step to step, for the sources of a batch with K hypotheses each."""

    memory: tuple[KeysValues, ...]
    """Per layer, the keys and values of the source, which its hypotheses share."""
    memory_mask: Array
    """[B, 1, 1, S]"""
    seen: tuple[KeysValues, ...]
    """Per layer, the keys and values of the targets so far, with room for L * K: those of position t stand from t * K
    on, in the order in which `step` was given its tokens."""

    def grow(self, room: int) -> "Cache":
        """The same with room for L * K = `room`."""
        return self._replace(seen=tuple(layer.grow(room) for layer in self.seen))


class AttentionWeights(NamedTuple):
    """Softmax weights of every layer and head, in float32. Each row sums to 1."""

    encoder: Array
    """[layer, B, N, S, S]"""
    decoder: Array
    """[layer, B, N, T, T]"""
    cross: Array
    """[layer, B, N, T, S]: target position t looks at source position s."""


class Transformer(nnx.Module):
    """The model of Figure 1, from token ids to logits.

    A row of ids may hold several sentences (transformer/segments.py). A `key` turns dropout on; without one the model
    is deterministic.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        init = jax.nn.initializers.normal(config.d_model**-0.5)
        self.embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.d_model)))
        self.positions = POSITIONS.find(config.positions)(config, rngs=rngs)
        self.encoder = nnx.List([EncoderLayer(config, rngs=rngs) for _ in range(config.num_layers)])
        self.decoder = nnx.List([DecoderLayer(config, rngs=rngs) for _ in range(config.num_layers)])
        if config.norm == "pre":  # a pre-norm stack leaves its last sum unnormalised; the paper has no such norm
            self.encoder_norm = make_norm(config, rngs=rngs)
            self.decoder_norm = make_norm(config, rngs=rngs)

    def embed(self, tokens: Array, positions: Array, key: Array | None = None) -> Array:
        """Section 3.4: [B, T] ids -> [B, T, D], scaled by sqrt(D), + the vectors of `positions` [B, T, D]."""
        x = jnp.take(whole_rows(self.embedding[...]), tokens, axis=0) * self.config.d_model**0.5
        return dropout((x + positions).astype(self.config.dtype), self.config.dropout, key)

    def position_vectors(self, position: Array) -> Array:
        """Places in a sentence [B, T], each below T -> their vectors [B, T, D]."""
        return jnp.take(self.positions(jnp.arange(position.shape[1])), position, axis=0)

    def attention_context(self, mask: Array, queries: Array, keys: Array) -> AttentionContext:
        """Of self-attention, from the mask and the places of queries [B, T] and keys [B, S] in their sentences."""
        return AttentionContext(
            mask, partial(self.positions.rotate, positions=queries), self.positions.bias(queries, keys)
        )

    def encode(self, source: Array, key: Array | None = None, weights: list[Array] | None = None) -> Array:
        """[B, S] ids -> [B, S, D]"""
        keys = split_key(key, len(self.encoder) + 1)
        found = segments(source)
        mask = same_sentence(found, found) & padding_mask(source)
        context = self.attention_context(mask, found.position, found.position)
        x = self.embed(source, self.position_vectors(found.position), keys[0])
        for layer, layer_key in zip(self.encoder, keys[1:], strict=True):
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
        """Target ids [B, T], the encoder's output [B, S, D], source ids [B, S] -> [B, T, D].

        What comes out at position t was made from the tokens before t: the target goes in shifted right.
        """
        keys = split_key(key, len(self.decoder) + 1)
        found = segments(target)
        mask = same_sentence(found, found) & causal_mask(target.shape[1])
        context = self.attention_context(mask, found.position, found.position)
        memory_context = AttentionContext(same_sentence(found, segments(source)) & padding_mask(source))
        x = self.embed(shift_right(target, found), self.position_vectors(found.position), keys[0])
        for layer, layer_key in zip(self.decoder, keys[1:], strict=True):
            attended = layer.cross_attention.project(memory)
            x, _ = layer(x, attended, context, memory_context, layer_key, weights)
        return self.decoder_norm(x) if self.config.norm == "pre" else x

    def logits(self, x: Array) -> Array:
        """[B, T, D] -> [B, T, V] in float32, by the embedding matrix transposed (3.4)."""
        return product("BTD,VD->BTV", x, self.embedding[...].astype(x.dtype))

    def __call__(self, source: Array, target: Array, key: Array | None = None) -> Array:
        """Source [B, S] and target [B, T] ids -> logits [B, T, V]: what follows target[:, :t], for each t."""
        return self.logits(self.outputs(source, target, key))

    def outputs(self, source: Array, target: Array, key: Array | None = None) -> Array:
        """Figure 1 up to its last linear layer: source [B, S] and target [B, T] ids -> [B, T, D]."""
        encoder_key, decoder_key = split_key(key, 2)
        return self.decode(target, self.encode(source, encoder_key), source, decoder_key)

    def attention_weights(self, source: Array, target: Array) -> AttentionWeights:
        """The weights with which the model reads `source` [B, S] and predicts `target` [B, T]."""
        encoder: list[Array] = []
        decoder: list[Array] = []
        memory = self.encode(source, weights=encoder)
        self.decode(target, memory, source, weights=decoder)
        # A decoder layer appends twice: masked self-attention, then attention over the source.
        return AttentionWeights(jnp.stack(encoder), jnp.stack(decoder[0::2]), jnp.stack(decoder[1::2]))

    def start_cache(self, source: Array, beam: int, length: int) -> Cache:
        """Encodes source [B, S] and makes room for `beam` targets of `length` positions for each."""
        memory = self.encode(source)
        attended = tuple(layer.cross_attention.project(memory) for layer in self.decoder)
        B, N, room = len(source), self.config.num_heads, length * beam
        empty = KeysValues(
            jnp.zeros((B, N, self.config.d_k, room), memory.dtype),
            jnp.zeros((B, N, room, self.config.d_v), memory.dtype),
        )
        return Cache(attended, padding_mask(source), (empty,) * len(self.decoder))

    def step(self, tokens: Array, cache: Cache, index: Array, history: Array) -> tuple[Array, Cache]:
        """One more token of every hypothesis.

        The K hypotheses of a sentence stand beside each other, as positions do in training, and each looks at its own
        past alone. So nothing is copied when a beam search goes on from other hypotheses than before: only `history`.

        Args:
            tokens: [B, K], what stands at position `index` of each.
            history: [B, K, L], which of the K tokens of position t belongs to a hypothesis, for t <= index.

        Returns:
            The logits [B, K, V] of what follows, and the cache with these tokens in it.
        """
        B, K = tokens.shape
        positions = jnp.arange(history.shape[2])
        own = (history[..., None] == jnp.arange(K)) & (positions <= index)[:, None]
        mask = own.reshape(B, 1, K, -1)
        context = self.attention_context(mask, jnp.full((1, K), index), jnp.repeat(positions, K)[None])
        memory_context = AttentionContext(cache.memory_mask)
        x = self.embed(tokens, self.positions(index[None])[None])
        seen = []
        for layer, attended, before in zip(self.decoder, cache.memory, cache.seen, strict=True):
            x, now = layer(x, attended, context, memory_context, None, cache=before, index=index * K)
            seen.append(now)
        x = self.decoder_norm(x) if self.config.norm == "pre" else x
        return self.logits(x), cache._replace(seen=tuple(seen))


def shift_right(target: Array, found: Segments) -> Array:
    """[B, T] -> [B, T]: each sentence begins with BOS and drops its last id: position t holds what precedes t."""
    before = jnp.pad(target[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(found.position == 0, BOS, before)


def count_parameters(config: ModelConfig) -> int:
    """Exact number of parameters, without making any of them."""
    shapes = nnx.eval_shape(lambda: Transformer(config, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(shapes, nnx.Param)))
