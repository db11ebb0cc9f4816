"""Checkpoints: written by Orbax, each whole or not at all, and averaged as in section 6.1.

`<workdir>/checkpoints/<step>` holds `params`, `rest` (optimizer state and counters) and `meta` (JSON: the experiment,
the vocabulary's hash, the validation loss, a checksum of the arrays). Arrays and JSON only: loading one runs no code.
`Checkpoints` is for the processes that train; `load` and `read_meta` only read, also beside a training process.
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax import Array
from orbax.checkpoint import checkpoint_managers as policies

from transformer.config import UserError
from transformer.layers import random_bits
from transformer.processes import by_first, everyone
from transformer.train import Params, TrainState

LOSS = "dev_loss"
CHECKSUM = "checksum"
"""Of the arrays, by their name."""
SIGNATURE = "sha256"
"""Of what is written beside them."""


class Checkpoint(NamedTuple):
    """Parameters to translate with, and where they come from."""

    params: Params
    meta: dict[str, Any]
    """Of the newest one used."""
    steps: list[int]
    """The step, or the steps that were averaged."""


class Kept(policies.PreservationPolicy):
    """Which checkpoints stay: the newest `keep` that were validated, the one of the lowest loss, the newest of all."""

    def __init__(self, keep: int, losses: dict[int, float | None]):
        self.keep, self.losses = keep, losses

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Of each, in their order."""
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        validated = {step: loss for step in steps if (loss := self.losses.get(step)) is not None}
        kept = {*list(validated)[-self.keep :], *steps[-1:], *sorted(validated, key=validated.__getitem__)[:1]}
        return [checkpoint.step in kept for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of one run, to write and to resume from. Which of them stay, `Kept` says."""

    def __init__(self, directory: Path, keep: int = 5, log: Callable[[str], None] = print):
        self.directory, self.log = directory, log
        self.losses = {step: _loss_of(directory, step) for step in saved_steps(directory)}
        self.manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=Kept(keep, self.losses),
                cleanup_tmp_directories=True,
            ),
            item_names=("params", "rest", "meta"),
        )

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Writes in the background; `meta` must be JSON, and its "dev_loss" finite, or None where there is none.

        UserError if a checkpoint of this step or a later one is there.
        """
        step, rest = int(state.step), state._replace(params={})
        meta = signed(meta | {CHECKSUM: {"params": checksum(state.params), "rest": checksum(rest)}})
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(rest),
            meta=ocp.args.JsonSave(meta),
        )
        self.losses[step] = meta[LOSS]
        with told_of_time():
            if not self.manager.save(step, args=items):
                raise UserError(f"{self.directory} has a checkpoint of step {step} or later already: move it away")

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        return sorted(self.manager.all_steps())

    def restore_state(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, as (state, meta), or None where there is none yet.

        Newer ones that cannot be read are set aside under another name, and said so. UserError if none can be read:
        then the cause may lie elsewhere (memory, permissions, other code), and everything stays where it is.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        unreadable: dict[int, str] = {}
        for step in reversed(self.steps()):
            problem = None
            try:
                meta = read_meta(self.directory, str(step))
                check_shapes(self.directory, step, template.params)
                items = {"params": shapes.params, "rest": shapes._replace(params={})}
                args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
                restored = self.manager.restore(step, args=ocp.args.Composite(**args))
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
                problem = brief(error)
            if everyone(problem is None):
                try:
                    for name in items:
                        check(restored[name], meta, name)
                    if (found := int(restored["rest"].step)) != step:
                        raise UserError(f"it is of step {found}")
                except UserError as error:
                    problem = str(error)
            if not everyone(problem is None):
                unreadable[step] = problem or "another process cannot read it"
                continue
            by_first(partial(self._set_aside_all, unreadable))
            self.manager.reload()
            return restored["rest"]._replace(params=restored["params"]), meta
        if unreadable:
            step, reason = next(iter(unreadable.items()))
            raise UserError(f"no checkpoint in {self.directory} can be read ({step}: {reason})")
        return None

    def _set_aside_all(self, reasons: dict[int, str]) -> None:
        for step, reason in reasons.items():
            self._set_aside(step, reason)

    def _set_aside(self, step: int, reason: str) -> None:
        place, number = self.directory / f"unreadable-{step}", 1
        while place.exists():
            number += 1
            place = self.directory / f"unreadable-{step}-{number}"
        (self.directory / str(step)).rename(place)
        self.losses.pop(step, None)
        self.log(f"checkpoint {step} cannot be read ({reason}): moved to {place}")

    def wait(self) -> None:
        """Returns when all that was saved is on the disk."""
        with told_of_time():
            self.manager.wait_until_finished()

    def check(self) -> None:
        """Raises what went wrong in the background since the last call, a full disk for one."""
        with told_of_time():
            self.manager.check_for_errors()

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        with told_of_time():
            self.manager.close()


@contextmanager
def told_of_time() -> Iterator[None]:
    """A UserError for a save that took too long. (Orbax reads the wall clock, so a jump of it does too.)"""
    try:
        yield
    except TimeoutError as error:
        raise UserError(
            f"a checkpoint was not written in time, by this machine's clock ({brief(error)}): "
            "is the disk slow, was the clock set? The same command goes on from the one before"
        ) from error


def load(directory: Path, which: str, keep: int, template: Params) -> Checkpoint:
    """Parameters of "last", "best", a step number, several with commas between, or "average".

    "average" is the mean of the newest `keep` that were validated, several numbers the mean of those. UserError for
    one that there is not, that cannot be read, or that is named twice.
    """
    chosen = choose(directory, which, keep)
    params = average(_read_params(directory, step, template) for step in chosen)
    return Checkpoint(params, read_meta(directory, str(chosen[-1])), chosen)


def save_averaged(directory: Path, checkpoint: Checkpoint) -> None:
    """A checkpoint to translate with, under the newest of its steps: nothing to go on training from."""
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(checkpoint.params),
        meta=ocp.args.JsonSave(
            signed(checkpoint.meta | {"averaged": checkpoint.steps, CHECKSUM: {"params": checksum(checkpoint.params)}})
        ),
    )
    with ocp.CheckpointManager(directory.absolute(), item_names=("params", "meta")) as manager:
        manager.save(checkpoint.steps[-1], args=items)


