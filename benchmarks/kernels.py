"""The fused GPU kernels beside the plain operations: the largest difference, and the time forward and backward.

    python -m benchmarks.kernels [--rows 168] [--width 144]

at the sizes of the base model, in bfloat16: the first thing to run on a GPU that has not run them yet. On a CPU the
kernels are interpreted, so that only the differences mean something.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.experimental import pallas as pl

from benchmarks.timing import alone, compiling, record, seconds_each
from transformer.attention import causal_mask, scaled_dot_product_attention
from transformer.config import EOS, ModelConfig
from transformer.dropout import dropout
from transformer.kernels.cross_entropy import cross_entropy_and_gradient
from transformer.kernels.flash_attention import flash_attention
from transformer.kernels.residual import add_and_norm
from transformer.layers import LayerNorm
from transformer.loss import cross_entropy
from transformer.segments import same_sentence, segments

RATE, SMOOTHING, VOCABULARY = 0.1, 0.1, 40_960

Function = Callable[..., Array]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels")
    parser.add_argument("--rows", type=int, default=168)
    parser.add_argument("--width", type=int, default=144)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if jax.default_backend() == "cpu":
        pl.pallas_call = partial(pl.pallas_call, interpret=True)
    found = {}
    for name, make in (("attention", attention), ("add and norm", residual), ("cross-entropy", loss)):
        found[name] = compared(*make(options.rows, options.width, options.vocabulary), options.rounds)
        print(f"{name:14} {found[name]}", flush=True)
    record("kernels", {"rows": options.rows, "width": options.width, "kernels": found})


def compared(kernel: Function, plain: Function, arguments: list[Array], rounds: int) -> dict[str, float]:
    """Milliseconds of both with their gradients, and how far the arrays differ, relative to their largest entries."""
    gradient = jax.random.normal(jax.random.key(9), jax.eval_shape(plain, *arguments).shape)

    def program(function: Function) -> Callable[[], list[Array]]:
        @jax.jit
        def run(gradient: Array, *arguments: Array) -> list[Array]:
            output, pull_back = jax.vjp(function, *arguments)
            return [output, *pull_back(gradient.astype(output.dtype))]

        return lambda: jax.block_until_ready(run(gradient, *arguments))

    programs = {"kernel": program(kernel), "plain": program(plain)}
    with compiling():
        found = [[x.astype(jnp.float32) for x in run()] for run in programs.values()]
    with alone():
        times = seconds_each(programs, rounds)
    differences = [float(jnp.abs(one - other).max() / jnp.abs(other).max()) for one, other in zip(*found, strict=True)]
    return {
        **{f"{name}, ms": round(median(each) * 1e3, 3) for name, each in times.items()},
        "largest difference": max(differences),
    }


def normal(number: int, *shape: int) -> Array:
    """Random bfloat16."""
    return jax.random.normal(jax.random.key(number), shape, jnp.bfloat16)


def attention(rows: int, width: int, vocabulary: int) -> tuple[Function, Function, list[Array]]:
    """Causal attention within packed sentences of 28 tokens."""
    N, K = 8, 64
    ids = jnp.where(jnp.arange(width) % 28 == 27, EOS, EOS + 1)[None].repeat(rows, axis=0)
    found = segments(ids)
    mask = same_sentence(found, found) & causal_mask(width)
    arrays = [normal(0, rows, N, width, K), normal(1, rows, N, K, width), normal(2, rows, N, width, K)]
    return (
        lambda q, k, v: flash_attention(q, k, v, mask),
        lambda q, k, v: scaled_dot_product_attention(q, k, v, mask)[0],
        arrays,
    )


def residual(rows: int, width: int, vocabulary: int) -> tuple[Function, Function, list[Array]]:
    """LayerNorm(x + Dropout(update))."""
    config, key = ModelConfig(dtype="bfloat16"), jax.random.key(3)
    norm = LayerNorm(config, rngs=nnx.Rngs(0))
    graph, D = nnx.graphdef(norm), config.d_model

    def plain(x: Array, update: Array, scale: Array, bias: Array) -> Array:
        return nnx.merge(graph, {"scale": scale, "bias": bias})(x + dropout(update, RATE, key))

    arrays = [normal(0, rows, width, D), normal(1, rows, width, D), jnp.ones(D), jnp.zeros(D)]
    return lambda *given: add_and_norm(*given, norm.epsilon, RATE, key), plain, arrays


def loss(rows: int, width: int, vocabulary: int) -> tuple[Function, Function, list[Array]]:
    """The gradient of the logits of a chunk of 8,192 tokens at most."""
    tokens = min(rows * width, 8192)
    targets = jax.random.randint(jax.random.key(4), (1, tokens, 1), 1, vocabulary)

    def plain(logits: Array) -> Array:
        return jax.grad(lambda logits: cross_entropy(logits, targets, SMOOTHING)[0])(logits)

    # The logits enter by a product, since the kernel overwrites them.
    return (
        jax.custom_gradient(lambda x: (cross_entropy_and_gradient(x * 1, targets, SMOOTHING)[1], lambda g: (g,))),
        jax.custom_gradient(lambda x: (plain(x), lambda g: (g,))),
        [3 * normal(5, 1, tokens, 1, vocabulary)],
    )


if __name__ == "__main__":
    main()
