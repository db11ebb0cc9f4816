"""Section 5.4: label-smoothed cross-entropy."""

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import PAD


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
