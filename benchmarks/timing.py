"""Times programs against each other (warmed up, taking turns, waiting for the device), and writes records."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp

from experiments.evaluation.records import origin, write_record

# BENCHMARK_RESULTS redirects the records of trial runs.
RESULTS = Path(os.environ.get("BENCHMARK_RESULTS") or Path(__file__).parent / "results")

Program = Callable[[], Any]
"""A function that does its work once, and returns when the device has finished."""


@contextmanager
def compiling() -> Iterator[None]:
    """Several benchmarks that gpu.sh runs at the same time may do what is inside: compile, and warm up."""
    with _locked(fcntl.LOCK_SH):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """What is inside is timed: it waits for the compilations and timings of other benchmarks, and they wait for it."""
    with _locked(fcntl.LOCK_EX):
        yield


@contextmanager
def _locked(how: int) -> Iterator[None]:
    """Holds BENCHMARK_LOCK, a file, if the environment names one."""
    if path := os.environ.get("BENCHMARK_LOCK"):
        with open(path, "a") as file:
            fcntl.flock(file, how)
            yield
    else:
        yield


def seconds_each(programs: dict[str, Program], rounds: int, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of each round of each program. The programs take turns, so that changes in machine speed affect all."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for number in range(warm_up + rounds):
        for name, program in programs.items():
            start = time.perf_counter()
            program()
            if number >= warm_up:
                times[name].append(time.perf_counter() - start)
    return times


def report_skipped(what: str, error: Exception) -> None:
    """Prints what this machine cannot run, for example for lack of a package, a compiler or memory."""
    print(f"skipped: {what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}", flush=True)


def matmul_rate(dtype: str) -> float:
    """FLOP/s of a large square matmul: the practical peak of this device."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a, b = (jax.random.normal(jax.random.key(i), (n, n)).astype(dtype) for i in range(2))
    multiply = jax.jit(jnp.matmul)
    times = seconds_each({"": lambda: jax.block_until_ready(multiply(a, b))}, rounds=10)
    return 2 * n**3 / median(times[""])


def device_name() -> str:
    """Device name for the file name of a record, such as "cpu" or "nvidia-h200"."""
    return jax.devices()[0].device_kind.lower().replace(" ", "-")


def record(name: str, facts: dict[str, Any], quiet: bool = False) -> Path:
    """Writes the results of a benchmark to a record with the hardware and software used, and prints it unless quiet."""
    path = RESULTS / f"{name}-{device_name()}.json"
    facts = {"benchmark": name, **facts, **origin()}
    write_record(path, facts)
    if not quiet:
        print(json.dumps(facts, indent=2), flush=True)
    return path
