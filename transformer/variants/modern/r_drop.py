"""R-Drop (Liang et al., 2021, "R-Drop: Regularized Dropout for Neural Networks").

Each batch passes through the model twice, with different dropout, and the loss has a penalty on how far the predictions
of both passes differ. It computes all logits at a time, which takes more memory than the paper's loss.
"""

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import PAD, Experiment
from transformer.loss import cross_entropy
from transformer.model import Transformer
from transformer.train import LOSSES, Batch

WEIGHT = 5.0
"""Weight of the penalty: alpha, which is 5 for translation in the paper on it."""


def r_drop(model: Transformer, batch: Batch, key: Array | None, experiment: Experiment) -> tuple[Array, Array]:
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


r_drop.passes = 2  # type: ignore[attr-defined]
LOSSES.build_in({"r_drop": r_drop})
