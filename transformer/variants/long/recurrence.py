"""Recurrence over segments, as in Transformer-XL (Dai et al., 2019), in the decoder.

A target is decoded in segments of L = model.attention_window tokens, one after the other. Besides its own segment, a
token attends to the M = model.attention_memory tokens before the segment, whose keys and values were kept; gradients do
not flow into them. Time and memory are linear in the length of the target, and a text may go on in the next row. The
original has relative positions (model.attention = "relative", model.positions = "none"); others work too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer.attention import AttentionContext, KeysValues, padding_mask
from transformer.config import EOS
from transformer.dropout import split_key
from transformer.model import ARCHITECTURES, Transformer, shift_right
from transformer.segments import Segments, same_sentence, segments


class Memory(NamedTuple):
    """What a segment remembers of the tokens before it, the last C = M + L of them.

    The segments of a row are cut anywhere in its sentences. Segments are counted from the start of a sentence, so that
    packing changes nothing: the first token of a row's segment may need M + L - 1 tokens.
    """

    seen: tuple[KeysValues, ...]
    """Of each layer, the keys and values of the tokens."""
    tokens: Segments
    """Sentence and position of each token, [B, C]. Sentence 0: there is none yet."""
    last: Array
    """[B]: id of the last token; EOS at the start."""


class RecurrentTransformer(Transformer):
    """The Transformer, with a decoder that remembers a part of the target only."""

    def pattern(self, queries: Array, keys: Array) -> Array:
        """Positions of queries [B, T] and keys [B, S] -> mask [B, T, S] of the keys in reach."""
        start = queries // self.config.attention_window * self.config.attention_window
        return keys[:, None, :] >= (start - self.config.attention_memory)[:, :, None]

    def attention_context(self, mask: Array, queries: Array, keys: Array, **more: Any) -> AttentionContext:
        """Context of self-attention, in the decoder with the keys in reach only."""
        if more.get("causal"):
            mask &= self.pattern(queries, keys)[:, None]
        return super().attention_context(mask, queries, keys, **more)

    def decode(
        self,
        target: Array,
        memory: Array,
        source: Array,
        key: Array | None = None,
        weights: list[Array] | None = None,
    ) -> Array:
        """Decoder as in `Transformer.decode`. With `weights`, all segments are computed at once."""
        if weights is not None:
            return super().decode(target, memory, source, key, weights)
        T = target.shape[1]
        whole = jnp.pad(target, ((0, 0), (0, -T % self.config.attention_window)))
        return self.decode_next(whole, memory, source, self.no_memory(len(target), memory.dtype), key)[0][:, :T]

    def no_memory(self, rows: int, dtype: Any) -> Memory:
        """The memory [B = `rows`] before the first token."""
        config = self.config
        C = config.attention_memory + config.attention_window
        empty = KeysValues(
            jnp.zeros((rows, config.num_heads, config.d_k, C), dtype),
            jnp.zeros((rows, config.num_heads, C, config.d_v), dtype),
        )
        none = jnp.zeros((rows, C), jnp.int32)
        return Memory((empty,) * config.decoder_depth, Segments(none, none), jnp.full((rows,), EOS))

    def decode_next(
        self, target: Array, memory: Array, source: Array, before: Memory, key: Array | None = None
    ) -> tuple[Array, Memory]:
        """Decodes target ids [B, T] that follow those in `before` -> outputs [B, T, D], and the memory of them all.

        Args:
            target: whole segments: T is a multiple of L.
            memory: encoder output [B, S, D] of the source ids [B, S], which are those of the whole target.
        """
        B, T = target.shape
        L = self.config.attention_window
        if T % L:
            raise ValueError(f"a row of {T} tokens is not a whole number of segments of {L}")
        layers = self.applied(self.decoder)
        attended = [layer.cross_attention.project(memory) for layer in layers]
        sources, present = segments(source), padding_mask(source)
        keys = split_key(key, 2)
        found, shifted = follow(target, before)
        vectors = self.positions(found.position.ravel())
        x = self.embed(shifted, vectors.reshape(B, T, -1), keys[0])

        def segment(carry: tuple[Any, Segments], now: tuple[Array, Segments, Array]) -> tuple[Any, Array]:
            seen, past = carry
            x, tokens, index = now
            known = Segments(*(jnp.concatenate(pair, axis=1) for pair in zip(past, tokens, strict=True)))
            mask = same_sentence(tokens, known) & (known.position[:, None, :] <= tokens.position[:, :, None])[:, None]
            context = self.attention_context(mask, tokens.position, known.position, causal=True)
            memory_context = AttentionContext(same_sentence(tokens, sources) & present)
            layer_keys = split_key(None if keys[1] is None else jax.random.fold_in(keys[1], index), len(layers))
            kept, C = [], past.number.shape[1]
            for layer, to, cache, layer_key in zip(layers, attended, seen, layer_keys, strict=True):
                x, now_seen = layer(x, to, context, memory_context, layer_key, cache=cache.grow(C + L), index=C)
                kept.append(KeysValues(now_seen.keys[..., L:], now_seen.values[:, :, L:]))
            past = Segments(*(each[:, L:] for each in known))
            return jax.lax.stop_gradient((tuple(kept), past)), x

        parts = jax.tree.map(lambda x: x.reshape(B, -1, L, *x.shape[2:]).swapaxes(0, 1), (x, found))
        (seen, past), x = jax.lax.scan(segment, (before.seen, before.tokens), (*parts, jnp.arange(len(parts[0]))))
        x = x.swapaxes(0, 1).reshape(B, T, -1)
        x = self.decoder_norm(x) if self.config.norm == "pre" else x
        return x, Memory(seen, past, target[:, -1])


def follow(target: Array, before: Memory) -> tuple[Segments, Array]:
    """Sentences, positions, and ids shifted right, of target ids [B, T] that follow those in `before`."""
    found = segments(target)
    inside = (before.last != EOS)[:, None]  # the row goes on with a sentence that has begun
    number = found.number + before.tokens.number[:, -1:] - inside
    position = found.position + jnp.where(inside & (found.number == 1), before.tokens.position[:, -1:] + 1, 0)
    shifted = shift_right(target, found)
    first = jnp.where(inside, before.last[:, None], shifted[:, :1])
    return Segments(number, position), jnp.concatenate([first, shifted[:, 1:]], axis=1)


ARCHITECTURES.build_in({"recurrent": RecurrentTransformer})
