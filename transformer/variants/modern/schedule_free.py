"""Schedule-free Adam (Defazio et al., 2024, "The Road Less Scheduled").

In place of a rate that decays, the parameters x are an average of the iterates z of Adam without momentum. Gradients
are computed at y = (1 - b1) z + b1 x. Use the schedule "constant", which has no end: train.steps can be any number.

The parameters of the train state are y. So these, not x, are what is validated and saved.
"""

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from transformer.config import Experiment, UserError
from transformer.optimizer import OPTIMIZERS, SCHEDULES, inverse_sqrt, learning_rate
from transformer.parameters import Params


def constant(step: ArrayLike, experiment: Experiment) -> Array:
    """The paper's warmup to its largest rate, which stays."""
    return inverse_sqrt(jnp.minimum(step, experiment.optimizer.warmup_steps), experiment)


def schedule_free(experiment: Experiment) -> optax.GradientTransformation:
    """Schedule-free Adam: z moves by Adam without momentum, and x is the average of all z, weighted by rate^2."""
    config = experiment.optimizer
    if not config.b1:
        raise UserError("optimizer.name schedule_free needs an optimizer.b1 above 0, the share of the average in y")
    if config.weight_decay:  # it would be subtracted from y, but z would not decay
        raise UserError("optimizer.name schedule_free has no optimizer.weight_decay: set it to 0")

    def rate(count: Array) -> Array:
        """Learning rate of a step, counted from 1 in the optimizer state, which counts no skipped steps."""
        return learning_rate(count, experiment)

    adam = optax.chain(  # without momentum, and the array that would hold it
        optax.scale_by_rms(decay=config.b2, eps=config.eps, eps_in_sqrt=False, bias_correction=True),
        optax.scale_by_schedule(lambda count: -rate(count + 1)),
    )
    inner = optax.contrib.schedule_free(adam, rate, config.b1)

    def update(
        grads: Params, state: optax.OptState, params: Params | None = None
    ) -> tuple[Params, optax.contrib.ScheduleFreeState]:
        # The training step subtracts the direction times the rate, and the sum of both is what y moves by.
        moved, new = inner.update(grads, state, params)
        now = rate(state.step_count)
        return jax.tree.map(lambda m: -m / now, moved), new

    return optax.GradientTransformation(inner.init, update)


SCHEDULES.build_in({"constant": constant})
OPTIMIZERS.build_in({"schedule_free": schedule_free})
