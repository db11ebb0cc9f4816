"""The model's methods, compiled; without jit, each of their operations would be compiled separately.

The model is an argument, so two models of the same configuration share the compiled code.
"""

import jax

from transformer import decode as decoding
from transformer.model import Transformer

forward = jax.jit(Transformer.__call__)
encode = jax.jit(Transformer.encode)
decode = jax.jit(Transformer.decode)
step = jax.jit(Transformer.step)
start_cache = jax.jit(Transformer.start_cache, static_argnames=("beam", "length"))
attention_weights = jax.jit(Transformer.attention_weights)
beam_search = jax.jit(decoding.beam_search, static_argnames=("beam", "alpha", "extra_length", "best"))
greedy_search = jax.jit(decoding.greedy_search, static_argnames=("alpha", "extra_length"))
token_log_probs = jax.jit(decoding.token_log_probs)
