"""Gated feed-forward network (Shazeer, 2020): FFN(x) = (activation(x W_1) * x V) W_2.

With model.activation = "swish" it is SwiGLU, with "gelu" GEGLU; the paper on it leaves out the biases.
"""

from transformer.layers import FEED_FORWARDS, FeedForward, make_linear


class GatedFeedForward(FeedForward):
    def __init__(self, config, *, rngs):
        super().__init__(config, rngs=rngs)
        self.gate = make_linear(config, config.d_model, config.d_ff, rngs=rngs)

    def hidden(self, x):
        return super().hidden(x) * self.gate(x)


FEED_FORWARDS["gated"] = GatedFeedForward
