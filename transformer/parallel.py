"""Training on many devices: the mesh, the sharding of each array, and the two ways to parallelize the training step.

Batches are sharded along the mesh axes `data` and `fsdp`; parameters and optimizer state along `fsdp` and `tensor`,
according to RULES.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from transformer.config import PAD, Experiment, LoraConfig, MeshConfig, ModelConfig, UserError, counted
from transformer.mesh import AXES, ROW_AXES, platform
from transformer.parameters import Params
from transformer.train import Batch, TrainState, TrainStep, init_state, make_eval_steps, make_train_step
from transformer.variants.finetuning import merge_lora

ROWS = P(ROW_AXES)
"""Partition spec of a batch [B, S]."""

RULES: tuple[tuple[str, P], ...] = (
    ("embedding", P("tensor", "fsdp")),  # [V, D]: of source, target and pre-softmax layer
    ("output_bias", P("tensor")),  # [V]
    ("query/kernel", P("fsdp", "tensor", None)),  # [D, N, K]
    ("key/kernel", P("fsdp", "tensor", None)),
    ("value/kernel", P("fsdp", "tensor", None)),
    ("query/bias", P("tensor", None)),  # [N, K]
    ("key/bias", P("tensor", None)),
    ("value/bias", P("tensor", None)),
    ("output/kernel", P("tensor", None, "fsdp")),  # [N, H, D]
    ("inner/kernel", P("fsdp", "tensor")),  # [D, F]
    ("inner/bias", P("tensor")),  # [F]
    ("gate/kernel", P("fsdp", "tensor")),  # of a gated network (transformer/variants/modern/gated.py)
    ("gate/bias", P("tensor")),
    ("outer/kernel", P("tensor", "fsdp")),  # [F, D]
    ("", P()),  # normalization, biases of width D, counters: small, so replicated
)
"""Sharding rules: (suffix of the path of an array in the train state, its partition spec). The first match applies."""

OPTIONS: dict[str, dict[str, Any]] = {
    "gpu": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0},
    "tpu": {
        "xla_tpu_enable_windowed_einsum_for_all_gather": False,
        "xla_tpu_enable_windowed_einsum_for_reduce_scatter": False,
    },
}
"""Options of XLA for the training step, by platform.

