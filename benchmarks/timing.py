"""Times programs side by side: warmed up, in turns, until the device is done; and records what came out."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from experiments.evaluation.records import origin, write_record

# BENCHMARK_RESULTS is for trials, whose figures are not to be kept.
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")

Program = Callable[[], Any]
"""Does its work once, and returns when the device has done it."""


def seconds_each(programs: dict[str, Program], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of every round of each program. They take turns, so that a change in the machine's speed hits all."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(warm_up + rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            if number >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def left_out(what: str, error: Exception) -> None:
    """Names what this machine cannot run: it may lack the package, a compiler or the memory."""
    print(f"left out: {what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)


def matmul_rate(dtype: str) -> float:
    """Operations per second of a large square matrix product of random numbers: what this device can do."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a, b = (jax.random.normal(jax.random.key(i), (n, n)).astype(dtype) for i in range(2))
    multiply = jax.jit(jnp.matmul)
    times = seconds_each({"": lambda: jax.block_until_ready(multiply(a, b))}, rounds=10)
    return 2 * n**3 / median(times[""])


def device_name() -> str:
    """Part of a record's file name: "cpu", "nvidia-h200"."""
    return jax.devices()[0].device_kind.lower().replace(" ", "-")


def record(name: str, facts: dict[str, Any]) -> Path:
    """Prints the facts of a benchmark, and keeps them with where and with what they were measured."""
    path = RESULTS / f"{name}-{device_name()}.json"
    facts = {"benchmark": name, **facts, **origin()}
    write_record(path, facts)
    print(json.dumps(facts, indent=2), flush=True)
    return path
