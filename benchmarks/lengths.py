"""Time and memory of one self-attention, forward and backward, by sequence length, for every kind of attention.

    python -m benchmarks.lengths [--longest 32768] [--target h100]

Each measurement has 8,192 tokens or one sequence, of 64 to 32,768 tokens, with 8 heads of width 64, causal, in bfloat16
on an accelerator and float32 on a CPU. The neighbourhood of restricted and sparse attention has 256 tokens. With a
target, the programs are compiled for it and not run: memory is exact, and time is a prediction (benchmarks.roofline).
"""

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from benchmarks.timing import RESULTS, device_name, record, report_skipped, seconds_each
from experiments.evaluation.records import origin, write_record
from experiments.inspection.figures import draw_growth
from experiments.planning.accelerators import Accelerator, find_target
from experiments.planning.cross_compile import devices_of, tracing_on
from experiments.planning.hlo import Program
from experiments.planning.on_target import network_of, step_seconds
from transformer.attention import ATTENTIONS, AttentionContext, causal_mask
from transformer.config import ModelConfig
from transformer.segments import Segments

TOKENS, N, K = 8192, 8, 64
ON_A_CPU = 8e9
"""Bytes that a program may need on a CPU: machines with 16 GB should not swap."""

Kernel = Callable[[Array, Array, Array], Array]


def ours(queries: Array, keys: Array, values: Array, name: str) -> Array:
    """The attention that model.attention = `name` selects, without its projections."""
    B, S = queries.shape[:2]
    config = ModelConfig(d_model=K, num_heads=N, d_k=K, d_v=K, attention=name)
    attention = nnx.eval_shape(lambda: ATTENTIONS.find(name)(config, rngs=nnx.Rngs(0)))
    position = jnp.broadcast_to(jnp.arange(S), (B, S))
    tokens = Segments(jnp.ones_like(position), position)
    context = AttentionContext(causal_mask(S), positions=(position, position), tokens=tokens, causal=True)
    queries, values, keys = queries.swapaxes(1, 2), values.swapaxes(1, 2), keys.transpose(0, 2, 3, 1)
    return attention.attend(queries, keys, values, context)[0].swapaxes(1, 2)


def kernels(platform: str, runs: bool = True) -> dict[str, Kernel]:
    """The available kernels by name: functions of queries, keys and values [B, S, N, K] -> [B, S, N, K].

    The time of cuDNN's, of which a program says only that it calls it, cannot be predicted.
    """
    jax_nn = partial(jax.nn.dot_product_attention, is_causal=True)
    found: dict[str, Kernel] = {
        name: partial(ours, name=name) for name in ("softmax", "restricted", "sparse", "linear")
    }
    found["jax.nn, xla"] = partial(jax_nn, implementation="xla")
    if platform == "gpu" and runs:
        found["jax.nn, cudnn"] = partial(jax_nn, implementation="cudnn")
    return found


def forward_backward(kernel: Kernel, queries: Array, keys: Array, values: Array, gradient: Array) -> tuple[Array, ...]:
    """The output, and the gradients of queries, keys and values."""
    output, pull_back = jax.vjp(kernel, queries, keys, values)
    return output, *pull_back(gradient)


def compiled(kernel: Kernel, shape: tuple[int, ...], dtype: Any, target: Accelerator | None) -> Any:
    """Compiles `forward_backward` for arrays of this shape, for this machine or for a target."""
    program = jax.jit(partial(forward_backward, kernel))
    if target is None:
        return program.lower(*[jax.ShapeDtypeStruct(shape, dtype)] * 4).compile()
    device = jax.sharding.SingleDeviceSharding(devices_of(target, 1)[0])
    with tracing_on(target):
        return program.lower(*[jax.ShapeDtypeStruct(shape, dtype, sharding=device)] * 4).compile()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lengths")
    parser.add_argument("--longest", type=int, default=32_768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--target")
    options = parser.parse_args()
    target = find_target(options.target)[0] if options.target else None
    platform = {"cuda": "gpu", "tpu": "tpu"}[target.platform] if target else jax.default_backend()
    dtype = jnp.float32 if platform == "cpu" else jnp.bfloat16
    lengths = [64 * 2**i for i in range(10) if 64 * 2**i <= options.longest]
    seconds: dict[str, list[float | None]] = {name: [] for name in kernels(platform, not target)}
    memory: dict[str, list[float | None]] = {name: [] for name in kernels(platform, not target)}
    for S in lengths:
        tokens = max(TOKENS, S)
        shape = (tokens // S, S, N, K)
        programs: dict[str, Callable[[], Any]] = {}
        times: dict[str, float] = {}
        for name, kernel in kernels(platform, not target).items():
            needed = None
            try:
                program = compiled(kernel, shape, dtype, target)
                needed = program.memory_analysis().temp_size_in_bytes / tokens
                if target:
                    steps = Program(program.as_text()).kernels()
                    times[name] = step_seconds(steps, network_of(steps, target), target)
                elif platform == "cpu" and needed * tokens > ON_A_CPU:
                    raise MemoryError(f"{needed * tokens / 1e9:.0f} GB")
                else:
                    arrays = [jax.random.normal(jax.random.key(i), shape).astype(dtype) for i in range(4)]
                    jax.block_until_ready(program(*arrays))
                    programs[name] = partial(run, program, arrays)
            except Exception as error:
                report_skipped(f"{name} at {S}", error)
            memory[name].append(needed)
        times |= {name: median(each) for name, each in seconds_each(programs, options.rounds, warm_up=1).items()}
        for name in seconds:
            seconds[name].append(times[name] / tokens if name in times else None)
            print(f"{S:6} {name:14} {line_of(seconds[name][-1], memory[name][-1])}", flush=True)
    facts = {"lengths": lengths, "tokens": TOKENS, "heads": N, "width": K, "dtype": jnp.dtype(dtype).name,
             "seconds_per_token": seconds, "bytes_per_token": memory}  # fmt: skip
    if target:
        path = RESULTS / f"lengths-{target.name}.json"
        write_record(path, {"benchmark": "lengths-predicted", "target": target.label, **facts, **origin()})
    else:
        record("lengths", facts)
    where = f"{target.label}, predicted" if target else device_name()
    for what, curves, unit in (("time", seconds, "seconds per token"), ("memory", memory, "bytes per token")):
        path = RESULTS / f"lengths-{what}-{target.name if target else device_name()}.png"
        draw_growth(lengths, curves, f"One attention, forward and backward, {where}: {what}", path, unit)


def run(program: Any, arrays: list[Array]) -> None:
    """Runs a compiled program until the device has finished."""
    jax.block_until_ready(program(*arrays))


def line_of(seconds: float | None, memory: float | None) -> str:
    """The two figures of a kernel, as they are printed."""
    time = "-" if seconds is None else f"{1e6 * seconds:.2f} us"
    return f"{time:>12} a token  " + ("-" if memory is None else f"{memory / 1e3:.1f} kB a token")


if __name__ == "__main__":
    main()
