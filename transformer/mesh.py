"""The device mesh axes, and functions that query the mesh while a computation is being traced.

Batches are sharded along `data` and `fsdp`, parameters along `fsdp` and `tensor` (transformer/parallel.py).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:  # one device, or shard_map: each device sees only its rows
        return 1
    return mesh.shape["data"] * mesh.shape["fsdp"]


def whole_rows(table: Array) -> Array:
    """Gathers an embedding table [V, D] along `fsdp` before a lookup, as matmuls gather their weights.

    Otherwise the compiler would shard the looked-up vectors along D, while everything that follows is sharded along
    the batch, and it could convert between the two only by replicating the vectors on all devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.shape["fsdp"] == 1:
        return table
    return jax.lax.with_sharding_constraint(table, P("tensor", None))


def first_row(rows: int) -> Array | int:
    """Index in the whole batch of the first of the `rows` being traced. Nonzero only with mesh.step = pmap."""
    own = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.axis_index(own).astype(jnp.uint32) * jnp.uint32(rows) if own else 0
