"""Cosine schedule: the paper's warmup, and then a cosine decay to zero at the last step."""

import jax.numpy as jnp

from transformer.optimizer import SCHEDULES


def cosine(step, experiment):
    config, steps = experiment.optimizer, experiment.train.steps
    peak = config.scale * (experiment.model.d_model * config.warmup_steps) ** -0.5  # the same as in the paper
    rest = jnp.clip((step - config.warmup_steps) / max(steps - config.warmup_steps, 1), 0, 1)
    return peak * jnp.minimum(step / config.warmup_steps, (1 + jnp.cos(jnp.pi * rest)) / 2)


SCHEDULES["cosine"] = cosine