On a GPU they leave each matmul to cuBLAS, which adds the bias and applies the ReLU before it writes its result; matmuls
by Triton, or merged ones, leave that to another pass over the activations. On a TPU they keep a matmul whole whose
weights are sharded along `fsdp`. The compiler would make it one matmul for each shard, to compute with one while the
next arrives, but shards of 64 rows or columns leave half of the matrix units idle.
"""


def make_mesh(config: MeshConfig, model: ModelConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Arranges all devices of all processes, or the given ones, in a mesh [data, fsdp, tensor].

    UserError if the number of devices does not match, or an axis does not divide the model's dimensions.
    """
    there, others = len(devices) if devices else jax.device_count(), config.fsdp * config.tensor
    data = config.data or max(1, there // others)
    if data * others != there:
        raise UserError(
            f"a mesh of {data} x {config.fsdp} x {config.tensor} (data, fsdp, tensor) needs "
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
    """Returns the spec of the first of RULES that matches a path in the train state."""
    name = "/".join(str(getattr(key, "key", getattr(key, "name", key))) for key in path)
    return next(spec for end, spec in RULES if name.endswith(end))


def shardings(mesh: Mesh, state: Any) -> Any:
    """Returns the sharding of each array of a train state (or of a tree of its shapes)."""

    def sharding(path: tuple[Any, ...], x: Any) -> NamedSharding:
        spec = spec_of(path)
        # Replicate arrays that cannot be sharded: optimizer state may be smaller than its parameter (Adafactor), and a
        # custom component may reuse one of these names for an array of another shape.
        return NamedSharding(mesh, spec if divides(mesh, spec, x.shape) else P())

    return jax.tree_util.tree_map_with_path(sharding, state)


def divides(mesh: Mesh, spec: P, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be sharded evenly with this spec."""
    if len(spec) > len(shape):
        return False
    axes = [() if entry is None else (entry,) if isinstance(entry, str) else entry for entry in spec]
    return all(
        size % math.prod(mesh.shape[axis] for axis in along) == 0 for size, along in zip(shape, axes, strict=False)
    )


def total_bytes(state: Any) -> int:
    """Total size in bytes of the arrays of a train state (or of a tree of its shapes), each counted once."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))


def bytes_per_device(state: Any) -> int:
    """Size in bytes of the shards of a train state that one device holds."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(state))


def padded_rows(rows: int, mesh: Mesh, parts: int) -> int:
    """`rows` rounded up with empty rows so that they divide evenly over devices and `parts` micro-batches."""
    equal = mesh.shape["data"] * mesh.shape["fsdp"] * parts
    return -(-rows // equal) * equal


@lru_cache
def own_rows(rows: int, mesh: Mesh) -> tuple[int, ...]:
    """Indices, in ascending order, of the rows of a batch of `rows` that are on the devices of this process."""
    places = NamedSharding(mesh, ROWS).addressable_devices_indices_map((rows,)).values()
    return tuple(sorted({row for place in places if place for row in range(rows)[place[0]]}))


def put_rows(batch: dict[str, Any], mesh: Mesh, rows: int) -> Batch:
    """Puts a batch of `rows` rows, or several stacked on a leading axis, on the mesh.

    `batch` has the `own_rows` of this process; missing rows are PAD.
    """
    own = own_rows(rows, mesh)

    def put(ids: Any) -> Array:
        *stacked, _, width = ids.shape

        def part(place: Any) -> Any:
            first, last, _ = place[-2].indices(rows)
            start = bisect_left(own, first)
            there = ids[..., start : start + last - first, :]
            missing = (0, last - first - there.shape[-2])
            return np.pad(there, (*((0, 0) for _ in stacked), missing, (0, 0)), constant_values=PAD)

        sharding = NamedSharding(mesh, P(*(None for _ in stacked), *ROWS))
        return jax.make_array_from_callback((*stacked, rows, width), sharding, part)

    return {side: put(ids) for side, ids in batch.items()}


def replicated_params(mesh: Mesh, experiment: Experiment, params: Params) -> Params:
    """Gathers the full parameters of the model on every process, for work that one process does alone.

    Low-rank factors are merged. All processes must call it.
    """
    return jax.tree.map(lambda x: x.addressable_data(0), _gather(mesh, experiment.lora)(params))


def compile_replicated_params(mesh: Mesh, experiment: Experiment, shapes: Params) -> Params:
    """Compiles `replicated_params` for parameters of these shapes, and returns the shapes of its result."""
    lowered = _gather(mesh, experiment.lora).lower(shapes)
    lowered.compile()
    here = SingleDeviceSharding(mesh.local_devices[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), lowered.out_info)


@lru_cache
def _gather(mesh: Mesh, lora: LoraConfig) -> Any:
    """Cached, so that it is compiled once and not at every validation."""
    return jax.jit(lambda params: merge_lora(params, lora), out_shardings=NamedSharding(mesh, P()))


def init_on(mesh: Mesh, experiment: Experiment) -> TrainState:
    """Initializes the train state on the mesh: each device computes its own shards."""
    shapes = state_on(mesh, experiment)
    return jax.jit(lambda: init_state(experiment), out_shardings=jax.tree.map(lambda x: x.sharding, shapes))()


def state_on(mesh: Mesh, experiment: Experiment) -> TrainState:
    """Shapes, dtypes and shardings of the arrays of a train state."""
    shapes = jax.eval_shape(lambda: init_state(experiment))
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes, shardings(mesh, shapes)
    )


def batch_on(mesh: Mesh, rows: int, source: int, target: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of the arrays of a batch."""
    sharding = NamedSharding(mesh, ROWS)
    return {
        side: jax.ShapeDtypeStruct((rows, width), jnp.int32, sharding=sharding)
        for side, width in (("source", source), ("target", target))
    }


def parallel_step(experiment: Experiment, mesh: Mesh) -> Any:
    """The training step of `make_train_step`, jitted for arrays on the mesh."""
    step = pmap_step(experiment, mesh) if experiment.mesh.step == "pmap" else pjit_step(experiment, mesh)
    state_shardings = jax.tree.map(lambda x: x.sharding, state_on(mesh, experiment))
    return jax.jit(
        step,
        donate_argnums=0,
        out_shardings=(state_shardings, NamedSharding(mesh, P())),
        compiler_options=OPTIONS.get(platform()),
    )


def pjit_step(experiment: Experiment, mesh: Mesh) -> TrainStep:
    """The training step as one program, which the compiler partitions according to the shardings of its arguments."""
    return on_mesh(make_train_step(experiment), mesh)


def parallel_eval_steps(experiment: Experiment, mesh: Mesh) -> Any:
    """The evaluation steps of `make_eval_steps`, jitted for arrays on the mesh."""
    return jax.jit(on_mesh(make_eval_steps(experiment), mesh), out_shardings=NamedSharding(mesh, P()))


def on_mesh(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """The function, traced so that it sees the mesh along whose axes the compiler will partition it."""

    def traced(*arguments: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*arguments)

    return traced


def pmap_step(experiment: Experiment, mesh: Mesh) -> TrainStep:
    """The training step run by each device on its own rows, with all-reduced gradients, as in `jax.pmap`."""
    add_up = partial(jax.lax.psum, axis_name="data")
    return jax.shard_map(
        make_train_step(experiment, add_up), mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=P(), check_vma=False
    )
