"""Warmup-stable-decay (Hu et al., 2024, "MiniCPM"; Hägele et al., 2024, "Scaling Laws and Compute-Optimal Training
Beyond Fixed Training Durations").

Most of a run has the same learning rate, so that it can be continued for any number of steps from a checkpoint of that
time, and only the end of each run decays.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from transformer.config import Experiment
from transformer.optimizer import SCHEDULES, inverse_sqrt

DECAY = 0.4
"""Share of train.steps in which the rate decays. Hägele et al. find little gain from more than 0.2 in long runs; the
runs here are short."""


def wsd(step: ArrayLike, experiment: Experiment) -> Array:
    """The paper's warmup to its largest rate, which stays, and decays linearly to zero in the last 0.4 of all steps.

    Steps count from 1, and zero would be the rate after the last step. The decay never begins before the warmup ends.
    """
    steps, warmup = experiment.train.steps, experiment.optimizer.warmup_steps
    decay = max(min(round(DECAY * steps), steps - warmup), 0)
    rest = (steps + 1 - jnp.asarray(step, jnp.float32)) / (decay + 1)
    return inverse_sqrt(jnp.minimum(step, warmup), experiment) * jnp.clip(rest, 0.0, 1.0)


SCHEDULES.build_in({"wsd": wsd})
