"""The roofline of a training step on an accelerator that need not be there: where its time goes, part by part.

    python -m benchmarks.roofline base --target h100
    python -m benchmarks.roofline base --hlo step.hlo.txt.xz --measured profile.json

compiles the step for the target (JAX's plugin for it has to be installed: docs/scaling.md), and prints what each part
of the paper moves and computes, the operations that take longest with the line of source that made each, and the
predicted time of a step. A prediction: benchmarks/NOTES.md says how good it is.
"""

import argparse
import json
import lzma
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.train import SIZES
from data.batching import Shape
from experiments.planning.accelerators import Accelerator, find_target
from experiments.planning.cross_compile import compile_for
from experiments.planning.hlo import Kernel, Program
from experiments.planning.on_target import network_of, step_seconds
from experiments.planning.roofline import by_part, cost_of, direction_of, line_of, part_of, seconds_of
from experiments.training.memory import memory_of
from transformer.config import UserError
from transformer.flops import train_flops

TOP = 20


def main() -> None:
    """Prints the roofline."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline")
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--target", default="h100", help="device, and how many: h100, 8xh100, h200, a100, v5e-8")
    parser.add_argument("--rows", type=int, default=168, help="rows of the batch, on all devices together")
    parser.add_argument("--width", type=int, default=144, help="token slots of a row, on each side")
    parser.add_argument("--fill", type=float, default=0.957, help="fraction of the target's slots that hold a token")
    parser.add_argument("--hlo", type=Path, help="read a compiled program's text (.xz is decompressed), do not compile")
    parser.add_argument("--save", type=Path, help="where to write the compiled program's text")
    parser.add_argument("--measured", type=Path, help="a profile of `benchmarks.train --profile`, to print its times")
    settings = parser.parse_args()
    target, count = find_target(settings.target)
    experiment, memory = SIZES[settings.size], None
    experiment = replace(experiment, model=replace(experiment.model, dtype="bfloat16"))
    if settings.hlo:
        text = read_text(settings.hlo)
    else:
        compiled = compile_for(experiment, Shape(settings.rows, settings.width, settings.width), target, count)
        text, memory = compiled.as_text(), memory_of(compiled)
    if settings.save:
        settings.save.write_text(text, encoding="utf-8")
    kernels = Program(text).kernels()
    measured = read_profile(settings.measured) if settings.measured else {}
    print_parts(kernels, target)
    print_top(kernels, target, measured)
    flops = settings.rows * train_flops(experiment.model, settings.width, settings.width) / count
    print_step(kernels, target, settings.rows * settings.width * settings.fill, flops, count, memory)


def print_parts(kernels: list[Kernel], target: Accelerator) -> None:
    """A line for each part and direction."""
    print(f"{'part':18} {'direction':9} {'kernels':>7} {'GB':>7} {'TFLOP':>7} {'ms':>7}")
    for (part, direction), cost in by_part(kernels, target).items():
        print(
            f"{part:18} {direction:9} {cost.kernels:7,} {cost.bytes / 1e9:7.2f} {cost.flops / 1e12:7.2f} "
            f"{cost.seconds * 1e3:7.2f}"
        )


def print_top(kernels: list[Kernel], target: Accelerator, measured: dict[str, float]) -> None:
    """The kernels that take longest, or those that a profile names."""
    print(f"\n{'ms':>7} {'measured':>9} {'MB':>7} {'GFLOP':>6} {'times':>5}  part, operation, line")
    longest = sorted(kernels, key=lambda kernel: -seconds_of(kernel, target))
    for kernel in longest[:TOP]:
        real = f"{measured[kernel.name]:9.3f}" if kernel.name in measured else " " * 9
        print(
            f"{seconds_of(kernel, target) * 1e3:7.3f} {real} {kernel.bytes / 1e6:7,.0f} {kernel.flops / 1e9:6,.0f} "
            f"{kernel.times:5}  {part_of(kernel)} {direction_of(kernel)}, {kernel.name}, {line_of(kernel)}"
        )


def print_step(
    kernels: list[Kernel], target: Accelerator, tokens: float, flops: float, count: int, memory: int | None
) -> None:
    """The whole step, where the model itself needs so many operations for each device."""
    cost = cost_of(kernels, target)
    seconds = step_seconds(kernels, network_of(kernels, target), target)
    rate = flops / seconds
    print(f"\npredicted step on {count} x {target.label} ({target.measured}):")
    print(f"  {cost.kernels:,} kernels, {cost.bytes / 1e9:.1f} GB, {cost.flops / 1e12:.2f} TFLOP a device")
    print(f"  {seconds * 1e3:.1f} ms, {tokens / seconds:,.0f} target tokens/s")
    share = rate / target.matmul_rate
    print(f"  {rate / 1e12:.0f} TFLOP/s, {share:.0%} of the rate of a large matmul; recomputation not counted")
    if memory is not None:
        print(f"  {memory / 1e9:.2f} GB of memory of {target.usable / 1e9:.0f}, exact")


def read_text(path: Path) -> str:
    """A text file, unpacked if it ends in .xz."""
    try:
        return lzma.decompress(path.read_bytes()).decode() if path.suffix == ".xz" else path.read_text(encoding="utf-8")
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def read_profile(path: Path) -> dict[str, float]:
    """Milliseconds by operation, of a record or a bare profile."""
    try:
        found: Any = json.loads(read_text(path))
        rows = found["profile"] if isinstance(found, dict) else found
        return {row["operation"]: float(row["milliseconds"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no profile of benchmarks.train: {error}") from error


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
