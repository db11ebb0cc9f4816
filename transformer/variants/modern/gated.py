"""Gated feed-forward network (Shazeer, 2020, "GLU Variants Improve Transformer").

With model.activation = "swish" it is SwiGLU, with "gelu" GEGLU; the paper on it leaves out the biases. It has three
matrices instead of two: two thirds of d_ff give an equal number of parameters.
"""

from flax import nnx
from jax import Array

from transformer.config import ModelConfig
from transformer.layers import FEED_FORWARDS, FeedForward, make_linear


class GatedFeedForward(FeedForward):
    """FFN(x) = (activation(x W_1 + b_1) * (x V + c)) W_2 + b_2."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.gate = make_linear(config, config.d_model, config.d_ff, rngs=rngs)

    def hidden(self, x: Array) -> Array:
        """The inner layer: [B*T, D] -> [B*T, F]."""
        return super().hidden(x) * self.gate(x)


FEED_FORWARDS.build_in({"gated": GatedFeedForward})