def choose(directory: Path, which: str, keep: int) -> list[int]:
    """The steps that "last", "best", "average" or numbers stand for, ascending. UserError lists what there is."""
    steps = saved_steps(directory)
    if not steps:
        raise UserError(f"no checkpoint in {directory}")
    if which == "average":
        # One that a preemption left between two validations stands at no regular distance from the others.
        validated = (step for step in reversed(steps) if _read_meta(directory, step)[LOSS] is not None)
        return sorted(islice(validated, keep)) or steps[-1:]
    if which == "last":
        return steps[-1:]
    if which == "best":
        losses = {step: read_meta(directory, str(step))[LOSS] for step in steps}
        return [min(steps, key=lambda step: math.inf if losses[step] is None else losses[step])]
    named: list[int] = []
    for name in which.split(","):
        if not name.isdecimal() or int(name) not in steps:
            there = ", ".join(map(str, steps))
            raise UserError(f"no checkpoint {name!r} in {directory}; there are: last, best, average, {there}")
        if int(name) in named:
            raise UserError(f"checkpoint {int(name)} is named twice")
        named.append(int(name))
    return sorted(named)


def saved_steps(directory: Path) -> list[int]:
    """Steps of the complete checkpoints in a directory, ascending. (Orbax gives one its name when it is whole.)"""
    numbers = (path for path in directory.glob("[0-9]*") if path.is_dir() and path.name.isdecimal())
    return sorted(int(path.name) for path in numbers if path.name == str(int(path.name)))


def read_meta(directory: Path, which: str) -> dict[str, Any]:
    """The `meta` of a checkpoint, of the newest for "average": it says how to build the model."""
    return _read_meta(directory, choose(directory, which, keep=1)[-1])


def _read_meta(directory: Path, step: int) -> dict[str, Any]:
    path = directory / str(step) / "meta" / "metadata"
    meta = read_json(path)
    if meta.get(SIGNATURE) != signed(meta)[SIGNATURE]:
        raise UserError(f"{path} cannot be read: it is not what was saved, by its checksum")
    return meta


