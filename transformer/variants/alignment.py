"""The source token that each target token attends to: the attention of the last decoder layer, averaged over its heads.

Attention as an alignment is that of Bahdanau et al. (2015), the paper's reference [2]; with it, an unknown word of the
output is replaced as in Jean et al. (2015), On Using Very Large Target Vocabulary for Neural Machine Translation,
section 3.3. In a Transformer it is less sharp, and other layers and heads may align better.
"""

from functools import reduce

import jax.numpy as jnp
from jax import Array

from transformer.model import Transformer
from transformer.variants.ensemble import Ensemble


def alignment(model: Transformer | Ensemble, source: Array, target: Array) -> Array:
    """Attention of each target position to each source position, from one forced pass.

    Args:
        source: ids [B, S].
        target: ids [B, T].

    Returns:
        [B, T, S] in float32; each row sums to 1. For an ensemble, the mean of its models.
    """
    if isinstance(model, Ensemble):
        return reduce(jnp.add, (alignment(each, source, target) for each in model.models)) / len(model.models)
    weights: list[Array] = []
    model.decode(target, model.encode(source), source, weights=weights)
    return weights[-1].mean(axis=1)  # the last one appended: attention over the encoder's output, in the last layer
