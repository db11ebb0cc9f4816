"""Section 5.3: the Adam optimizer and the learning rate schedule."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from transformer.config import Experiment
from transformer.registry import Registry
from transformer.variants.finetuning import has_frozen, trained


def inverse_sqrt(step: ArrayLike, experiment: Experiment) -> Array:
    """Equation 3: d_model^-0.5 * min(step^-0.5, step * warmup^-1.5), times optimizer.scale. Steps count from 1."""
    config, step = experiment.optimizer, jnp.asarray(step, jnp.float32)
    return config.scale * experiment.model.d_model**-0.5 * jnp.minimum(step**-0.5, step * config.warmup_steps**-1.5)


def adam(experiment: Experiment) -> optax.GradientTransformation:
    """The paper's Adam, with the beta 1, beta 2 and epsilon of the experiment."""
    config = experiment.optimizer
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


SCHEDULES: Registry[Callable[[ArrayLike, Experiment], Array]] = Registry(
    "optimizer.schedule", {"inverse_sqrt": inverse_sqrt}
)
"""Learning rate schedules by name: functions (step, experiment) -> learning rate. Steps count from 1."""

OPTIMIZERS: Registry[Callable[[Experiment], optax.GradientTransformation]] = Registry("optimizer.name", {"adam": adam})
"""Optimizers by name: functions experiment -> optax transformation. Its updates must not include the learning rate:
the training step multiplies them by the learning rate, so that the schedule is a function of the step number alone.
One that multiplies matrices has an attribute `flops`, a function parameters -> FLOPs of an update."""


def learning_rate(step: ArrayLike, experiment: Experiment) -> Array:
    """Learning rate of a step (counted from 1) under the experiment's schedule."""
    return SCHEDULES.find(experiment.optimizer.schedule)(step, experiment)


def make_optimizer(experiment: Experiment) -> optax.GradientTransformation:
    """Builds the experiment's optimizer, with gradient clipping and weight decay if they are on.

    Frozen parameters (transformer/variants/finetuning.py) have no state in it, and their update is 0.
    """
    config, optimizer = experiment.optimizer, OPTIMIZERS.find(experiment.optimizer.name)(experiment)
    if config.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)
    if config.weight_decay:
        optimizer = optax.chain(optimizer, optax.add_decayed_weights(config.weight_decay, is_decayed))
    if not has_frozen(experiment):
        return optimizer
    return optax.partition({True: optimizer, False: optax.set_to_zero()}, partial(trained, experiment))


def is_decayed(params: Any) -> Any:
    """Which parameters weight decay applies to: not to biases and scales."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)
