"""One training step on many devices: the mesh, where each array lives on it, and the two ways to run the step.

Rows of a batch are shared along the axes `data` and `fsdp`; parameters, and what the optimizer keeps of them, along
`fsdp` and `tensor`, as RULES say.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from transformer.config import PAD, Experiment, MeshConfig, ModelConfig, UserError, counted
from transformer.mesh import AXES, ROW_AXES
from transformer.train import Batch, Metrics, TrainState, TrainStep, init_state, make_train_step

ROWS = P(ROW_AXES)
"""Of a batch [B, S]."""

RULES: tuple[tuple[str, P], ...] = (
    ("embedding", P("tensor", "fsdp")),  # [V, D]
    ("query/kernel", P("fsdp", "tensor", None)),  # [D, N, K]
    ("key/kernel", P("fsdp", "tensor", None)),
    ("value/kernel", P("fsdp", "tensor", None)),
    ("query/bias", P("tensor", None)),  # [N, K]
    ("key/bias", P("tensor", None)),
    ("value/bias", P("tensor", None)),
    ("output/kernel", P("tensor", None, "fsdp")),  # [N, H, D]
    ("inner/kernel", P("fsdp", "tensor")),  # [D, F]
    ("inner/bias", P("tensor")),  # [F]
    ("outer/kernel", P("tensor", "fsdp")),  # [F, D]
    ("", P()),  # norms, the biases of D, counters: small, and on all devices
)
"""What the path of an array in the train state ends in, and the mesh axes along which its own are shared."""


def make_mesh(config: MeshConfig, model: ModelConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes, or these, as a mesh [data, fsdp, tensor].

    UserError if their number or the model's sizes cannot be divided so.
    """
    there, others = len(devices or jax.devices()), config.fsdp * config.tensor
    data = config.data or max(1, there // others)
    if data * others != there:
        raise UserError(
            f"a mesh of {data} x {config.fsdp} x {config.tensor} (data, fsdp, tensor) wants "
            f"{counted(data * others, 'device')}; there are {there}"
        )
    for axis, names in (("fsdp", ("d_model",)), ("tensor", ("num_heads", "d_ff", "vocab_size"))):
        for name in names:
            if getattr(model, name) % getattr(config, axis):
                raise UserError(
                    f"mesh.{axis} = {getattr(config, axis)} does not divide model.{name} = {getattr(model, name)}"
                )
    return jax.make_mesh((data, config.fsdp, config.tensor), AXES, (AxisType.Auto,) * len(AXES), devices=devices)


def spec_of(path: tuple[Any, ...]) -> P:
    """The first of RULES that fits a path in the train state."""
    name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
    return next(spec for end, spec in RULES if name.endswith(end))


def shardings(mesh: Mesh, state: Any) -> Any:
    """Where each array of a train state (or of its shapes) lives."""

    def sharding(path: tuple[Any, ...], x: Any) -> NamedSharding:
        spec = spec_of(path)
        # An optimizer may keep something smaller of an array than one number for each of its own, and a part of the
        # user's own may have an array of the same name.
        return NamedSharding(mesh, spec if divides(mesh, spec, x.shape) else P())

    return jax.tree_util.tree_map_with_path(sharding, state)


def divides(mesh: Mesh, spec: P, shape: tuple[int, ...]) -> bool:
    """Whether the devices can share an array of this shape so."""
    if len(spec) > len(shape):
        return False
    axes = [() if entry is None else (entry,) if isinstance(entry, str) else entry for entry in spec]
    return all(
        size % math.prod(mesh.shape[axis] for axis in along) == 0 for size, along in zip(shape, axes, strict=False)
    )


def bytes_in_all(state: Any) -> int:
    """Of the arrays of a train state (or of its shapes), each counted once."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def bytes_per_device(state: Any) -> int:
    """Of what one device holds of them."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state))


def padded_rows(rows: int, mesh: Mesh, parts: int) -> int:
    """The rows of a batch, with empty ones at its end, so that each device has as many in each of so many parts."""
    equal = mesh.shape["data"] * mesh.shape["fsdp"] * parts
    return -(-rows // equal) * equal


@lru_cache
def own_rows(rows: int, mesh: Mesh) -> tuple[int, ...]:
    """Which of so many rows live on this process's devices, ascending."""
    places = NamedSharding(mesh, ROWS).addressable_devices_indices_map((rows,)).values()
    return tuple(sorted({row for place in places if place for row in range(rows)[place[0]]}))


def put_rows(batch: dict[str, Any], mesh: Mesh, rows: int) -> Batch:
    """A batch of so many rows on the mesh, made of this process's `own_rows` of it. Those it lacks are empty."""
    sharding, own = NamedSharding(mesh, ROWS), own_rows(rows, mesh)

    def put(ids: Any) -> Array:
        def part(place: Any) -> Any:
            first, last, _ = place[0].indices(rows)
            start = bisect_left(own, first)
            there = ids[start : start + last - first]
            return np.pad(there, ((0, last - first - len(there)), (0, 0)), constant_values=PAD)

        return jax.make_array_from_callback((rows, ids.shape[1]), sharding, part)

    return {side: put(ids) for side, ids in batch.items()}


def everywhere(mesh: Mesh, arrays: Any) -> Any:
    """The arrays, whole, on each process: for what one of them does alone. All processes have to call it."""
    return jax.tree.map(lambda x: x.addressable_data(0), _gather(mesh)(arrays))


@lru_cache
def _gather(mesh: Mesh) -> Any:
    """Kept, so that it is compiled once and not at every validation."""
    return jax.jit(lambda arrays: arrays, out_shardings=NamedSharding(mesh, P()))


def init_on(mesh: Mesh, experiment: Experiment) -> TrainState:
    """The state before the first step, each device making its own part of it."""
    shapes = state_on(mesh, experiment)
    return jax.jit(lambda: init_state(experiment), out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()


def state_on(mesh: Mesh, experiment: Experiment) -> TrainState:
    """Shapes and types of a train state's arrays, and where they live."""
    shapes = jax.eval_shape(lambda: init_state(experiment))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings(mesh, shapes)
    )


def batch_on(mesh: Mesh, rows: int, source: int, target: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and types of a batch's arrays, and where they live."""
    sharding = NamedSharding(mesh, ROWS)
    return {
        side: jax.ShapeDtypeStruct((rows, width), jnp.int32, sharding=sharding)
        for side, width in (("source", source), ("target", target))
    }


def parallel_step(experiment: Experiment, mesh: Mesh) -> Any:
    """`make_train_step`'s function, jitted for arrays that live on the mesh."""
    step = per_device(experiment, mesh) if experiment.mesh.step == "pmap" else one_program(experiment, mesh)
    places = jax.tree.map(lambda x: x.sharding, state_on(mesh, experiment))
    return jax.jit(step, donate_argnums=0, out_shardings=(places, NamedSharding(mesh, P())))


def one_program(experiment: Experiment, mesh: Mesh) -> TrainStep:
    """The step as it is: the compiler divides it among the devices, by where its arguments live."""
    step = make_train_step(experiment)

    def train_step(state: TrainState, batch: Batch, key: Array) -> tuple[TrainState, Metrics]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return step(state, batch, key)

    return train_step


def per_device(experiment: Experiment, mesh: Mesh) -> TrainStep:
    """Each device runs the step on its own rows, and adds up its sums with the others': what `jax.pmap` is."""
    add_up = partial(jax.lax.psum, axis_name="data")
    return jax.shard_map(
        make_train_step(experiment, add_up), mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=P(), check_vma=False
    )
