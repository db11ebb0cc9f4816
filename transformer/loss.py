"""Section 5.4: label-smoothed cross-entropy."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import PAD
from transformer.matmul import einsum
from transformer.mesh import row_groups

# Tokens whose logits are computed at a time: few on a CPU, to fit its cache; elsewhere enough for the matrix units.
_TOKENS_ON_CPU, _TOKENS = 512, 4096


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


def tied_cross_entropy(x: Array, table: Array, targets: Array, smoothing: float = 0.0) -> tuple[Array, Array]:
    """`cross_entropy` with tied embeddings: the logits are x table^T (section 3.4), computed one chunk at a time.

    For 25,000 tokens and a vocabulary of 37,000, the full logits would be the largest array of the training step
    (3.7 GB), and their gradient would take another 3.7 GB.

    Args:
        x: decoder outputs [B, T, D].
        table: embedding matrix [V, D], float32.
        targets: [B, T] ids; padding is ignored.
        smoothing: eps_ls in the paper, in [0, 1).

    Returns:
        (sum, count), float32 scalars.
    """
    return _chunked_loss(x, table, targets, smoothing), (targets != PAD).sum().astype(jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _chunked_loss(x: Array, table: Array, targets: Array, smoothing: float) -> Array:
    table = table.astype(x.dtype)

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _loss(chunk[0], table, chunk[1], smoothing), None

    return jax.lax.scan(add, jnp.zeros(()), _chunks(x, targets))[0]


def _forward(x: Array, table: Array, targets: Array, smoothing: float) -> tuple[Array, tuple[Array, Array]]:
    """Computes loss and gradient together, while a chunk's logits exist; the backward pass only scales the gradient.

    The table's gradient is accumulated separately for each group of rows on different devices, [G, V, D], so that its
    84 MB are all-reduced once, and not once per chunk.
    """
    low, groups = table.astype(x.dtype), row_groups()

    def of_group(x: Array, targets: Array) -> tuple[Array, Array, Array]:
        loss, pull_back = jax.vjp(lambda x, table: _loss(x, table, targets, smoothing), x, low)
        return loss, *pull_back(jnp.ones(()))

    def add(total: tuple[Array, Array], chunk: tuple[Array, Array]) -> tuple[tuple[Array, Array], Array]:
        loss, dx, dtable = jax.vmap(of_group)(*(rows.reshape(groups, -1, *rows.shape[1:]) for rows in chunk))
        return (total[0] + loss, total[1] + dtable), dx.reshape(chunk[0].shape)

    zero = jnp.zeros(groups), jnp.zeros((groups, *table.shape))
    (loss, dtable), dx = jax.lax.scan(add, zero, _chunks(x, targets))
    return loss.sum(), (dx.swapaxes(0, 1).reshape(x.shape), dtable.sum(0).astype(table.dtype))


def _backward(smoothing: float, gradients: tuple[Array, Array], scale: Array) -> tuple[Array, Array, None]:
    dx, dtable = gradients
    return (dx * scale).astype(dx.dtype), (dtable * scale).astype(dtable.dtype), None


_chunked_loss.defvjp(_forward, _backward)


def _loss(x: Array, table: Array, targets: Array, smoothing: float) -> Array:
    return cross_entropy(einsum("BTD,VD->BTV", x, table), targets, smoothing)[0]


def _chunks(x: Array, targets: Array) -> tuple[Array, Array]:
    """Splits along T: [B, T, D] and [B, T] -> [n, B, T / n, D] and [n, B, T / n].

    The split is along positions, not rows, because rows are sharded across devices.
    """
    B, T, D = x.shape
    limit = _TOKENS_ON_CPU if jax.default_backend() == "cpu" else _TOKENS
    n = next(n for n in range(1, T + 1) if T % n == 0 and (n == T or B * T // n <= limit))
    return x.reshape(B, n, T // n, D).swapaxes(0, 1), targets.reshape(B, n, T // n).swapaxes(0, 1)
