"""Analysis of single attention heads: statistics of their weights over a corpus, and ablation."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from experiments.programs import pad, width_for
from experiments.translator import Translator
from transformer.config import PAD, ModelConfig, UserError, counted
from transformer.parameters import Params
from transformer.train import graph_of

# The path to the parameters of each kind of attention, by its name in AttentionWeights.
PLACES = {
    "encoder": ("encoder", "self_attention"),
    "decoder": ("decoder", "self_attention"),
    "cross": ("decoder", "cross_attention"),
}

BATCH = 128  # sentence pairs whose weights are held in memory at a time


class Head(NamedTuple):
    """One head of a model, counted from 0."""

    attention: str
    """encoder, decoder or cross."""
    layer: int
    number: int

    def __str__(self) -> str:
        return f"{self.attention} {self.layer + 1}.{self.number + 1}"


def heads(config: ModelConfig) -> Iterator[Head]:
    """Yields all heads of a model, ordered by attention, layer and number.

    Layers count as they are applied, also if several share their parameters (`unshared`).
    """
    for attention, (stack, _) in PLACES.items():
        for layer in range(config.num_layers if stack == "encoder" else config.decoder_depth):
            for number in range(config.num_heads):
                yield Head(attention, layer, number)


def unshared(config: ModelConfig, params: Params) -> tuple[ModelConfig, Params]:
    """Returns the same model without shared layers, so that heads of one layer can be ablated without the others'."""
    repeated = {
        stack: {
            i * config.shared_layers + j: layer
            for i, layer in params[stack].items()
            for j in range(config.shared_layers)
        }
        for stack in ("encoder", "decoder")
    }
    return replace(config, shared_layers=1), params | repeated


def without(params: Params, *removed: Head) -> Params:
    """Returns a copy of the parameters with these heads ablated: their rows of W^O [N, H, D] are zero.

    UserError for a head that the parameters do not have. With shared layers, take the parameters from `unshared`.
    """
    params = jax.tree.map(lambda x: x, params)  # new dicts around the same arrays
    for head in removed:
        stack, name = PLACES[head.attention]
        layers = params[stack]
        if head.layer not in layers or not 0 <= head.number < len(layers[head.layer][name]["output"]["kernel"]):
            raise UserError(f"the model has no head {head}")
        output = layers[head.layer][name]["output"]
        output["kernel"] = jnp.asarray(output["kernel"]).at[head.number].set(0)
    return params


class Looks(NamedTuple):
    """Statistics of the attention weights of all heads of one kind, averaged over the queries. Arrays [layer, N].

    The keys of the decoder's self-attention are the target shifted right: "same" is the piece generated last, and
    "first" is BOS.
    """

    entropy: Any
    """Entropy of the weights, in bits: 0 if all weight is on one position, log2(n) if it is equal on n positions."""
    distance: Any
    """Mean distance between query and key, in positions."""
    previous: Any
    """Share of the weight on the position before the query's own, if there is one."""
    same: Any
    """Share on the query's own position."""
    next: Any
    """Share on the position after the query's own, if there is one."""
    first: Any
    """Share on the first key."""
    last: Any
    """Share on the last key; in the encoder and in cross-attention, this is EOS."""


def looks(translator: Translator, sources: list[str], targets: list[str]) -> dict[str, Looks]:
    """Computes the statistics of each kind of attention over sentences and given translations (teacher forcing).

    Padding is ignored. Keys of the result are the names of AttentionWeights. UserError if the numbers of sources and
    targets differ, or are 0.
    """
    if len(sources) != len(targets) or not sources:
        both = f"{counted(len(sources), 'source')} and {counted(len(targets), 'target')}"
        raise UserError(f"{both}: give the same number of each, at least one")
    texts = translator.source_texts(sources, "source line")
    source_ids = translator.encode(texts, translator.tokenizer.source)
    target_ids = translator.encode(targets)
    widths = [width_for(max(map(len, ids))) for ids in (source_ids, target_ids)]
    graph = graph_of(translator.experiment.model)

    @jax.jit
    def sums_of(params: Params, source: Array, target: Array) -> dict[str, tuple[Looks, Looks]]:
        weights = nnx.merge(graph, params).attention_weights(source, target)
        read, written = source != PAD, target != PAD
        return {
            "encoder": _sums(weights.encoder, read, read),
            "decoder": _sums(weights.decoder, written, written),
            "cross": _sums(weights.cross, written, read),
        }

    total: Any = None
    for start in range(0, len(sources), BATCH):
        rows = list(range(start, min(start + BATCH, len(sources))))
        batch = (pad(ids, rows, width, BATCH) for ids, width in zip((source_ids, target_ids), widths, strict=True))
        sums = jax.device_get(sums_of(translator.params, *batch))
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return {
        name: Looks(*(np.asarray(part / max(count, 1)) for part, count in zip(*both, strict=True)))
        for name, both in total.items()
    }


def _sums(weights: Array, queries: Array, keys: Array) -> tuple[Looks, Looks]:
    """Returns the sums [layer, N] of each statistic, and the number of terms in each.

    Args:
        weights: [layer, B, N, T, S].
        queries: [B, T], False for padding.
        keys: [B, S], False for padding.
    """
    t, s = jnp.arange(queries.shape[1])[:, None], jnp.arange(keys.shape[1])
    real = queries[:, :, None] & keys[:, None, :]
    last = (s == keys.sum(axis=1, keepdims=True) - 1)[:, None, :]

    def mean_over(values: Array) -> tuple[Array, Array]:
        return jnp.einsum("LBNTS,BTS->LN", weights, jnp.where(real, values, 0)), queries.sum()

    def share_at(position: Array) -> tuple[Array, Array]:
        selected = real & position
        return jnp.einsum("LBNTS,BTS->LN", weights, selected.astype(weights.dtype)), selected.sum()

    bits = jnp.where(weights > 0, -weights * jnp.log2(jnp.where(weights > 0, weights, 1)), 0)
    both = Looks(
        entropy=(jnp.einsum("LBNTS,BTS->LN", bits, real.astype(bits.dtype)), queries.sum()),
        distance=mean_over(jnp.abs(t - s)),
        previous=share_at(s == t - 1),
        same=share_at(s == t),
        next=share_at(s == t + 1),
        first=share_at(s == 0),
        last=share_at(last),
    )
    return Looks(*(part for part, _ in both)), Looks(*(count for _, count in both))
