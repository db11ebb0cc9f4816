"""What has to fit before a run starts: the step into the device's memory, the checkpoints onto the disk."""

import math
import os
import shutil
from typing import Any

import jax
from jax.sharding import Mesh

from data.batching import Shape
from experiments.workdir import WorkDir
from transformer.config import Experiment, TrainConfig, UserError, counted
from transformer.parallel import batch_on, padded_rows, parallel_step, state_on, total_bytes
from transformer.train import TrainState


def compile_step(experiment: Experiment, shape: Shape, mesh: Mesh) -> Any:
    """The train step, compiled for batches of this shape. UserError if it needs more memory than a device has."""
    compiled = compile_anyway(experiment, shape, mesh)
    if (needed := memory_of(compiled)) > (there := device_memory()):
        raise UserError(
            f"a batch of {counted(shape.rows, 'row')} of {shape.source} + {shape.target} tokens needs "
            f"{needed / 1e9:.1f} GB, and a device has {there / 1e9:.1f} GB: "
            f"lower --data.batch-tokens, or raise --train.accumulate"
        )
    return compiled


def compile_anyway(experiment: Experiment, shape: Shape, mesh: Mesh) -> Any:
    """The same, whether it fits or not."""
    rows = padded_rows(shape.rows, mesh, experiment.train.accumulate)
    step, batch = parallel_step(experiment, mesh), batch_on(mesh, rows, shape.source, shape.target)
    return step.lower(state_on(mesh, experiment), batch, jax.random.key(experiment.train.seed)).compile()


def memory_of(compiled: Any) -> int:
    """Bytes that a compiled step takes on the device at once, by the compiler's account: state, batch and the rest."""
    told = compiled.memory_analysis()
    if told is None:  # a backend that does not say
        return 0
    return told.argument_size_in_bytes + told.output_size_in_bytes - told.alias_size_in_bytes + told.temp_size_in_bytes


def device_memory() -> float:
    """Bytes that the device lets this process have; of a CPU the machine's. Infinite where nobody says."""
    told = jax.local_devices()[0].memory_stats()
    if told and "bytes_limit" in told:
        return float(told["bytes_limit"])
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_room(run: WorkDir, state: TrainState, config: TrainConfig) -> None:
    """UserError if the checkpoints that will be kept do not fit on the disk."""
    size = total_bytes(state)
    keep = min(config.keep, -(-config.steps // config.eval_every))
    # The kept ones, the best one, the newest one, and one that is being written.
    there = len(list(run.checkpoints.glob("[0-9]*")))
    needed, free = size * max(1, keep + 3 - there), shutil.disk_usage(run.path).free
    if needed > free:
        raise UserError(
            f"no room in {run.path} for {counted(keep, 'checkpoint')}: {needed / 1e6:,.0f} MB are needed, "
            f"free are {free / 1e6:,.0f} MB"
        )
