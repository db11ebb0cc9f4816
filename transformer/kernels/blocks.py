"""Blocks of an array that a Pallas kernel loads and stores, where the array's size need not be a multiple of theirs."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from transformer.mesh import runs_triton


def for_gpu(*arrays: Array) -> bool:
    """Whether the program that is being traced is for a GPU that runs Triton, and these are bfloat16.

    In float32, which is there to compare with other programs, the plain operations run: Triton would round the inputs
    of a matmul.
    """
    return runs_triton() and all(x.dtype == jnp.bfloat16 for x in arrays)


class Block(NamedTuple):
    """`size` consecutive indices of an axis; those from `length` on do not exist. Triton's sizes are powers of two."""

    start: Array | int
    size: int
    length: int

    @property
    def exists(self) -> Array:
        """Boolean [size]."""
        return self.start + jnp.arange(self.size) < self.length

    @property
    def slice(self) -> Any:
        """The index of a ref."""
        return pl.ds(self.start, self.size)


def whole(length: int) -> Block:
    """A whole axis as one block."""
    return Block(0, max(16, pl.next_power_of_2(length)), length)


def load(ref: Any, *blocks: Block, other: float = 0) -> Array:
    """The entries of a ref of one or two axes in these blocks; `other` where none exist."""
    return triton.load(ref.at[tuple(block.slice for block in blocks)], mask=_exist(blocks), other=other)


def store(ref: Any, x: Array, *blocks: Block) -> None:
    """Writes those entries of x that exist."""
    triton.store(ref.at[tuple(block.slice for block in blocks)], x.astype(ref.dtype), mask=_exist(blocks))


def stated_flops(flops: int) -> dict[str, str]:
    """Metadata of a Pallas call: its operations, for experiments/planning/hlo.py, since XLA does not look into it."""
    return {"flops": str(flops)}


def _exist(blocks: tuple[Block, ...]) -> Array:
    """Boolean, with an axis for each block."""
    if len(blocks) == 1:
        return blocks[0].exists
    rows, columns = blocks
    return rows.exists[:, None] & columns.exists[None, :]
