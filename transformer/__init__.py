"""The Transformer of "Attention Is All You Need" (Vaswani et al., 2017) in JAX.

One shape alphabet, used in every docstring and einsum:

    B batch   S source length   T target length   N heads   K width of a head's queries and keys
    H width of a head's values   D d_model   F d_ff   V vocabulary

Read in the paper's order: attention (3.2), positions (3.5), layers (3.1, 3.3), model (3.1, 3.4),
loss (5.4), optimizer (5.3), train (5), decode (6.1).
"""

from transformer.config import Experiment, ModelConfig, UserError
from transformer.model import Transformer

__all__ = ["Experiment", "ModelConfig", "Transformer", "UserError"]
