"""Capacity checks before a run: the training step must fit into device memory, and the checkpoints onto the disk."""

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
    """Compiles the training step for batches of this shape. UserError if it needs more memory than a device has."""
    compiled = compile_anyway(experiment, shape, mesh)
    if (needed := memory_of(compiled)) > (there := device_memory()):
        raise UserError(
            f"a batch of {counted(shape.rows, 'row')} of {shape.source} + {shape.target} tokens needs "
            f"{needed / 1e9:.1f} GB, and a device has {there / 1e9:.1f} GB: "
            f"lower --data.batch-tokens, or raise --train.accumulate"
        )
    return compiled


def compile_anyway(experiment: Experiment, shape: Shape, mesh: Mesh) -> Any:
    """Compiles the training step for batches of this shape, without checking its memory."""
    rows = padded_rows(shape.rows, mesh, experiment.train.accumulate)
    step, batch = parallel_step(experiment, mesh), batch_on(mesh, rows, shape.source, shape.target)
    return step.lower(state_on(mesh, experiment), batch, jax.random.key(experiment.train.seed)).compile()


def memory_of(compiled: Any) -> int:
    """Returns the bytes of device memory that a compiled step needs, by the compiler's analysis.

    This includes the state, the batch and all temporaries. It is 0 if the backend provides no analysis.
    """
    sizes = compiled.memory_analysis()
    if sizes is None:
        return 0
    return (
        sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
    )


def device_memory() -> float:
    """Returns the bytes of memory available to this process: of the device, or of the machine for a CPU.

    Infinite if it is unknown.
    """
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    try:
        return float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return math.inf


def check_disk_space(run: WorkDir, state: TrainState, config: TrainConfig) -> None:
    """Raises UserError if the checkpoints that will be kept do not fit on the disk."""
    size = total_bytes(state)
    keep = min(config.keep, -(-config.steps // config.eval_every))
    # The last `keep` checkpoints, the best one, the newest one, and the one that is being written.
    there = len(list(run.checkpoints.glob("[0-9]*")))
    needed, free = size * max(1, keep + 3 - there), shutil.disk_usage(run.path).free
    if needed > free:
        raise UserError(
            f"not enough disk space in {run.path} for {counted(keep, 'checkpoint')}: {needed / 1e6:,.0f} MB are "
            f"needed, {free / 1e6:,.0f} MB are free; free some, or lower --train.keep"
        )
