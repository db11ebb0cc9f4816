"""Compiles training and decoding for accelerators that need not be there, on every kind of mesh.

    make check-targets
    python -m benchmarks.check_targets [WORD ...]

needs JAX's plugins for both platforms (docs/scaling.md) and takes about an hour; with words, only the cases whose name
has all of them. A case fails if it does not compile, does not fit into a device's memory, or has an array that the
compiler can only reshard by giving all of it to every device (a full rematerialization). Each row is printed, and added
to results/check-targets.json, as soon as it is known. What that record knows of the same commit is not compiled again.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from benchmarks.timing import RESULTS
from benchmarks.train import SIZES
from data.batching import Shape
from experiments.evaluation.records import commit, origin, read_record, write_record
from experiments.planning.accelerators import Accelerator, find_target
from experiments.planning.cross_compile import compile_for, devices_of, tracing_on
from experiments.planning.hlo import Program
from experiments.planning.on_target import network_of, step_seconds
from experiments.programs import compiled_search, without_kernels
from experiments.training.memory import memory_of
from transformer.config import DecodeConfig, Experiment, MeshConfig, UserError
from transformer.train import graph_of, init_params

RECORD = RESULTS / "check-targets.json"
WIDTH, SENTENCES, LONGEST = 144, 64, 48
"""Token slots of a row in training; sentences of a batch and their tokens in decoding."""

WARNINGS = {"TPU_STDERR_LOG_LEVEL": "1"}
"""In the environment, makes a TPU's compiler write its warnings to stderr, as the others do."""


class Case(NamedTuple):
    """A program for a target."""

    size: str
    target: str
    mesh: MeshConfig | None
    """None: beam search."""
    rows: int = 168
    """Of a batch, on all devices together."""

    @property
    def name(self) -> str:
        """As it is printed."""
        if self.mesh is None:
            return f"{self.size} {self.target} beam search"
        axes = [f"{axis}={size}" for axis in ("data", "fsdp", "tensor") if (size := getattr(self.mesh, axis)) > 1]
        return f"{self.size} {self.target} {self.mesh.step} {' '.join(axes)}"


def cases() -> list[Case]:
    """All of them, the small ones first."""
    found = []
    for size in ("base", "big"):
        found += [Case(size, target, None) for target in ("h100", "v5e")]
        found += [Case(size, "8xh100", MeshConfig(data=8, step=step)) for step in ("pjit", "pmap")]
        meshes = MeshConfig(data=8), MeshConfig(data=1, fsdp=8), MeshConfig(data=4, tensor=2)
        found += [Case(size, "v5e-8", mesh) for mesh in meshes]
        found += [Case(size, "v5e-256", MeshConfig(data=256), rows=1024)]
    return found


def main(words: list[str]) -> int:
    """Checks the cases and returns the exit code."""
    if words[:1] == ["--one"]:
        print(json.dumps(facts_of(next(case for case in cases() if case.name == words[1]))))
        return 0
    chosen = [case for case in cases() if all(word in case.name.split() for word in words)]
    rows = known_rows()
    print(f"{'program':40} {'GB per device':>14} {'step':>9}  collectives (MB that each device sends)", flush=True)
    for case in chosen:
        if case.name not in rows:
            start = time.monotonic()
            row = {"case": case.name} | checked(case) | {"seconds to compile": round(time.monotonic() - start)}
            rows[case.name] = row
            found = [rows[case.name] for case in cases() if case.name in rows]
            write_record(RECORD, {"benchmark": "check-targets", "cases": found, **origin()})
        print(line_of(rows[case.name]), flush=True)
    failed = sum("error" in rows[case.name] for case in chosen)
    print(f"{len(chosen) - failed} of {len(chosen)} compile and fit")
    return int(failed > 0 or not chosen)


def known_rows() -> dict[str, dict[str, Any]]:
    """The rows of the record that did not fail, by their case, if it is of this commit, without changes."""
    now = commit()
    if not RECORD.is_file() or now == "unknown" or now.endswith("-dirty"):
        return {}
    record = read_record(RECORD)
    if record["commit"] != now:
        return {}
    return {row["case"]: row for row in record["cases"] if "error" not in row}


def checked(case: Case) -> dict[str, Any]:
    """The facts of a case, from a process of its own: the compiler writes its warnings to that process's stderr."""
    command = [sys.executable, "-m", "benchmarks.check_targets", "--one", case.name]
    done = subprocess.run(command, env=os.environ | WARNINGS, capture_output=True, text=True)
    if done.returncode:
        return {"error": (done.stderr.strip() or "no message").splitlines()[-1]}
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "full rematerialization" in done.stderr:
        facts["error"] = "an array is given to all devices to be resharded (full rematerialization)"
    elif facts["bytes"] > facts["memory"]:
        facts["error"] = "it does not fit"
    return facts


def facts_of(case: Case) -> dict[str, Any]:
    """Compiles a case."""
    target, count = find_target(case.target)
    experiment = SIZES[case.size]
    if case.mesh is None:
        compiled = compile_search(experiment, target)
    else:
        compiled = compile_for(replace(experiment, mesh=case.mesh), Shape(case.rows, WIDTH, WIDTH), target, count)
    kernels = Program(compiled.as_text()).kernels()
    network = network_of(kernels, target)
    return {
        "bytes": memory_of(compiled),
        "memory": target.usable,
        # The compiler does not know how often the loops of a search run.
        "milliseconds": 1e3 * step_seconds(kernels, network, target) if case.mesh else None,
        "collectives": str(network),
        "network milliseconds": 1e3 * network.seconds,
        "network milliseconds hidden": 1e3 * network.hidden,
    }


def compile_search(experiment: Experiment, target: Accelerator) -> Any:
    """The beam search of `translate` with the paper's settings, for one device."""
    device = jax.sharding.SingleDeviceSharding(devices_of(target, 1)[0])

    def on_device(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device)

    params = jax.eval_shape(partial(init_params, experiment.model, 0))
    source = jax.ShapeDtypeStruct((SENTENCES, LONGEST), jnp.int32)
    search: Any = compiled_search(graph_of(without_kernels(experiment.model)), DecodeConfig(), 1)
    with tracing_on(target):
        return search.lower(jax.tree.map(on_device, params), on_device(source)).compile()


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    if "bytes" not in row:
        return f"{row['case']:40} FAILS: {row['error']}"
    memory = f"{row['bytes'] / 1e9:.2f} of {row['memory'] / 1e9:.0f}"
    step = "" if row["milliseconds"] is None else f"{row['milliseconds']:.1f} ms"
    failure = f"  FAILS: {row['error']}" if "error" in row else ""
    return f"{row['case']:40} {memory:>14} {step:>9}  {row['collectives']}{failure}"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"error: {error}")
