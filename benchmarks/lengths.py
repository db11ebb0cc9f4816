"""Time and memory of one attention layer, forward and backward, by sequence length, for every available kernel.

    python -m benchmarks.lengths [--longest 8192]

Each measurement has 8,192 tokens, in sequences of 64 to 8,192, with 8 heads of width 64 and a causal mask, in bfloat16
on an accelerator and float32 on a CPU.
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

import jax
import jax.numpy as jnp
from jax import Array

from benchmarks.timing import RESULTS, device_name, record, report_skipped, seconds_each
from experiments.inspection.figures import draw_growth
from transformer.attention import causal_mask, scaled_dot_product_attention
from transformer.kernels.flash_attention import flash_attention

TOKENS, N, K = 8192, 8, 64
Kernel = Callable[[Array, Array, Array], Array]


def ours(queries: Array, keys: Array, values: Array, fused: bool = False) -> Array:
    """The attention of transformer/attention.py or, fused, of transformer/kernels/flash_attention.py."""
    mask = causal_mask(queries.shape[1])
    queries, values, keys = queries.swapaxes(1, 2), values.swapaxes(1, 2), keys.transpose(0, 2, 3, 1)
    if fused:
        return flash_attention(queries, keys, values, mask).swapaxes(1, 2)
    return scaled_dot_product_attention(queries, keys, values, mask)[0].swapaxes(1, 2)


def kernels() -> dict[str, Kernel]:
    """The available kernels by name: functions of queries, keys and values [B, S, N, K] -> [B, S, N, K]."""
    jax_nn = partial(jax.nn.dot_product_attention, is_causal=True)
    found: dict[str, Kernel] = {"ours": ours, "jax.nn, xla": partial(jax_nn, implementation="xla")}
    if jax.default_backend() == "gpu":
        found["jax.nn, cudnn"] = partial(jax_nn, implementation="cudnn")
        found["ours, kernel"] = partial(ours, fused=True)
    return found


def forward_backward(kernel: Kernel, queries: Array, keys: Array, values: Array, gradient: Array) -> tuple[Array, ...]:
    """The output, and the gradients of queries, keys and values."""
    output, pull_back = jax.vjp(kernel, queries, keys, values)
    return output, *pull_back(gradient)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths")
    parser.add_argument("--longest", type=int, default=TOKENS)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    lengths = [64 * 2**i for i in range(8) if 64 * 2**i <= options.longest]
    seconds: dict[str, list[float | None]] = {name: [] for name in kernels()}
    memory: dict[str, list[float | None]] = {name: [] for name in kernels()}
    for S in lengths:
        shape = (TOKENS // S, S, N, K)
        arrays = [jax.random.normal(jax.random.key(i), shape).astype(dtype) for i in range(4)]
        programs = {}
        for name, kernel in kernels().items():
            try:
                compiled = jax.jit(partial(forward_backward, kernel)).lower(*arrays).compile()
                jax.block_until_ready(compiled(*arrays))
            except Exception as error:
                report_skipped(f"{name} at {S}", error)
                memory[name].append(None)
                continue
            memory[name].append(compiled.memory_analysis().temp_size_in_bytes / TOKENS)
            programs[name] = lambda compiled=compiled, arrays=arrays: jax.block_until_ready(compiled(*arrays))
        times = seconds_each(programs, options.rounds, warm_up=1)
        for name in seconds:
            seconds[name].append(median(times[name]) / TOKENS if name in times else None)
    record(
        "lengths",
        {"lengths": lengths, "tokens": TOKENS, "heads": N, "width": K, "dtype": jnp.dtype(dtype).name,
         "seconds_per_token": seconds, "bytes_per_token": memory},
    )  # fmt: skip
    for what, curves, unit in (("time", seconds, "seconds per token"), ("memory", memory, "bytes per token")):
        path = RESULTS / f"lengths-{what}-{device_name()}.png"
        draw_growth(lengths, curves, f"One attention, forward and backward: {what}", path, unit)


if __name__ == "__main__":
    main()
