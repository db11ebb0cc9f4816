"""Section 5.4: label-smoothed cross-entropy."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import PAD
from transformer.mesh import platform, row_groups, whole_rows

# The logits of so many tokens are made at a time: on a CPU few, for its cache, elsewhere enough for the matrix units.
_TOKENS_ON_CPU, _TOKENS = 512, 4096


def cross_entropy(logits: Array, targets: Array, smoothing: float = 0.0) -> tuple[Array, Array]:
    """Cross-entropy in nats against a smoothed target, summed over the tokens that are not padding.

    The convention is tensor2tensor's, which the authors ran: the right token has probability
    1 - eps, and each of the V - 1 wrong ones eps / (V - 1). (PyTorch and fairseq spread eps / V over all V
    tokens, the right one too: theirs at eps' = eps * V / (V - 1) is ours at eps.)

    Args:
        logits: [..., V]
        targets: [...] ids; padding counts for nothing.
        smoothing: eps_ls of the paper, in [0, 1).

    Returns:
        (sum, count), float32 scalars. Their quotient is the loss per token; sums can be added over
        micro-batches and devices, quotients cannot.
    """
    logits = logits.astype(jnp.float32)
    wrong = smoothing / (logits.shape[-1] - 1)
    # -sum_v q_v log p_v with log p_v = logit_v - log Z, where q is `wrong` everywhere, and more at the target.
    expected = (1 - smoothing - wrong) * jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    if smoothing:
        expected += wrong * logits.sum(axis=-1)
    losses = jax.nn.logsumexp(logits, axis=-1) - expected
    real = (targets != PAD).astype(jnp.float32)
    return (losses * real).sum(), real.sum()


def tied_cross_entropy(x: Array, table: Array, targets: Array, smoothing: float = 0.0) -> tuple[Array, Array]:
    """`cross_entropy` of the logits x table^T (section 3.4), which are never all there at once.

    Of 25,000 tokens and 37,000 words they would be the largest array of the step, 3.7 GB, and their gradient as much.

    Args:
        x: [B, T, D]
        table: [V, D], the embedding, float32.
        targets: [B, T] ids; padding counts for nothing.
        smoothing: eps_ls of the paper, in [0, 1).

    Returns:
        (sum, count), float32 scalars.
    """
    return _chunked_loss(x, table, targets, smoothing), (targets != PAD).sum().astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _chunked_loss(x: Array, table: Array, targets: Array, smoothing: float) -> Array:
    low = whole_rows(table.astype(x.dtype))

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _chunk_loss(chunk[0], low, chunk[1], smoothing)[0].sum(), None

    return jax.lax.scan(add, jnp.zeros(()), _chunks(x, targets, groups=1))[0]


def _forward(x: Array, table: Array, targets: Array, smoothing: float) -> tuple[Array, tuple[Array, Array]]:
    """The gradient is computed here, while a chunk's logits are in memory, and only scaled in the backward pass.

    Each group of devices that share rows keeps its own sum of the table's gradient, [G, V, D], so that these 84 MB are
    reduced across devices once, and not once for each chunk.
    """
    low, groups = whole_rows(table.astype(x.dtype)), row_groups()

    def add(total: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        x, targets = chunk
        losses, logits, normalizer = _chunk_loss(x, low, targets, smoothing)
        gradient = _logits_gradient(logits, normalizer, targets, smoothing)
        dtable = jnp.einsum("GBTV,GBTD->GVD", gradient, x, preferred_element_type=jnp.float32)
        return (total[0] + losses.sum(axis=(1, 2)), total[1] + dtable), jnp.einsum("GBTV,VD->GBTD", gradient, low)

    zero = jnp.zeros(groups), jnp.zeros((groups, *table.shape))
    (loss, dtable), dx = jax.lax.scan(add, zero, _chunks(x, targets, groups))
    return loss.sum(), (jnp.moveaxis(dx, 0, 2).reshape(x.shape), dtable.sum(axis=0))


def _backward(smoothing: float, gradients: tuple[Array, Array], scale: Array) -> tuple[Array, Array, None]:
    dx, dtable = gradients
    return (dx * scale).astype(dx.dtype), (dtable * scale).astype(dtable.dtype), None


_chunked_loss.defvjp(_forward, _backward)


def _chunk_loss(x: Array, table: Array, targets: Array, smoothing: float) -> tuple[Array, Array, Array]:
    """Of x [G, B, T, D]: the losses [G, B, T], 0 for padding; the logits [G, B, T, V]; and log Z, [G, B, T].

    The logits have the type of x and are read once for each of two sums. What else the loss needs of them, the target's
    logit and the sum of all, are products of x with one row of the table and with the sum of its rows.
    """
    wrong = smoothing / (table.shape[0] - 1)
    logits = jnp.einsum("GBTD,VD->GBTV", x, table)
    highest = logits.max(axis=-1).astype(jnp.float32)
    normalizer = highest + jnp.log(jnp.exp(logits.astype(jnp.float32) - highest[..., None]).sum(axis=-1))
    exact, total = x.astype(jnp.float32), table.astype(jnp.float32).sum(axis=0)
    right = (exact * table[targets].astype(jnp.float32)).sum(axis=-1)
    expected = (1 - smoothing - wrong) * right + wrong * (exact * total).sum(axis=-1)
    return jnp.where(targets != PAD, normalizer - expected, 0.0), logits, normalizer


def _logits_gradient(logits: Array, normalizer: Array, targets: Array, smoothing: float) -> Array:
    """p - q for each logit: the model's probability less the smoothed target's; 0 for padding.

    By comparison with the target and not by scattering into it, it is one pass over the logits.
    """
    wrong = smoothing / (logits.shape[-1] - 1)
    is_target = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]
    p = jnp.exp(logits.astype(jnp.float32) - normalizer[..., None])
    gradient = p - jnp.where(is_target, 1 - smoothing, wrong)
    return jnp.where((targets != PAD)[..., None], gradient, 0.0).astype(logits.dtype)


def _chunks(x: Array, targets: Array, groups: int) -> tuple[Array, Array]:
    """[B, T, D] and [B, T] -> [n, G, B / G, T / n, D] and [n, G, B / G, T / n].

    Positions are cut and not rows: rows are what devices share.
    """
    B, T, D = x.shape
    limit = _TOKENS_ON_CPU if platform() == "cpu" else _TOKENS
    n = next(n for n in range(1, T + 1) if T % n == 0 and (n == T or B * T // n <= limit))
    shape = groups, B // groups, n, T // n
    return jnp.moveaxis(x.reshape(*shape, D), 2, 0), jnp.moveaxis(targets.reshape(shape), 2, 0)
