"""Focal loss (Lin et al., 2017): the cross-entropy, with less weight on tokens that are predicted well already."""

import jax
import jax.numpy as jnp

from transformer.config import PAD
from transformer.train import LOSSES

GAMMA = 2.0


def focal_loss(model, batch, key, experiment):
    """Sum over the target tokens of -(1 - p)^GAMMA log p, where p is the probability of the token."""
    logits = model(batch["source"], batch["target"], key).astype(jnp.float32)
    target = model.predicted(batch["target"])
    log_p = jnp.take_along_axis(jax.nn.log_softmax(logits), target[..., None], axis=-1)[..., 0]
    real = target != PAD
    return jnp.where(real, -((1 - jnp.exp(log_p)) ** GAMMA) * log_p, 0.0).sum(), real.sum().astype(jnp.float32)


LOSSES["focal"] = focal_loss
