"""AdamW (Loshchilov and Hutter, 2019): Adam with weight decay, applied to matrices but not to vectors."""

import jax
import optax

from transformer.optimizer import OPTIMIZERS, adam

DECAY = 0.01


def adamw(experiment):
    decay = optax.add_decayed_weights(DECAY, mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params))
    return optax.chain(adam(experiment), decay)


OPTIMIZERS["adamw"] = adamw
