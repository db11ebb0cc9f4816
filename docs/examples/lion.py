"""Lion (Chen et al., 2023): each parameter moves by the learning rate, in the direction of the sign of its momentum.

It needs a learning rate of a third to a tenth of Adam's.
"""

import optax

from transformer.optimizer import OPTIMIZERS


def lion(experiment):
    return optax.scale_by_lion(b1=0.9, b2=0.99)


OPTIMIZERS["lion"] = lion
