"""R-Drop (Liang et al., 2021): two passes with different dropout, and a penalty on how far their predictions differ."""

import jax
import jax.numpy as jnp

from transformer.config import PAD
from transformer.loss import cross_entropy
from transformer.train import LOSSES

WEIGHT = 5.0


def r_drop(model, batch, key, experiment):
    """Half the sum of both label-smoothed losses, plus a quarter of WEIGHT times both KL divergences."""
    keys = (None, None) if key is None else jax.random.split(key)
    source, target = batch["source"], batch["target"]
    one, two = (model(source, target, each).astype(jnp.float32) for each in keys)
    target = model.predicted(target)
    smoothing = experiment.train.label_smoothing
    (first, count), (second, _) = (cross_entropy(logits, target, smoothing) for logits in (one, two))
    p, q = jax.nn.log_softmax(one), jax.nn.log_softmax(two)
    both_ways = ((jnp.exp(p) - jnp.exp(q)) * (p - q)).sum(axis=-1)
    return (first + second) / 2 + WEIGHT / 4 * jnp.where(target != PAD, both_ways, 0.0).sum(), count


LOSSES["r_drop"] = r_drop
