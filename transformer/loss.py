"""Section 5.4: label-smoothed cross-entropy."""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import PAD
from transformer.kernels.cross_entropy import cross_entropy_and_gradient, cross_entropy_runs
from transformer.mesh import platform, row_groups, whole_rows

# Tokens of a device whose logits are computed at a time: few on a CPU, to fit its cache; elsewhere enough for the
# matrix units.
_TOKENS_ON_CPU, _TOKENS = 512, 8192


def cross_entropy(logits: Array, targets: Array, smoothing: float = 0.0) -> tuple[Array, Array]:
    """Cross-entropy with label smoothing, in nats, summed over all tokens except padding.

    The convention is that of tensor2tensor, which the authors used: the correct token has probability 1 - eps, and
    each of the V - 1 other tokens eps / (V - 1). (PyTorch and fairseq spread eps over all V tokens, including the
    correct one: their loss at eps' = eps * V / (V - 1) equals this one at eps.)

    Args:
        logits: [..., V]
        targets: [...] ids; padding is ignored.
        smoothing: eps_ls in the paper, in [0, 1).

    Returns:
        (sum, count), float32 scalars. sum / count is the loss per token. Unlike that mean, sums and counts can be
        added over micro-batches and devices.
    """
    logits = logits.astype(jnp.float32)
    wrong = smoothing / (logits.shape[-1] - 1)
    # -sum_v q_v log p_v, where log p_v = logit_v - log Z, and q_v is `wrong` for every v, plus the rest at the target.
    expected = (1 - smoothing - wrong) * jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if smoothing:
        expected += wrong * logits.sum(axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - expected
    real = (targets != PAD).astype(jnp.float32)
    return (losses * real).sum(), real.sum()


def least_loss(smoothing: float, vocabulary: int) -> float:
    """What no label-smoothed loss goes below, in nats per token: the entropy of the smoothed target."""
    if not smoothing:
        return 0.0
    return -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(smoothing / (vocabulary - 1))


def tied_cross_entropy(
    x: Array,
    table: Array,
    targets: Array,
    smoothing: float = 0.0,
    kernels: bool = True,
    bias: Array | None = None,
) -> tuple[Array, Array]:
    """`cross_entropy` of the logits x table^T + bias (section 3.4; no bias in the paper), one chunk at a time.

    For 25,000 tokens and a vocabulary of 37,000, the full logits would be the largest array of the training step
    (3.7 GB), and their gradient would take another 3.7 GB.

    Args:
        x: decoder outputs [B, T, D].
        table: pre-softmax matrix [V, D], float32; in the paper it is the embedding matrix.
        targets: [B, T] ids; padding is ignored.
        smoothing: eps_ls in the paper, in [0, 1).
        kernels: use the fused kernel where it runs.
        bias: [V], float32, or None.

    Returns:
        (sum, count), float32 scalars.
    """
    return _chunked_loss(x, table, bias, targets, smoothing, kernels), (targets != PAD).sum().astype(jnp.float32)


class _OutputLayer(NamedTuple):
    """The output layer as the chunks use it. The bias and its sum are None if there is no bias."""

    table: Array
    """[V, D] in the type of the matmuls."""
    total_row: Array
    """The sum of the rows, float32 [D]."""
    bias: Array | None = None
    """[V] in the type of the logits."""
    total_bias: Array | None = None
    """The sum of the bias, a float32 scalar."""


class _Sums(NamedTuple):
    """Sums over chunks, for each group of rows on different devices, in float32; dbias is None if there is no bias."""

    loss: Array
    """[G]"""
    dtable: Array
    """[G, V, D]"""
    dbias: Array | None = None
    """[G, V]"""


@partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _chunked_loss(x: Array, table: Array, bias: Array | None, targets: Array, smoothing: float, kernels: bool) -> Array:
    output = _output_layer(table, bias, x.dtype)

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _chunk_loss(chunk[0], output, chunk[1], smoothing)[0].sum(), None

    return jax.lax.scan(add, jnp.zeros(()), _chunks(x, targets, groups=1))[0]


def _forward(
    x: Array, table: Array, bias: Array | None, targets: Array, smoothing: float, kernels: bool
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    """Computes loss and gradient together, while a chunk's logits exist; the backward pass only scales the gradient.

    The table's gradient is accumulated separately for each group of rows on different devices, [G, V, D], so that its
    84 MB are all-reduced once, and not once per chunk.
    """
    output, groups = _output_layer(table, bias, x.dtype), row_groups()
    one_chunk = _fused_losses_and_gradient if kernels and cross_entropy_runs(x) else _losses_and_gradient

    def add(total: _Sums, chunk: tuple[Array, Array]) -> tuple[_Sums, Array]:
        x, targets = chunk
        losses, gradient = one_chunk(x, output, targets, smoothing)
        dtable = jnp.einsum("GBTV,GBTD->GVD", gradient, x, preferred_element_type=jnp.float32)
        dbias = None if total.dbias is None else total.dbias + gradient.astype(jnp.float32).sum(axis=(1, 2))
        sums = _Sums(total.loss + losses.sum(axis=(1, 2)), total.dtable + dtable, dbias)
        return sums, jnp.einsum("GBTV,VD->GBTD", gradient, output.table)

    zero = _Sums(*(jnp.zeros((groups, *shape)) for shape in ((), table.shape)))
    if bias is not None:
        zero = zero._replace(dbias=jnp.zeros((groups, *bias.shape)))
    sums, dx = jax.lax.scan(add, zero, _chunks(x, targets, groups))
    dbias = None if sums.dbias is None else sums.dbias.sum(axis=0)
    return sums.loss.sum(), (jnp.moveaxis(dx, 0, 2).reshape(x.shape), sums.dtable.sum(axis=0), dbias)


def _backward(
    smoothing: float, kernels: bool, gradients: tuple[Array, Array, Array | None], scale: Array
) -> tuple[Array, Array, Array | None, None]:
    dx, dtable, dbias = gradients
    dbias = None if dbias is None else dbias * scale
    return (dx * scale).astype(dx.dtype), (dtable * scale).astype(dtable.dtype), dbias, None


_chunked_loss.defvjp(_forward, _backward)


def _output_layer(table: Array, bias: Array | None, dtype: jnp.dtype) -> _OutputLayer:
    """Converts the output layer for the matmuls: once, not once per chunk."""
    low = whole_rows(table.astype(dtype))
    total_row = low.astype(jnp.float32).sum(axis=0)
    if bias is None:
        return _OutputLayer(low, total_row)
    low_bias = bias.astype(dtype)
    return _OutputLayer(low, total_row, low_bias, low_bias.astype(jnp.float32).sum())


def _logits(x: Array, output: _OutputLayer) -> Array:
    """Logits [G, B, T, V] of x [G, B, T, D], in its type."""
    logits = jnp.einsum("GBTD,VD->GBTV", x, output.table)
    return logits if output.bias is None else logits + output.bias


def _losses_and_gradient(x: Array, output: _OutputLayer, targets: Array, smoothing: float) -> tuple[Array, Array]:
    """Of x [G, B, T, D]: the losses [G, B, T], 0 for padding, and the gradient of their sum by logits [G, B, T, V]."""
    losses, logits, normalizer = _chunk_loss(x, output, targets, smoothing)
    return losses, _logits_gradient(logits, normalizer, targets, smoothing)


def _fused_losses_and_gradient(x: Array, output: _OutputLayer, targets: Array, smoothing: float) -> tuple[Array, Array]:
    """The same by one kernel, which reads the logits once and adds them up as it does."""
    return cross_entropy_and_gradient(_logits(x, output), targets, smoothing)


def _chunk_loss(x: Array, output: _OutputLayer, targets: Array, smoothing: float) -> tuple[Array, Array, Array]:
    """Of x [G, B, T, D]: the losses [G, B, T], 0 for padding; the logits [G, B, T, V]; and log Z [G, B, T].

    The logits have the dtype of x and are read twice, for their maximum and for the sum of exponentials. The loss also
    needs the target's logit and the sum of all logits: these are dot products of x with one row of the table and with
    the sum of its rows, in float32.
    """
    wrong = smoothing / (output.table.shape[0] - 1)
    logits = _logits(x, output)
    highest = logits.max(axis=-1).astype(jnp.float32)
    normalizer = highest + jnp.log(jnp.exp(logits.astype(jnp.float32) - highest[..., None]).sum(axis=-1))
    exact = x.astype(jnp.float32)
    # Rounded as the logits are: else log Z of a confident model could be less than the target's logit.
    right = (exact * output.table[targets].astype(jnp.float32)).sum(axis=-1).astype(logits.dtype)
    if output.bias is not None:
        right += output.bias[targets]
    expected = (1 - smoothing - wrong) * right.astype(jnp.float32)
    if smoothing:
        total = (exact * output.total_row).sum(axis=-1)
        expected += wrong * (total if output.total_bias is None else total + output.total_bias)
    return jnp.where(targets != PAD, normalizer - expected, 0.0), logits, normalizer


def _logits_gradient(logits: Array, normalizer: Array, targets: Array, smoothing: float) -> Array:
    """The loss's gradient [G, B, T, V]: the model's probability minus the smoothed target's; 0 for padding.

    The target is found by comparison rather than by a scatter, so that this is a single pass over the logits.
    """
    wrong = smoothing / (logits.shape[-1] - 1)
    is_target = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]
    p = jnp.exp(logits.astype(jnp.float32) - normalizer[..., None])
    gradient = p - jnp.where(is_target, 1 - smoothing, wrong)
    return jnp.where((targets != PAD)[..., None], gradient, 0.0).astype(logits.dtype)


def _chunks(x: Array, targets: Array, groups: int) -> tuple[Array, Array]:
    """Splits along T: [B, T, D] and [B, T] -> [n, G, B / G, T / n, D] and [n, G, B / G, T / n].

    The split is along positions, not rows, because rows are sharded across devices.
    """
    B, T, D = x.shape
    limit = row_groups() * (_TOKENS_ON_CPU if platform() == "cpu" else _TOKENS)
    n = next(n for n in range(1, T + 1) if T % n == 0 and (n == T or B * T // n <= limit))
    shape = groups, B // groups, n, T // n
    return jnp.moveaxis(x.reshape(*shape, D), 2, 0), jnp.moveaxis(targets.reshape(shape), 2, 0)
