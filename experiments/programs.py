"""The compiled programs of a translator, and the few shapes of batches for which they are compiled."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import numpy as np
from flax import nnx

from transformer.config import PAD, DecodeConfig, ModelConfig
from transformer.decode import Hypotheses, token_log_probs
from transformer.model import Transformer
from transformer.variants.decoding import ways
from transformer.variants.decoding.alignment import Head, alignment
from transformer.variants.decoding.ensemble import Ensemble
from transformer.variants.decoding.speculative import Drafted
from transformer.variants.decoding.ways import NOTHING, Given


@dataclass(frozen=True)
class WithDraft:
    """The structures of a model and of the model that drafts for it (transformer.variants.decoding.speculative)."""

    model: nnx.GraphDef[Transformer]
    draft: nnx.GraphDef[Transformer]
    length: int
    """Number of tokens that are drafted at a time."""


Graph = nnx.GraphDef[Transformer] | WithDraft | tuple[nnx.GraphDef[Transformer], ...]
"""The structure of a model, or of each model of an ensemble; hashable."""


def merged(graph: Graph, params: Any) -> Transformer | Drafted | Ensemble:
    """Returns the model, with its draft if it has one, or the ensemble if there are several graphs."""
    if isinstance(graph, WithDraft):
        return Drafted(nnx.merge(graph.model, params[0]), nnx.merge(graph.draft, params[1]), graph.length)
    if isinstance(graph, tuple):
        return Ensemble([nnx.merge(*one) for one in zip(graph, params, strict=True)])
    return nnx.merge(graph, params)


def compiled_search(
    graph: Graph,
    settings: DecodeConfig,
    best: int,
    replaced: tuple[Any, ...] = (),
    pieces: int = 0,
    log_probs: bool = False,
    codes: tuple[int, ...] = (),
) -> jax.stages.Wrapped:
    """Returns the compiled function (params, source, given=NOTHING) -> hypotheses.

    Args:
        replaced: that of a Translator; it only distinguishes entries of the cache.
        pieces: size of the vocabulary, for the rules of transformer.variants.decoding.rules.
        codes: of its pieces, for decode.only_trees.
        log_probs: whether the hypotheses have the log-probabilities of their tokens, which take a little more time.
    """
    # These settings do not change the program.
    return _compiled_search(
        graph, replace(settings, seed=0, replace_unk=False, tag=None), best, replaced, pieces, log_probs, codes
    )


@cache
def _compiled_search(
    graph: Graph,
    settings: DecodeConfig,
    best: int,
    replaced: tuple[Any, ...],
    pieces: int,
    log_probs: bool,
    codes: tuple[int, ...],
) -> jax.stages.Wrapped:
    def search(params: Any, source: jax.Array, given: Given = NOTHING) -> Hypotheses:
        found = ways.decode(merged(graph, params), source, settings, best, pieces, given, codes)
        return found if log_probs else found._replace(log_probs=None)

    return jax.jit(search)


def without_kernels(config: ModelConfig) -> ModelConfig:
    """Returns the model for decoding: GPU kernels save nothing in a step of a few tokens, and little in the encoder."""
    return replace(config, kernels=False)


@cache
def compiled_scoring(graph: Graph, replaced: tuple[Any, ...]) -> Callable[..., jax.Array]:
    """Returns the compiled function (params, source, target) -> token log-probabilities."""
    return jax.jit(lambda params, source, target: token_log_probs(merged(graph, params), source, target))


@cache
def compiled_alignment(graph: Graph, replaced: tuple[Any, ...], head: Head | None) -> Callable[..., jax.Array]:
    """Returns the compiled function (params, source, target) -> attention of target to source positions."""

    def align(params: Any, source: jax.Array, target: jax.Array) -> jax.Array:
        model = merged(graph, params)
        assert not isinstance(model, Drafted)
        return alignment(model, source, target, head)

    return jax.jit(align)


def width_for(length: int) -> int:
    """Returns the padded width for sentences of up to `length` tokens; there are few widths, so few compilations."""
    width = 16
    while width < length:
        width += max(16, width // 2 // 16 * 16)
    return width


def height_for(count: int) -> int:
    """Returns the padded height for `count` sentences: 1, 2, 4, 8, ... Each height is one more program to compile."""
    return 1 << (count - 1).bit_length()


def few_heights(count: int) -> int:
    """Returns the padded height of a batch of `count` sentences: 1, 4, 16, 64, ...

    There are half as many programs to compile: for a service, which compiles all of them before it is ready, and for
    documents, whose batches have all sizes.
    """
    return 4 ** (((count - 1).bit_length() + 1) // 2)


def batches(
    rows: list[int], ids: list[list[int]], batch_size: int, height: Callable[[int], int] = height_for
) -> Iterator[tuple[list[int], int, int]]:
    """Groups sentences of similar length and yields (their indices, width, height); height includes the padding rows.

    The longest sentences come first. All groups but the last are full.
    """
    waiting = sorted(rows, key=lambda i: len(ids[i]), reverse=True)
    while waiting:
        width = width_for(len(ids[waiting[0]]))
        most = rows_in(width, batch_size)
        group, waiting = waiting[:most], waiting[most:]
        yield group, width, min(most, height(len(group)))


def rows_in(width: int, batch_size: int) -> int:
    """Returns the most sentences in a batch of this width: fewer if they are long."""
    return max(1, batch_size * 64 // max(width, 64))


def shapes(longest: int, batch_size: int, height: Callable[[int], int] = height_for) -> list[tuple[int, int]]:
    """Every (width, height) that `batches` yields for sentences of up to `longest` tokens, the smallest first."""
    widths = sorted({width_for(length) for length in range(1, longest + 1)})
    return [
        (width, rows)
        for width in widths
        for most in [rows_in(width, batch_size)]
        for rows in sorted({min(most, height(count)) for count in range(1, most + 1)})
    ]


def pad(ids: list[list[int]], rows: list[int], width: int, height: int) -> np.ndarray:
    """Returns int32 [height, width]: the sentences `rows`, padded on the right, followed by empty rows."""
    padded = np.full((height, width), PAD, np.int32)
    for row, i in enumerate(rows):
        padded[row, : len(ids[i])] = ids[i]
    return padded


def pad_phrases(phrases: list[list[list[int]]], rows: list[int], shape: tuple[int, int, int]) -> np.ndarray:
    """Returns int32 of this shape, [height, J, M]: the phrases of the sentences `rows`, padded on the right."""
    padded = np.full(shape, PAD, np.int32)
    for row, i in enumerate(rows):
        for j, ids in enumerate(phrases[i]):
            padded[row, j, : len(ids)] = ids
    return padded
