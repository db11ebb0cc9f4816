"""Section 5.4's label-smoothed cross-entropy of some tokens and its gradient, as one GPU kernel. Not in the paper.

The logits are the largest array of a training step, and their gradient needs the sum of their exponentials first. A
program has the logits of one token: it reads them from memory for that sum, and from the cache for the gradient, which
it writes in their place.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec as P

from transformer.config import PAD
from transformer.kernels.blocks import Block, for_gpu, load, store
from transformer.mesh import ROW_AXES, axis_size, on_own_shards

_LOGITS = 2048
"""Logits that a program holds at a time."""


def cross_entropy_runs(x: Array) -> bool:
    """Whether the program that is being traced can call `cross_entropy_and_gradient` for the logits of x.

    It can on a GPU, in bfloat16, where no mesh axis splits the vocabulary.
    """
    return for_gpu(x) and axis_size("tensor") == 1


def cross_entropy_and_gradient(logits: Array, targets: Array, smoothing: float) -> tuple[Array, Array]:
    """The loss of each token, and the gradient of their sum.

    Args:
        logits: [G, B, T, V], the groups on different devices.
        targets: [G, B, T] ids; padding has no loss.
        smoothing: eps_ls in the paper.

    Returns:
        losses [G, B, T] in nats, float32, and the gradient [G, B, T, V] in the dtype of the logits.
    """

    def call(logits: Array, targets: Array) -> tuple[Array, Array]:
        V = logits.shape[-1]
        rows = jax.ShapeDtypeStruct((targets.size, V), logits.dtype)
        one_row, one_number = pl.BlockSpec((None, V), lambda row: (row, 0)), pl.BlockSpec((1,), lambda row: (row,))
        losses, gradient = pl.pallas_call(
            partial(_kernel, smoothing=smoothing),
            grid=(targets.size,),
            in_specs=[one_row, one_number],
            out_specs=[one_number, one_row],
            out_shape=[jax.ShapeDtypeStruct((targets.size,), jnp.float32), rows],
            input_output_aliases={0: 1},
            compiler_params=triton.CompilerParams(num_warps=4),
            name="cross_entropy_and_gradient",
        )(logits.reshape(-1, V), targets.ravel())
        return losses.reshape(targets.shape), gradient.reshape(logits.shape)

    groups = P(ROW_AXES, None, None)
    return on_own_shards(call, (P(*groups, None), groups), (groups, P(*groups, None)))(logits, targets)


def _kernel(logits_ref: Any, target_ref: Any, loss_ref: Any, gradient_ref: Any, *, smoothing: float) -> None:
    V, target = logits_ref.shape[0], target_ref[0]
    wrong = smoothing / (V - 1)
    blocks = pl.cdiv(V, _LOGITS)

    def read(index: Array) -> tuple[Block, Array, Array]:
        block = Block(index * _LOGITS, _LOGITS, V)
        is_target = block.start + jnp.arange(_LOGITS) == target
        return block, load(logits_ref, block, other=-jnp.inf).astype(jnp.float32), is_target

    def add(index: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        highest, exps, total, right = carry
        block, logits, is_target = read(index)
        new = jnp.maximum(highest, logits)
        exps = exps * jnp.exp(highest - new) + jnp.exp(logits - new)
        logits = jnp.where(block.exists, logits, 0.0)
        return new, exps, total + logits, right + jnp.where(is_target, logits, 0.0)

    # A running maximum and three running sums for each place in a block, brought together at the end. The maximum
    # starts with a finite number, because a place that only the last block lacks may have no logit at all.
    zero = jnp.zeros(_LOGITS)
    start = jnp.full(_LOGITS, jnp.finfo(jnp.float32).min), zero, zero, zero
    highest, exps, total, right = jax.lax.fori_loop(0, blocks, add, start)
    top = highest.max()
    normalizer = top + jnp.log((exps * jnp.exp(highest - top)).sum())
    loss = normalizer - (1 - smoothing - wrong) * right.sum() - wrong * total.sum()
    real = target != PAD
    loss_ref[0] = jnp.where(real, loss, 0.0)

    def write(index: Array, _: None) -> None:
        block, logits, is_target = read(index)
        gradient = jnp.exp(logits - normalizer) - jnp.where(is_target, 1 - smoothing, wrong)
        store(gradient_ref, jnp.where(real, gradient, 0.0), block)

    jax.lax.fori_loop(0, blocks, write, None)
