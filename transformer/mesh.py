"""The device mesh axes, and functions that query the mesh while a computation is being traced.

Batches are sharded along `data` and `fsdp`, parameters along `fsdp` and `tensor` (transformer/parallel.py).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
ROW_AXES = ("data", "fsdp")


_platform: ContextVar[str | None] = ContextVar("platform", default=None)


def platform() -> str:
    """What the program that is being traced will run on: "cpu", "gpu" or "tpu"."""
    return _platform.get() or jax.default_backend()


def runs_triton() -> bool:
    """Whether it will run on a GPU for which Triton compiles: NVIDIA's, of compute capability 8.0 (Ampere) or more."""
    if platform() != "gpu" or _platform.get():  # other machines' GPUs are those of experiments/planning/accelerators.py
        return platform() == "gpu"
    capability = str(getattr(jax.devices()[0], "compute_capability", ""))
    return bool(re.fullmatch(r"\d+\.\d+", capability)) and float(capability) >= 8.0


@contextmanager
def tracing_for(platform: str) -> Iterator[None]:
    """Programs traced inside are for this platform, whatever this machine has."""
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def row_groups() -> int:
    """Number of equal groups into which the rows of the traced batch are sharded across devices."""
    return axis_size("data") * axis_size("fsdp")


def axis_size(axis: str) -> int:
    """Size of a mesh axis along which the compiler shards the arrays being traced; 1 where each device sees its own."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or mesh.manual_axes else mesh.shape[axis]


def whole_rows(table: Array) -> Array:
    """Gathers an embedding table [V, D] along `fsdp` before a lookup, as matmuls gather their weights.

    Otherwise the compiler would shard the looked-up vectors along D, while everything that follows is sharded along
    the batch, and it could convert between the two only by replicating the vectors on all devices.
    """
    if axis_size("fsdp") == 1:
        return table
    return jax.lax.with_sharding_constraint(table, P("tensor", None))


def first_row(rows: int) -> Array | int:
    """Index in the whole batch of the first of the `rows` being traced. Nonzero only where each device sees its own."""
    own = tuple(axis for axis in jax.sharding.get_abstract_mesh().manual_axes if axis in ROW_AXES)
    return jax.lax.axis_index(own).astype(jnp.uint32) * jnp.uint32(rows) if own else 0


def on_own_shards(function: Callable[..., Any], arguments: tuple[P, ...], results: Any) -> Callable[..., Any]:
    """Runs `function` on each device's own shards, for a kernel that the compiler cannot partition.

    `arguments` are the partition specs of its arguments, and `results` those of what it returns.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return function
    return jax.shard_map(function, in_specs=arguments, out_specs=results, check_vma=False)
