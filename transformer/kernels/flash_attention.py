"""Equation 1 as one GPU kernel, which never writes the scores to memory. Not in the paper.

This is FlashAttention-2 (Dao, 2023) for the mask of packed sentences. The scores of a row of 144 tokens and 8 heads are
larger than its queries, keys and values together, and the plain `scaled_dot_product_attention` writes and reads them
several times; here a block of queries meets one block of keys after another, and a running maximum and sum of
exponentials stand in for the whole row of scores. The backward pass computes the scores again.

The kernels are written in Pallas and compiled by Triton. `scaled_dot_product_attention` says what they compute, and
tests/transformer/test_kernels.py holds both to the same values and gradients.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec as P

from transformer.kernels.blocks import Block, for_gpu, load, stated_flops, store, whole
from transformer.mesh import ROW_AXES, on_own_shards

# Positions of a program's own block, and of the blocks that it meets one after another. Triton loads powers of two, and
# multiplies 16 x 16 or more.
_BLOCK, _STEP = 64, 32


def flash_attention_runs(queries: Array, keys: Array, values: Array, mask: Array, bias: Array | None) -> bool:
    """Whether the program that is being traced can call `flash_attention` for these arguments of equation 1.

    It runs on GPUs, in bfloat16, for whole sentences: a decoding step has a handful of queries, and nothing to save.
    """
    return (
        for_gpu(queries, keys, values)
        and bias is None
        and queries.shape[2] >= 16
        and max(queries.shape[3], values.shape[3]) <= 128
        and math.prod(jnp.broadcast_shapes(mask.shape, (queries.shape[2], keys.shape[3]))) < 2**31  # offsets are int32
    )


def flash_attention(queries: Array, keys: Array, values: Array, mask: Array) -> Array:
    """The output of `scaled_dot_product_attention`, without its weights.

    Args:
        queries: [B, N, T, K]
        keys: [B, N, K, S]
        values: [B, N, S, H]
        mask: boolean, broadcastable to [B, N, T, S]; True where a query may attend to a key.

    Returns:
        [B, N, T, H] in the dtype of `values`.
    """
    # The kernels read the layout that the projections write, with the heads of a token side by side.
    q, k, v = queries.swapaxes(1, 2), jnp.moveaxis(keys, 3, 1), values.swapaxes(1, 2)
    mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    allowed = jnp.broadcast_to(mask, (*mask.shape[:2], q.shape[1], k.shape[1])).astype(jnp.int8)
    heads = P(ROW_AXES, None, "tensor", None)
    masks = P(ROW_AXES if len(mask) > 1 else None, "tensor" if mask.shape[1] > 1 else None, None, None)
    attend = on_own_shards(_attention, (heads, heads, heads, masks), heads)
    return attend(q, k, v, allowed).swapaxes(1, 2)


@jax.custom_vjp
def _attention(q: Array, k: Array, v: Array, allowed: Array) -> Array:
    return _forward(q, k, v, allowed)[0]


def _forward(q: Array, k: Array, v: Array, allowed: Array) -> tuple[Array, tuple[Array, ...]]:
    """q [B, T, N, K], k [B, S, N, K], v [B, S, N, H], allowed [B or 1, N or 1, T, S] -> [B, T, N, H], residuals."""
    B, T, N, K = q.shape
    out = jax.ShapeDtypeStruct((B, T, N, v.shape[3]), v.dtype)
    statistic = jax.ShapeDtypeStruct((B, N, T), jnp.float32)
    output, highest, total = pl.pallas_call(
        partial(_forward_kernel, scale=K**-0.5),
        grid=(pl.cdiv(T, _BLOCK), N, B),
        in_specs=[_one_head(q), _one_head(k), _one_head(v), _one_mask(allowed)],
        out_specs=[_one_head(out), _one_row(T), _one_row(T)],
        out_shape=[out, statistic, statistic],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        name="flash_attention_forward",
        metadata=stated_flops(2 * B * N * _pairs(T, k.shape[1]) * (K + v.shape[3])),
    )(q, k, v, allowed)
    return output, (q, k, v, allowed, output, highest, total)


def _backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    q, k, v, allowed, output, highest, total = residuals
    (B, T, N, K), (_, S, _, H) = q.shape, v.shape
    arrays = q, k, v, output, gradient
    dq, dk, dv = pl.pallas_call(
        partial(_backward_kernel, scale=K**-0.5),
        grid=(pl.cdiv(max(T, S), _BLOCK), N, B),
        in_specs=[*map(_one_head, arrays), _one_mask(allowed), _one_row(T), _one_row(T)],
        out_specs=[_one_head(q), _one_head(k), _one_head(v)],
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (q, k, v)],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        name="flash_attention_backward",
        metadata=stated_flops(2 * B * N * (_pairs(T, S) * (2 * K + H) + _pairs(S, T) * 2 * (K + H))),
    )(*arrays, allowed, highest, total)
    return dq, dk, dv, None


_attention.defvjp(_forward, _backward)


def _pairs(own: int, met: int) -> int:
    """Pairs of a query and a key that the programs of a row and head multiply, those beyond the ends included."""
    return pl.cdiv(own, _BLOCK) * _BLOCK * pl.cdiv(met, _STEP) * _STEP


def _one_head(x: Array | jax.ShapeDtypeStruct) -> pl.BlockSpec:
    """What a program of the grid [blocks, N, B] sees of x [B, T, N, K]: all positions of one head, [T, K]."""
    return pl.BlockSpec((None, x.shape[1], None, x.shape[3]), lambda block, n, b: (b, 0, n, 0))


def _one_mask(allowed: Array) -> pl.BlockSpec:
    """The mask [T, S] of a row and head."""
    B, N, T, S = allowed.shape
    return pl.BlockSpec((None, None, T, S), lambda block, n, b: (b if B > 1 else 0, n if N > 1 else 0, 0, 0))


def _one_row(T: int) -> pl.BlockSpec:
    """A statistic [T] of a row and head."""
    return pl.BlockSpec((None, None, T), lambda block, n, b: (b, n, 0))


def _forward_kernel(q_ref, k_ref, v_ref, allowed_ref, output_ref, max_ref, sum_ref, *, scale: float) -> None:
    """Attention of one block of queries of one head."""
    width, value_width = whole(q_ref.shape[1]), whole(v_ref.shape[1])
    queries = Block(pl.program_id(0) * _BLOCK, _BLOCK, q_ref.shape[0])
    q = load(q_ref, queries, width)

    def add(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        output, highest, total = carry
        keys = Block(index * _STEP, _STEP, k_ref.shape[0])
        scores = _scores(q, load(k_ref, keys, width), load(allowed_ref, queries, keys), keys, scale)
        new_highest = jnp.maximum(highest, scores.max(axis=1))
        exps, shrunk = jnp.exp(scores - new_highest[:, None]), jnp.exp(highest - new_highest)
        output = output * shrunk[:, None] + _matmul(exps.astype(v_ref.dtype), load(v_ref, keys, value_width))
        return output, new_highest, total * shrunk + exps.sum(axis=1)

    zero = jnp.zeros((_BLOCK, value_width.size)), jnp.full(_BLOCK, -jnp.inf), jnp.zeros(_BLOCK)
    output, highest, total = jax.lax.fori_loop(0, pl.cdiv(k_ref.shape[0], _STEP), add, zero)
    store(output_ref, output / total[:, None], queries, value_width)
    store(max_ref, highest, queries)
    store(sum_ref, total, queries)


def _backward_kernel(
    q_ref, k_ref, v_ref, output_ref, gradient_ref, allowed_ref, max_ref, sum_ref, dq_ref, dk_ref, dv_ref, *, scale
) -> None:
    """The gradients of one block of queries, and of the block of keys and values in the same place."""
    T, S = q_ref.shape[0], k_ref.shape[0]
    width, value_width = whole(q_ref.shape[1]), whole(v_ref.shape[1])

    def weights_and_gradient(queries, keys, q, k, v):
        """Of a block: the attention weights, and the gradients of the output and of the scaled scores."""
        gradient = load(gradient_ref, queries, value_width)
        allowed = load(allowed_ref, queries, keys)
        scores = _scores(q, k, allowed, keys, scale)
        weights = jnp.exp(scores - load(max_ref, queries)[:, None]) / load(sum_ref, queries, other=1.0)[:, None]
        along = (load(output_ref, queries, value_width).astype(jnp.float32) * gradient.astype(jnp.float32)).sum(axis=1)
        dscores = jnp.where(allowed != 0, weights * (_matmul(gradient, v.T) - along[:, None]), 0.0) * scale
        return weights.astype(gradient.dtype), gradient, dscores.astype(gradient.dtype)

    queries = Block(pl.program_id(0) * _BLOCK, _BLOCK, T)
    q = load(q_ref, queries, width)

    def add_keys(index: Array, dq: Array) -> Array:
        keys = Block(index * _STEP, _STEP, S)
        k = load(k_ref, keys, width)
        _, _, dscores = weights_and_gradient(queries, keys, q, k, load(v_ref, keys, value_width))
        return dq + _matmul(dscores, k)

    dq = jax.lax.fori_loop(0, pl.cdiv(S, _STEP), add_keys, jnp.zeros((_BLOCK, width.size)))
    store(dq_ref, dq, queries, width)

    keys = Block(pl.program_id(0) * _BLOCK, _BLOCK, S)
    k, v = load(k_ref, keys, width), load(v_ref, keys, value_width)

    def add_queries(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        dk, dv = carry
        queries = Block(index * _STEP, _STEP, T)
        q = load(q_ref, queries, width)
        weights, gradient, dscores = weights_and_gradient(queries, keys, q, k, v)
        return dk + _matmul(dscores.T, q), dv + _matmul(weights.T, gradient)

    zero = jnp.zeros((_BLOCK, width.size)), jnp.zeros((_BLOCK, value_width.size))
    dk, dv = jax.lax.fori_loop(0, pl.cdiv(T, _STEP), add_queries, zero)
    store(dk_ref, dk, keys, width)
    store(dv_ref, dv, keys, value_width)


def _scores(q: Array, k: Array, allowed: Array, keys: Block, scale: float) -> Array:
    """Masked scores [queries, keys]. As in equation 1, the lowest finite number makes a fully masked row uniform."""
    scores = jnp.where(allowed != 0, _matmul(q, k.T) * scale, jnp.finfo(jnp.float32).min)
    return jnp.where(keys.exists[None, :], scores, -jnp.inf)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.dot(a, b, preferred_element_type=jnp.float32)
