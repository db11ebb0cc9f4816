"""Time from the start of a process to the end of its first training step, with an empty and with a filled compilation
cache.

    python -m benchmarks.startup [SIZE] [--tokens N]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import jax

from benchmarks.timing import record
from benchmarks.train import SIZES
from data.batching import Shape
from experiments.cli.compilation_cache import keep_compiled
from experiments.planning.plan import full_batch
from experiments.training.memory import compile_step
from transformer.parallel import init_on, make_mesh, padded_rows, put_rows


def first_step(size: str, tokens: int) -> None:
    """Everything that `train` does up to the end of its first step, except reading data."""
    keep_compiled()
    experiment = SIZES[size]
    width = experiment.data.max_length
    shape = Shape(max(1, tokens // width), width, width)
    mesh = make_mesh(experiment.mesh, experiment.model)
    step = compile_step(experiment, shape, mesh)
    batch = put_rows(full_batch(shape), mesh, padded_rows(shape.rows, mesh, experiment.train.accumulate))
    jax.block_until_ready(step(init_on(mesh, experiment), batch, jax.random.key(0)))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup")
    parser.add_argument("size", nargs="?", choices=SIZES, default="base")
    parser.add_argument("--tokens", type=int, help="token slots per batch (default: the preset's)")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    tokens = options.tokens or SIZES[options.size].data.batch_tokens
    if options.child:
        first_step(options.size, tokens)
        return
    command = [sys.executable, "-m", "benchmarks.startup", options.size, "--tokens", str(tokens), "--child"]
    seconds = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(3):
            start = time.perf_counter()
            subprocess.run(command, check=True, env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache})
            seconds.append(time.perf_counter() - start)
    facts = {"size": options.size, "batch_tokens": tokens, "seconds_of_first_start": seconds[0]}
    record(f"startup-{options.size}", {**facts, "seconds_of_later_starts": seconds[1:]})


if __name__ == "__main__":
    main()
