"""Table 1: the cost of a layer by the paper's formulas, next to counts and measurements.

The four kinds of layer, and two that came after the paper, have their simplest form, from [n, d] to [n, d]. Counted in
the traced program: the multiplications of its matrix products, and the number of its sequential operations. Found by
derivatives: the number of layers until the last position depends on the first. Measured: seconds, with a fit of their
growth with n.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.evaluation.records import origin, write_record
from transformer.attention import ATTENTIONS, AttentionContext, scaled_dot_product_attention
from transformer.config import ModelConfig
from transformer.initializers import rngs_of
from transformer.segments import Segments
from transformer.variants.long.linear import CHUNK, feature_map, in_chunks
from transformer.variants.long.restricted import RestrictedAttention, Row

K = 3  # kernel width of the convolution
R = 32  # neighbourhood of restricted attention
LENGTHS = (64, 128, 256, 512, 1024, 2048)

Layer = Callable[[Array, Array], Array]


def self_attention(x: Array, w: Array) -> Array:
    """Self-attention of x [n, d], with one head as wide as the model."""
    head = x[None, None]  # [B, N, T, H] with one sentence and one head
    return scaled_dot_product_attention(head, head.swapaxes(2, 3), head, jnp.ones((1, 1, 1, len(x)), bool))[0][0, 0]


def recurrent(x: Array, w: Array) -> Array:
    """h_t = tanh(W h_{t-1} + x_t)."""

    def step(h: Array, x_t: Array) -> tuple[Array, Array]:
        h = jnp.tanh(h @ w[0] + x_t)
        return h, h

    return jax.lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def convolutional(x: Array, w: Array, dilation: int = 1) -> Array:
    """A causal convolution of K positions, as a decoder needs it."""
    padding = ((dilation * (K - 1), 0),)
    dimensions = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x[None], w, (1,), padding, (), (dilation,), dimensions)[0]


def in_blocks(name: str) -> Layer:
    """One of the attentions of transformer/variants/long, with one head as wide as the model. R is its window.

    Each position attends to itself and to positions before it, as in the decoder.
    """
    config = ModelConfig(d_model=1, num_heads=1, d_k=1, d_v=1, attention=name, attention_window=R)

    def layer(x: Array, w: Array) -> Array:
        attention = ATTENTIONS.find(name)(config, rngs=rngs_of(0))
        assert isinstance(attention, RestrictedAttention)
        head = x[None, None]
        context = AttentionContext(jnp.array(True), tokens=one_sentence(len(x)), causal=True)
        return attention.attend_in_blocks(head, head.swapaxes(2, 3), head, context)[0, 0]

    return layer


def linear(x: Array, w: Array) -> Array:
    """Linear attention to itself and to the positions before it, with one head as wide as the model."""
    features = feature_map(x)[None, :, None]
    return in_chunks(features, Row(features, x[None, :, None], *one_sentence(len(x))), causal=True)[0, :, 0]


def one_sentence(n: int) -> Segments:
    """A row of n positions that are one sentence."""
    return Segments(jnp.ones((1, n), jnp.int32), jnp.arange(n)[None])


class Kind(NamedTuple):
    """A row of Table 1: the paper's three columns as text, and the first also as a function of (n, d)."""

    name: str
    layer: Layer
    cost: str
    multiplications: Callable[[int, int], float]
    """The leading term, with the constant factor of the layer above."""
    sequential: str
    path: str


KINDS = (
    Kind("Self-attention", self_attention, "O(n^2 d)", lambda n, d: 2 * n * n * d, "O(1)", "O(1)"),
    Kind("Recurrent", recurrent, "O(n d^2)", lambda n, d: n * d * d, "O(n)", "O(n)"),
    Kind("Convolutional", convolutional, "O(k n d^2)", lambda n, d: K * n * d * d, "O(1)", "O(log_k(n))"),
    Kind(
        "Self-attention (restricted)", in_blocks("restricted"), "O(r n d)", lambda n, d: 3 * R * n * d, "O(1)", "O(n/r)"
    ),
)
LATER = (
    Kind(
        "Self-attention (sparse)", in_blocks("sparse"), "O((r + n/r) n d)",
        lambda n, d: (3 * R + 4 * n / R) * n * d, "O(1)", "O(1)",
    ),
    Kind(
        "Self-attention (linear)", linear, "O(n d^2)",
        lambda n, d: CHUNK * n * (2 * d + 1) + 2 * n * d * (d + 1), "O(n)", "O(1)",
    ),
)  # fmt: skip
"""Kinds of transformer/variants/long that the paper does not have, in the form of Table 1."""


