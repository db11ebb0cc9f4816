"""Section 5.4: label-smoothed cross-entropy."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import PAD
from transformer.mesh import row_groups
from transformer.products import product

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


def least_loss(smoothing: float, vocabulary: int) -> float:
    """What no label-smoothed loss goes below, in nats per token: the entropy of the smoothed target."""
    if not smoothing:
        return 0.0
    return -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(smoothing / (vocabulary - 1))


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
    table = table.astype(x.dtype)

    def add(total: Array, chunk: tuple[Array, Array]) -> tuple[Array, None]:
        return total + _loss(chunk[0], table, chunk[1], smoothing), None

    return jax.lax.scan(add, jnp.zeros(()), _chunks(x, targets))[0]


def _forward(x: Array, table: Array, targets: Array, smoothing: float) -> tuple[Array, tuple[Array, Array]]:
    """The gradient is made here, while a chunk's logits are there, and only scaled on the way back.

    Devices that share the rows have a sum of the table's gradient each, [G, V, D], so that these 84 MB go between them
    once, and not once for each chunk.
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
    return cross_entropy(product("BTD,VD->BTV", x, table), targets, smoothing)[0]


def _chunks(x: Array, targets: Array) -> tuple[Array, Array]:
    """[B, T, D] and [B, T] -> [n, B, T / n, D] and [n, B, T / n].

    Positions are cut and not rows: it is rows that devices share among them.
    """
    B, T, D = x.shape
    limit = _TOKENS_ON_CPU if jax.default_backend() == "cpu" else _TOKENS
    n = next(n for n in range(1, T + 1) if T % n == 0 and (n == T or B * T // n <= limit))
    return x.reshape(B, n, T // n, D).swapaxes(0, 1), targets.reshape(B, n, T // n).swapaxes(0, 1)
