"""Section 5.3: the learning-rate schedule and the paper's Adam."""

from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from transformer.config import Experiment
from transformer.registry import Registry


def inverse_sqrt(step: ArrayLike, experiment: Experiment) -> Array:
    """Equation 3, for step = 1, 2, ...: d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), times optimizer.scale."""
    config, step = experiment.optimizer, jnp.asarray(step, jnp.float32)
    return config.scale * experiment.model.d_model**-0.5 * jnp.minimum(step**-0.5, step * config.warmup_steps**-1.5)


def adam(experiment: Experiment) -> optax.GradientTransformation:
    """The paper's, by the experiment's beta 1, beta 2 and epsilon."""
    config = experiment.optimizer
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


SCHEDULES: Registry[Callable[[ArrayLike, Experiment], Array]] = Registry(
    "optimizer.schedule", {"inverse_sqrt": inverse_sqrt}
)
"""(the step from 1 on, an experiment) -> the learning rate."""

OPTIMIZERS: Registry[Callable[[Experiment], optax.GradientTransformation]] = Registry("optimizer.name", {"adam": adam})
"""An experiment -> a direction for each gradient, which the train step multiplies by the learning rate of its own step
number, so that the schedule is a function of the step and of nothing else."""


def learning_rate(step: ArrayLike, experiment: Experiment) -> Array:
    """Of a step = 1, 2, ..., by the experiment's schedule."""
    return SCHEDULES.find(experiment.optimizer.schedule)(step, experiment)


def make_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """The experiment's optimizer."""
    return OPTIMIZERS.find(experiment.optimizer.name)(experiment)
