"""Section 3.1's LayerNorm(x + Dropout(update)) as one GPU kernel, and its gradient as another. Not in the paper.

The compiler makes several passes over the activations of it: dropout and sum, statistics, normalization, and in the
backward pass one each for the gradients of input, scale and bias. Here a program holds some rows on the chip, and reads
and writes them once. The backward pass draws the random bits of dropout again.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.sharding import PartitionSpec as P

from transformer.dropout import bits_at, threshold_of
from transformer.kernels.blocks import Block, for_gpu, load, store, whole
from transformer.mesh import ROW_AXES, first_row, on_own_shards

# Rows that a program holds at a time. In the backward pass it takes as many several times, and adds up what they
# contribute to the gradients of scale and bias.
_ROWS, _STEPS = 4, 8

# Partition specs of arrays [B, T, D] (and of the sums of each program), [B, T] and [D].
_ACTIVATIONS, _STATISTICS, _VECTOR = P(ROW_AXES, None, None), P(ROW_AXES, None), P(None)


def residual_runs(x: Array, update: Array) -> bool:
    """Whether the program that is being traced can call `add_and_norm` for these activations: a GPU's, in bfloat16."""
    return for_gpu(x, update) and x.shape[-1] <= 4096


def add_and_norm(
    x: Array, update: Array, scale: Array, bias: Array, epsilon: float, rate: float, key: Array | None
) -> Array:
    """LayerNorm(x + dropout(update, rate, key)), with float32 statistics.

    Args:
        x: [B, T, D]
        update: [B, T, D], the output of a sub-layer.
        scale: [D]
        bias: [D]
        epsilon: added to the variance.
        rate: dropout rate.
        key: dropout key; None disables dropout.

    Returns:
        [B, T, D] in the dtype of x.
    """
    words = jnp.zeros(2, jnp.uint32) if key is None else jax.random.key_data(key)[:2]
    return _add_and_norm(epsilon, rate if key is not None else 0.0, x, update, scale, bias, words)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _add_and_norm(epsilon: float, rate: float, *arguments: Array) -> Array:
    return _forward(epsilon, rate, *arguments)[0]


def _forward(
    epsilon: float, rate: float, x: Array, update: Array, scale: Array, bias: Array, words: Array
) -> tuple[Array, tuple[Array, ...]]:
    def call(x: Array, update: Array, scale: Array, bias: Array, words: Array) -> tuple[Array, ...]:
        rows, D = x.size // x.shape[-1], x.shape[-1]
        activations = jax.ShapeDtypeStruct((rows, D), x.dtype)
        statistic = jax.ShapeDtypeStruct((rows,), jnp.float32)
        found = pl.pallas_call(
            partial(_forward_kernel, epsilon=epsilon, rate=rate),
            grid=(pl.cdiv(rows, _ROWS),),
            out_shape=[activations, activations, statistic, statistic],
            compiler_params=triton.CompilerParams(num_warps=4),
            name="add_and_norm_forward",
        )(x.reshape(rows, D), update.reshape(rows, D), scale, bias, _shifted(words, x))
        return tuple(one.reshape(x.shape[: one.ndim + 1]) for one in found)

    arguments = _ACTIVATIONS, _ACTIVATIONS, _VECTOR, _VECTOR, _VECTOR
    call = on_own_shards(call, arguments, (_ACTIVATIONS, _ACTIVATIONS, _STATISTICS, _STATISTICS))
    output, added, mean, inverse = call(x, update, scale, bias, words)
    return output, (added, mean, inverse, scale, words)


