"""Section 5.3: the learning-rate schedule and the paper's Adam."""

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from transformer.config import OptimizerConfig


def learning_rate(step: ArrayLike, config: OptimizerConfig, d_model: int) -> Array:
    """Equation 3, for step = 1, 2, ...: d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), times config.scale."""
    step = jnp.asarray(step, jnp.float32)
    return config.scale * d_model**-0.5 * jnp.minimum(step**-0.5, step * config.warmup_steps**-1.5)


def adam(config: OptimizerConfig) -> optax.GradientTransformation:
    """Adam's direction for a gradient. The train step multiplies it by the learning rate of its own step
    number, so that the schedule is a function of the step and of nothing else."""
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
