"""Maxout (Goodfellow et al., 2013): the larger of two linear functions in place of an activation."""

import jax.numpy as jnp

from transformer.layers import FEED_FORWARDS, FeedForward, make_linear


class Maxout(FeedForward):
    def __init__(self, config, *, rngs):
        super().__init__(config, rngs=rngs)
        self.other = make_linear(config, config.d_model, config.d_ff, rngs=rngs)

    def hidden(self, x):
        return jnp.maximum(self.inner(x), self.other(x))


FEED_FORWARDS["maxout"] = Maxout