def _backward(epsilon: float, rate: float, residuals: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    def call(gradient: Array, added: Array, mean: Array, inverse: Array, scale: Array, words: Array) -> Any:
        rows, D = added.size // added.shape[-1], added.shape[-1]
        programs = pl.cdiv(rows, _ROWS * _STEPS)
        activations = jax.ShapeDtypeStruct((rows, D), added.dtype)
        dx, dupdate, sums = pl.pallas_call(
            partial(_backward_kernel, rate=rate),
            grid=(programs,),
            out_specs=[pl.BlockSpec(), pl.BlockSpec(), pl.BlockSpec((None, 2, D), lambda program: (program, 0, 0))],
            out_shape=[activations, activations, jax.ShapeDtypeStruct((programs, 2, D), jnp.float32)],
            compiler_params=triton.CompilerParams(num_warps=4),
            name="add_and_norm_backward",
        )(
            *(x.reshape(rows, D) for x in (gradient, added)),
            mean.ravel(),
            inverse.ravel(),
            scale,
            _shifted(words, added),
        )
        return dx.reshape(added.shape), dupdate.reshape(added.shape), sums

    added, mean, inverse, scale, words = residuals
    arguments = _ACTIVATIONS, _ACTIVATIONS, _STATISTICS, _STATISTICS, _VECTOR, _VECTOR
    call = on_own_shards(call, arguments, (_ACTIVATIONS, _ACTIVATIONS, _ACTIVATIONS))
    dx, dupdate, sums = call(gradient, added, mean, inverse, scale, words)
    dscale, dbias = sums.sum(axis=0)
    return dx, dupdate, dscale, dbias, None


_add_and_norm.defvjp(_forward, _backward)


def _shifted(words: Array, x: Array) -> Array:
    """The words of the key, so that the index of an entry of this device's x [B, T, D] counts from its first one."""
    first = first_row(x.shape[0])
    return words if isinstance(first, int) else words.at[0].add(first * jnp.uint32(x.shape[1] * x.shape[2]))


def _forward_kernel(
    x_ref, update_ref, scale_ref, bias_ref, words_ref, output_ref, added_ref, mean_ref, inverse_ref, *, epsilon, rate
):
    rows, columns = Block(pl.program_id(0) * _ROWS, _ROWS, x_ref.shape[0]), whole(x_ref.shape[1])
    x, update = (load(ref, rows, columns).astype(jnp.float32) for ref in (x_ref, update_ref))
    update = _dropped(update, words_ref, rows, columns, rate)
    # Statistics of what is stored, which the backward pass reads again.
    added = (x + update).astype(added_ref.dtype)
    store(added_ref, added, rows, columns)
    added = added.astype(jnp.float32)
    mean = added.sum(axis=1) / columns.length
    centered = jnp.where(columns.exists[None, :], added - mean[:, None], 0.0)
    inverse = jax.lax.rsqrt((centered * centered).sum(axis=1) / columns.length + epsilon)
    normalized = centered * inverse[:, None]
    store(output_ref, normalized * load(scale_ref, columns)[None, :] + load(bias_ref, columns)[None, :], rows, columns)
    store(mean_ref, mean, rows)
    store(inverse_ref, inverse, rows)


def _backward_kernel(
    gradient_ref, added_ref, mean_ref, inverse_ref, scale_ref, words_ref, dx_ref, dupdate_ref, sums_ref, *, rate
):
    columns = whole(added_ref.shape[1])
    scale, first = load(scale_ref, columns)[None, :], pl.program_id(0) * _ROWS * _STEPS

    def step(index: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        rows = Block(first + index * _ROWS, _ROWS, added_ref.shape[0])
        gradient = load(gradient_ref, rows, columns).astype(jnp.float32)
        inverse = load(inverse_ref, rows)[:, None]
        normalized = (load(added_ref, rows, columns).astype(jnp.float32) - load(mean_ref, rows)[:, None]) * inverse
        normalized = jnp.where(columns.exists[None, :], normalized, 0.0)
        scaled = gradient * scale
        along = (scaled * normalized).sum(axis=1, keepdims=True) / columns.length
        dx = inverse * (scaled - scaled.sum(axis=1, keepdims=True) / columns.length - normalized * along)
        store(dx_ref, dx, rows, columns)
        store(dupdate_ref, _dropped(dx, words_ref, rows, columns, rate), rows, columns)
        return sums[0] + (gradient * normalized).sum(axis=0), sums[1] + gradient.sum(axis=0)

    zero = jnp.zeros(columns.size)
    dscale, dbias = jax.lax.fori_loop(0, _STEPS, step, (zero, zero))
    store(sums_ref, dscale[None, :], Block(0, 1, 2), columns)
    store(sums_ref, dbias[None, :], Block(1, 1, 2), columns)


def _dropped(x: Array, words_ref: Any, rows: Block, columns: Block, rate: float) -> Array:
    """Dropout of these entries, with `transformer.dropout.random_bits` of the whole batch."""
    if not rate:
        return x
    row = jnp.asarray(rows.start, jnp.uint32) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, 0)
    place = row * jnp.uint32(columns.length) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, 1)
    threshold, kept = threshold_of(rate)
    return jnp.where(bits_at(place, words_ref[0], words_ref[1]) >= jnp.uint32(threshold), x / kept, 0.0)
