"""The axes along which devices share the work, and what a computation may ask about them while it is traced.

Rows of a batch are shared along `data` and `fsdp`; parameters along `fsdp` and `tensor` (transformer/parallel.py).
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
    """Into how many equal groups the rows at hand are shared by devices."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:  # one device, or each of them runs a program of its own on its own rows
        return 1
    return mesh.shape["data"] * mesh.shape["fsdp"]


def whole_rows(table: Array) -> Array:
    """A table [V, D] whose rows are about to be looked up: gathered along `fsdp`, as the products gather theirs.

    Else the compiler would share the vectors found by their D where everything after shares them by their rows of the
    batch, and could turn one into the other only by giving all of them to all devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes or mesh.shape["fsdp"] == 1:
        return table
    return jax.lax.with_sharding_constraint(table, P("tensor", None))


def first_row(rows: int) -> Array | int:
    """The number in the batch of the first of the `rows` at hand: not 0 where each device has a program of its own."""
    own = jax.sharding.get_abstract_mesh().manual_axes
    return jax.lax.axis_index(own).astype(jnp.uint32) * jnp.uint32(rows) if own else 0