def table1_record(results: Path) -> Path:
    """Returns the path of the record with the measurements."""
    return results / "table1" / "measured.json"


def fill_table1(results: Path, log: Callable[[str], None], lengths: Sequence[int] = LENGTHS, d: int = 512) -> None:
    """Counts and measures every kind of layer at these lengths and width, unless a record exists already."""
    if table1_record(results).exists():
        return
    rows = []
    for kind in (*KINDS, *LATER):
        log(f"--- {kind.name}")
        counted = [count(kind.layer, n, d) for n in lengths]
        seconds = [seconds_of(kind.layer, n, d) for n in lengths]
        rows.append(
            {
                "layer": kind.name,
                "multiplications": [c.multiplications for c in counted],
                "sequential": [c.sequential for c in counted],
                "path": [path_length(kind.layer, n, c.sequential) for n, c in zip(lengths, counted, strict=True)],
                "seconds": seconds,
                "growth": float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0]),
            }
        )
    write_record(table1_record(results), {"lengths": list(lengths), "d": d, "layers": rows} | origin())


class Count(NamedTuple):
    """The cost of a traced program."""

    multiplications: int
    sequential: int
    """Length of the longest chain of loop steps; 1 without a loop."""


def count(layer: Layer, n: int, d: int) -> Count:
    """Counts the operations of a layer by tracing it, without running it."""
    x, w = jax.ShapeDtypeStruct((n, d), jnp.float32), jax.ShapeDtypeStruct((K, d, d), jnp.float32)
    return _count(jax.make_jaxpr(layer)(x, w).jaxpr)


def _count(jaxpr: Any) -> Count:
    multiplications, sequential = 0, 1
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            multiplications += math.prod(out.shape) * math.prod(left[axis] for axis in contracted)
        elif name == "conv_general_dilated":
            multiplications += math.prod(out.shape) * math.prod(equation.invars[1].aval.shape[:-1])
        times = equation.params.get("length", 1) if name == "scan" else 1
        for inner in (value.jaxpr for value in equation.params.values() if hasattr(value, "jaxpr")):
            nested = _count(inner)
            multiplications += times * nested.multiplications
            sequential = max(sequential, times * nested.sequential)
    return Count(multiplications, sequential)


def path_length(layer: Layer, n: int, sequential: int) -> int:
    """Returns the path length of a signal from the first position to the last: number of layers times steps in each.

    A position is reached if its derivative by a reached position is not 0. Convolutions are stacked with dilations 1,
    K, K^2, ..., which gives the paper's logarithm.
    """
    x, step = 0.01 * jax.random.normal(jax.random.key(0), (2, n, 4))
    w = jnp.full((K, 4, 4), 0.25)
    reached, layers = np.arange(n) == 0, 0
    while not reached[-1]:
        stacked = partial(convolutional, dilation=K**layers) if layer is convolutional else layer
        change = jax.jvp(lambda x: stacked(x, w), (x,), (step * reached[:, None],))[1]  # noqa: B023 - called here
        reached = np.asarray(change != 0).any(axis=1)
        layers += 1
    return layers * sequential


def seconds_of(layer: Layer, n: int, d: int, repeats: int = 5) -> float:
    """Returns the median time of the compiled layer in seconds."""
    x = jax.random.normal(jax.random.key(0), (n, d), jnp.float32)
    w = jax.random.normal(jax.random.key(1), (K, d, d), jnp.float32) / d**0.5
    compiled = jax.jit(layer).lower(x, w).compile()
    compiled(x, w).block_until_ready()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        compiled(x, w).block_until_ready()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
