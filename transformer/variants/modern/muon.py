"""Muon (Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks").

The momentum of a matrix is made nearly orthogonal, U V^T of its singular value decomposition U S V^T, by a few matrix
products (a Newton-Schulz iteration), so that each direction of the matrix learns equally fast. As in Liu et al. (2025,
"Muon is Scalable for LLM Training"), the entries of an update have the size of Adam's: the same learning rates fit.
"""

import math
from typing import Any

import jax
import numpy as np
import optax
from optax.contrib import MuonDimensionNumbers

from transformer.config import Experiment
from transformer.optimizer import OPTIMIZERS, adam
from transformer.parameters import Params
from transformer.variants.finetuning import LORA

RMS = 0.2
"""Root mean square of the entries of a matrix's update: about that of Adam's (Liu et al., section 2.2)."""

ITERATIONS = 5


def muon(experiment: Experiment) -> optax.GradientTransformation:
    """Muon for the matrices of layers; Adam for embeddings, biases, norms and everything else."""
    orthogonal = optax.contrib.muon(
        learning_rate=-1.0,  # the training step subtracts the update, and multiplies it by the rate
        eps=experiment.optimizer.eps,
        ns_steps=ITERATIONS,
        consistent_rms=RMS,
        muon_weight_dimension_numbers=matrices,
    )
    # The Adam of optax.contrib.muon has Nesterov momentum; this is the paper's.
    return optax.partition({True: orthogonal, False: adam(experiment)}, is_matrix)


def is_matrix(params: Params) -> Any:
    """Whether each parameter is a matrix of a layer, as a tree of bools."""
    return jax.tree.map(lambda axes: axes is not None, matrices(params), is_leaf=is_axes)


def is_axes(x: Any) -> bool:
    """Whether this is what `matrices` has for one parameter."""
    return x is None or isinstance(x, MuonDimensionNumbers)


def matrices(params: Params) -> Any:
    """For each parameter that is a matrix of a layer, which of its axes are rows and columns; None for all others.

    The projections of attention have an axis for the heads: [D, N, K] is one matrix of D x NK, and [N, H, D] of
    `output` one of NH x D. The factors of low-rank adaptation are matrices too.
    """

    def axes(path: tuple[Any, ...], x: Any) -> MuonDimensionNumbers | None:
        names = [key.key for key in path]
        if names[0] not in ("encoder", "decoder", LORA) or names[-1] not in ("kernel", "a", "b"):
            return None
        by_heads = MuonDimensionNumbers((0, 1), 2) if names[-2] == "output" else MuonDimensionNumbers(0, (1, 2))
        return {2: MuonDimensionNumbers(0, 1), 3: by_heads}.get(x.ndim)

    return jax.tree_util.tree_map_with_path(axes, params)


def flops(params: Params) -> int:
    """FLOPs of the matrix products of an update, whose iterations are A = X X^T, A A and (b A + c A A) X."""
    found = 0
    for x, axes in zip(jax.tree.leaves(params), jax.tree.leaves(matrices(params), is_leaf=is_axes), strict=True):
        if axes is not None:
            few, many = sorted(math.prod(x.shape[axis] for axis in np.atleast_1d(group)) for group in axes[:2])
            found += ITERATIONS * 2 * few * (2 * few * many + few * few)
    return found


muon.flops = flops  # type: ignore[attr-defined]
OPTIMIZERS.build_in({"muon": muon})
