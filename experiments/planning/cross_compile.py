"""Compiles the training step for devices that this machine does not have: XLA only needs their description.

The GPU compiler comes with jax[cuda12], the TPU's with jax[tpu]. A GPU program is compiled without autotuning, so its
matrix products are not the variants that a real device would choose; memory and traffic are those of the real program.
"""

import os
from contextlib import AbstractContextManager
from typing import Any

import jax
from jax.experimental import topologies

from data.batching import Shape
from experiments.planning.accelerators import Accelerator
from transformer.config import Experiment, UserError
from transformer.mesh import tracing_for
from transformer.parallel import batch_on, make_mesh, padded_rows, parallel_step, state_on

_TPU_GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}

_WITHOUT_A_TPU = {
    # There is no metadata server, which would tell a TPU host these two; libtpu prints an error for each that is unset.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # Nothing runs, so no process needs the chips to itself: several may compile at the same time.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def devices_of(target: Accelerator, count: int) -> list[Any]:
    """Returns descriptions of this many devices of one machine, or of one TPU slice.

    UserError if the compiler of that platform is not installed, or if there is no such slice.
    """
    try:
        if target.platform == "tpu":
            for name, value in _WITHOUT_A_TPU.items():
                os.environ.setdefault(name, value)
            if count not in _TPU_GRIDS:
                raise UserError(f"{target.name} has slices of {', '.join(map(str, _TPU_GRIDS))}, not of {count}")
            grid = f"{target.description}:{_TPU_GRIDS[count]}"
            host = {"chips_per_host_bounds": [1, 1, 1]} if count == 1 else {}  # else hosts of 2 x 2 chips
            found = topologies.get_topology_desc(grid, platform="tpu", **host)
        else:
            text = (
                f'gpu_device_info {{ {target.description} }} platform_name: "CUDA" '
                "dnn_version_info { major: 9 minor: 10 } runtime_version { major: 12 minor: 9 } "
                f'device_description_str: "{target.label}"'
            )
            found = topologies.get_topology_desc("any", platform="cuda", topology=f"1x1x{count}", target_config=text)
    except UserError:
        raise
    except Exception as error:  # of a plugin that is not there, whatever that raises
        extra = "tpu" if target.platform == "tpu" else "cuda12"
        raise UserError(
            f"compiling for {target.name} needs JAX's plugin for it: pip install --constraint constraints.txt "
            f'"jax[{extra}]" ({type(error).__name__}: {str(error).partition(chr(10))[0]:.120})'
        ) from error
    return list(found.devices)


def tracing_on(target: Accelerator) -> AbstractContextManager[None]:
    """Programs traced inside are for the target."""
    return tracing_for("tpu" if target.platform == "tpu" else "gpu")


def compile_for(experiment: Experiment, shape: Shape, target: Accelerator, count: int) -> Any:
    """Compiles the training step for batches of this shape on this many devices.

    Returns the compiled step, with its memory analysis and its HLO text.
    """
    mesh = make_mesh(experiment.mesh, experiment.model, devices_of(target, count))
    rows = padded_rows(shape.rows, mesh, experiment.train.accumulate)
    with tracing_on(target):
        batch = batch_on(mesh, rows, shape.source, shape.target)
        lowered = parallel_step(experiment, mesh).lower(state_on(mesh, experiment), batch, jax.random.key(0))
        return lowered.compile()
