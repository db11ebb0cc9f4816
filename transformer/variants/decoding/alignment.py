"""The source token that each target token attends to: the last decoder layer, averaged over its heads, or one head.

Attention as an alignment is that of Bahdanau et al. (2015), the paper's reference [2]; with it, an unknown word of the
output is replaced as in Jean et al. (2015), On Using Very Large Target Vocabulary for Neural Machine Translation,
section 3.3. In a Transformer it is less sharp, and other layers and heads may align better.
"""

from functools import reduce
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from transformer.model import Transformer
from transformer.variants.decoding.ensemble import Ensemble


class Head(NamedTuple):
    """A head of encoder-decoder attention; both numbers count from 0."""

    layer: int
    number: int


def alignment(model: Transformer | Ensemble, source: Array, target: Array, head: Head | None = None) -> Array:
    """Attention of each target position to each source position, from one forced pass.

    Args:
        source: ids [B, S].
        target: ids [B, T].
        head: one head of one decoder layer. None: the mean over the heads of the last layer.

    Returns:
        [B, T, S] in float32; each row sums to 1. For an ensemble, the mean of its models.
    """
    if isinstance(model, Ensemble):
        return reduce(jnp.add, (alignment(each, source, target, head) for each in model.models)) / len(model.models)
    weights: list[Array] = []
    model.decode(target, model.encode(source), source, weights=weights)
    cross = weights[1::2]  # a decoder layer appends twice: masked self-attention, then attention to the source
    return cross[-1].mean(axis=1) if head is None else cross[head.layer][:, head.number]
