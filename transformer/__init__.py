"""The Transformer of "Attention Is All You Need" (Vaswani et al., 2017) in JAX.

Every docstring and einsum uses the same letters for array dimensions:

    B batch size              S source length           T target length
    N number of heads         K d_k, per-head width of queries and keys
    H d_v, per-head width of values
    D d_model                 F d_ff                    V vocabulary size

A good reading order, with the paper's sections: attention (3.2), positions (3.5), layers (3.1, 3.3),
model (3.1, 3.4), loss (5.4), optimizer (5.3), train (5), decode (6.1).
"""

from transformer.config import Experiment, ModelConfig, UserError
from transformer.model import Transformer

# Add names to registries, so that settings may have them.
from transformer.variants import classifier as classifier
from transformer.variants import long as long
from transformer.variants import mask_predict as mask_predict
from transformer.variants import modern as modern

__all__ = ["Experiment", "ModelConfig", "Transformer", "UserError"]