def _loss_of(directory: Path, step: int) -> float | None:
    try:
        return _read_meta(directory, step)[LOSS]
    except UserError:  # restoring will say so, if it comes to that
        return None


def signed(meta: dict[str, Any]) -> dict[str, Any]:
    """The same with the SHA-256 of all the rest, as JSON."""
    rest = {name: value for name, value in meta.items() if name != SIGNATURE}
    return rest | {SIGNATURE: hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. UserError names the file that is missing or holds anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object")
    return content


def _read_params(directory: Path, step: int, template: Params) -> Params:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # wherever they lived when they were saved
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), template)
    try:
        check_shapes(directory, step, template)
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore((directory / str(step) / "params").absolute(), shapes)
        check(params, read_meta(directory, str(step)), "params")
        return params
    except Exception as error:
        raise UserError(f"checkpoint {directory / str(step)} cannot be read: {brief(error)}") from error


def check_shapes(directory: Path, step: int, template: Params) -> None:
    """UserError names a parameter of the checkpoint that the model has not, or has in another shape, or the reverse."""
    saved = _shapes(ocp.PyTreeCheckpointHandler().metadata((directory / str(step) / "params").absolute()).tree)
    model = _shapes(template)
    for name in sorted(saved.keys() | model.keys()):
        if (there := saved.get(name)) != (here := model.get(name)):
            shapes = [list(shape) if shape is not None else "missing" for shape in (there, here)]
            raise UserError(
                f"its {name} is {shapes[0]}, this model's is {shapes[1]}: was it trained with other code, or --parts?"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape) for path, leaf in leaves}


def read_arrays(directory: Path, step: int) -> dict[str, Any]:
    """The parameters of a checkpoint as numpy arrays, by what the checkpoint itself says of them.

    Its names alone: where the model has a list, here is a dict of 0, 1, ... UserError if it cannot be read, or is not
    what was saved.
    """
    place = (directory / str(step) / "params").absolute()
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            if (told := checkpointer.metadata(place).item_metadata) is None:
                raise UserError("it has no params")
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), told.tree)
            params = numbered(checkpointer.restore(place, ocp.args.PyTreeRestore(restore_args=as_numpy)))
        check(params, read_meta(directory, str(step)), "params")
        return params
    except Exception as error:
        raise UserError(f"checkpoint {directory / str(step)} cannot be read: {brief(error)}") from error


def numbered(tree: Any) -> Any:
    """The same with numbers for names that are numbers: "10" comes after "9" then."""
    if not isinstance(tree, dict):
        return tree
    return {int(name) if name.isdecimal() else name: numbered(below) for name, below in tree.items()}


def checksum(arrays: Any) -> int:
    """32 bits that change with each single bit of the arrays, however these are shared among devices."""
    return int(_checksum(arrays))


@jax.jit
def _checksum(arrays: Any) -> Array:
    total = jnp.zeros((), jnp.uint32)
    for number, leaf in enumerate(map(jnp.atleast_1d, jax.tree.leaves(arrays))):
        bits = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")).astype(jnp.uint32)
        # An odd factor loses no bit, and another one for each place sees what changed places.
        total += jnp.sum(bits * (random_bits(jax.random.key(number), bits.shape) | 1), dtype=jnp.uint32)
    return total


def check(arrays: Any, meta: dict[str, Any], name: str) -> None:
    """UserError if these are not the arrays that were saved under this name."""
    if checksum(arrays) != meta[CHECKSUM][name]:
        raise UserError(f"its {name} are not what was saved: the checksum differs")


def average(checkpoints: Iterable[Params]) -> Params:
    """Section 6.1: the mean of each parameter over several checkpoints, of which one is in memory at a time."""
    total, count = None, 0
    for params in checkpoints:
        total = params if total is None else jax.tree.map(jnp.add, total, params)
        count += 1
    return jax.tree.map(lambda leaf: leaf / count, total)


def brief(error: BaseException) -> str:
    """The first line of an error, cut to a readable length."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(" See full TensorStore")[0][:160]
