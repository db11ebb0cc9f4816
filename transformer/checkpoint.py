"""Checkpoints: written atomically by Orbax, and checkpoint averaging (section 6.1).

`<workdir>/checkpoints/<step>` contains `params`, `rest` (optimizer state and counters) and `meta` (JSON: the
experiment, the hash of the vocabulary, the validation loss, checksums of the arrays). These are arrays and JSON only,
so loading a checkpoint executes no code. Training processes use `Checkpoints`. `load` and `read_meta` only read,
and may be used while a training process is running.
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
from transformer.dropout import random_bits
from transformer.parameters import Params, named
from transformer.processes import all_processes, on_first_process
from transformer.train import TrainState

LOSS = "dev_loss"
"""Key in `meta`: validation loss per token, or None if the checkpoint was not validated."""
EMA = "ema"
"""What selects the moving average of the parameters, and the name that it is saved under."""
CHECKSUM = "checksum"
"""Key in `meta`: checksums of the arrays of `params` and `rest`."""
SIGNATURE = "sha256"
"""Key in `meta`: SHA-256 of everything else in `meta`."""


class Checkpoint(NamedTuple):
    """Parameters for translation, and the checkpoints that they come from."""

    params: Params
    meta: dict[str, Any]
    """`meta` of the newest of these checkpoints."""
    steps: list[int]
    """Steps of the checkpoints that were averaged, or a single step."""


class RetentionPolicy(policies.PreservationPolicy):
    """Keeps the newest `keep` validated checkpoints, the one with the lowest validation loss, and the newest of all."""

    def __init__(self, keep: int, losses: dict[int, float | None]):
        self.keep, self.losses = keep, losses

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Returns for each checkpoint whether to keep it."""
        steps = sorted(checkpoint.step for checkpoint in checkpoints)
        validated = {step: loss for step in steps if (loss := self.losses.get(step)) is not None}
        kept = {*list(validated)[-self.keep :], *steps[-1:], *sorted(validated, key=validated.__getitem__)[:1]}
        return [checkpoint.step in kept for checkpoint in checkpoints]


class Rest(NamedTuple):
    """The part of a train state that is saved as `rest`."""

    step: Any
    params: Params
    """Empty."""
    opt_state: Any
    bad_steps: Any


def parts_of(state: TrainState) -> dict[str, Any]:
    """Splits a train state into what is saved under different names."""
    parts = {"params": state.params, "rest": Rest(state.step, {}, state.opt_state, state.bad_steps)}
    return parts | ({EMA: state.ema} if state.ema else {})


def state_of(parts: dict[str, Any]) -> TrainState:
    """Inverse of `parts_of`."""
    rest = parts["rest"]
    return TrainState(rest.step, parts["params"], rest.opt_state, rest.bad_steps, parts.get(EMA, {}))


class Checkpoints:
    """Saves the checkpoints of a run and resumes from them. `RetentionPolicy` determines which ones are kept."""

    def __init__(self, directory: Path, keep: int = 5, log: Callable[[str], None] = print):
        self.directory, self.log = directory, log
        self.losses = {step: _loss_of(directory, step) for step in saved_steps(directory)}
        self.manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=RetentionPolicy(keep, self.losses),
                cleanup_tmp_directories=True,
            ),
            item_names=("params", "rest", EMA, "meta"),
        )

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Saves a checkpoint in the background.

        Args:
            meta: JSON, with a "dev_loss" that is finite, or None if the state was not validated.

        Raises:
            UserError: the directory already has a checkpoint of this step or a later one.
        """
        step, parts = int(state.step), parts_of(state)
        meta = signed(meta | {CHECKSUM: {name: checksum(part) for name, part in parts.items()}})
        if jax.process_count() == 1:
            # Orbax spends half a millisecond on each of hundreds of arrays on a device, and less on those of NumPy.
            parts = jax.device_get(parts)
        items = {name: ocp.args.StandardSave(part) for name, part in parts.items()}
        self.losses[step] = criterion(meta)
        with timeout_as_user_error():
            if not self.manager.save(step, args=ocp.args.Composite(**items, meta=ocp.args.JsonSave(meta))):
                raise UserError(f"{self.directory} already has a checkpoint of step {step} or later: move it away")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in ascending order."""
        return sorted(self.manager.all_steps())

    def restore_state(self, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """Restores the newest readable checkpoint, as (state, meta). Returns None if there are no checkpoints yet.

        Newer checkpoints that cannot be read are renamed, with a log message. If none can be read, UserError: the cause
        may lie elsewhere (memory, permissions, different code), so nothing is renamed.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        unreadable: dict[int, str] = {}
        for step in reversed(self.steps()):
            problem = None
            try:
                meta = read_meta(self.directory, str(step))
                check_shapes(self.directory, step, template.params)
                items = parts_of(shapes)
                args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
                restored = self.manager.restore(step, args=ocp.args.Composite(**args))
            except Exception as error:  # Orbax and TensorStore raise many types of error for a damaged file
                problem = brief(error)
            if all_processes(problem is None):
                try:
                    for name in items:
                        check(restored[name], meta, name)
                    if (found := int(restored["rest"].step)) != step:
                        raise UserError(f"it contains the state of step {found}")
                except UserError as error:
                    problem = str(error)
            if not all_processes(problem is None):
                unreadable[step] = problem or "another process cannot read it"
                continue
            on_first_process(partial(self._set_aside_all, unreadable))
            self.manager.reload()
            return state_of({name: restored[name] for name in items}), meta
        if unreadable:
            step, reason = next(iter(unreadable.items()))
            raise UserError(f"no checkpoint in {self.directory} can be read ({step}: {reason})")
        return None

    def _set_aside_all(self, reasons: dict[int, str]) -> None:
        for step, reason in reasons.items():
            self._set_aside(step, reason)

    def _set_aside(self, step: int, reason: str) -> None:
        target, number = self.directory / f"unreadable-{step}", 1
        while target.exists():
            number += 1
            target = self.directory / f"unreadable-{step}-{number}"
        (self.directory / str(step)).rename(target)
        self.losses.pop(step, None)
        self.log(f"checkpoint {step} cannot be read ({reason}): moved to {target}")

    def wait(self) -> None:
        """Waits until all saved checkpoints are on disk."""
        with timeout_as_user_error():
            self.manager.wait_until_finished()

    def check(self) -> None:
        """Raises errors of the background save since the last call, such as a full disk."""
        with timeout_as_user_error():
            self.manager.check_for_errors()

    def close(self) -> None:
        """Waits until all saved checkpoints are on disk, and releases the directory."""
        with timeout_as_user_error():
            self.manager.close()


@contextmanager
def timeout_as_user_error() -> Iterator[None]:
    """Converts the timeout of a save to a UserError. (Orbax uses the wall clock, so a clock change can cause it.)"""
    try:
        yield
    except TimeoutError as error:
        raise UserError(
            f"saving a checkpoint timed out ({brief(error)}): check for a slow disk or a changed system clock; "
            "the same command resumes from the previous checkpoint"
        ) from error


def load(directory: Path, which: str, keep: int, template: Params) -> Checkpoint:
    """Loads the parameters of one checkpoint, or the average of several (section 6.1).

    Args:
        which: "last", "best" (lowest validation loss, or highest score with train.best = "score"), "average" (the
            newest `keep` validated checkpoints), "ema" (the moving average of parameters in the last one), a step
            number, or several step numbers separated by commas, which are averaged.
        template: parameters, or their shapes and dtypes, with the structure that the model expects.

    Raises:
        UserError: a checkpoint does not exist, cannot be read, or is named twice.
    """
    chosen = choose(directory, which, keep)
    name = EMA if which == EMA else "params"
    if which == EMA and not (directory / str(chosen[0]) / EMA).is_dir():
        raise UserError(f"{directory} has no moving average of parameters: it was trained without --train.ema")
    params = average(_read_params(directory, step, template, name) for step in chosen)
    return Checkpoint(params, read_meta(directory, str(chosen[-1])), chosen)


def load_state(directory: Path, which: str, template: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Loads the whole state of one checkpoint, as (state, meta), with the shardings of `template`.

    Args:
        which: "last", "best" or a step number.

    Raises:
        UserError: the checkpoint does not exist, is an average, cannot be read, or has other parameters or another
            optimizer's state than `template`.
    """
    (step, *others), path = choose(directory, which, keep=1), directory.absolute()
    if others or not (path / str(step) / "rest").is_dir():
        raise UserError(f"an average of checkpoints has no optimizer state: {directory}")
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    items = parts_of(shapes)
    try:
        meta = _read_meta(directory, step)
        check_shapes(directory, step, template.params)
        with ocp.StandardCheckpointer() as checkpointer:
            found = {name: checkpointer.restore(path / str(step) / name, item) for name, item in items.items()}
        for name, arrays in found.items():
            check(arrays, meta, name)
    except Exception as error:
        raise UserError(f"checkpoint {directory / str(step)} cannot be continued: {brief(error)}") from error
    return state_of(found), meta


def save_averaged(directory: Path, checkpoint: Checkpoint) -> None:
    """Saves averaged parameters as a checkpoint under the newest of their steps. Training cannot resume from it."""
    items = ocp.args.Composite(
        params=ocp.args.StandardSave(checkpoint.params),
        meta=ocp.args.JsonSave(
            signed(checkpoint.meta | {"averaged": checkpoint.steps, CHECKSUM: {"params": checksum(checkpoint.params)}})
        ),
    )
    with ocp.CheckpointManager(directory.absolute(), item_names=("params", "meta")) as manager:
        manager.save(checkpoint.steps[-1], args=items)


def choose(directory: Path, which: str, keep: int) -> list[int]:
    """Returns the steps that `which` selects (see `load`), ascending. UserError lists the existing checkpoints."""
    steps = saved_steps(directory)
    if not steps:
        raise UserError(f"no checkpoint in {directory}")
    if which == "average":
        # Skip checkpoints saved on preemption between two validations: averaging is over regular intervals.
        validated = (step for step in reversed(steps) if _read_meta(directory, step)[LOSS] is not None)
        return sorted(islice(validated, keep)) or steps[-1:]
    if which in ("last", EMA):
        return steps[-1:]
    if which == "best":
        found = {step: criterion(read_meta(directory, str(step))) for step in steps}
        return [min(steps, key=lambda step: math.inf if (value := found[step]) is None else value)]
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
    """Steps of the complete checkpoints in a directory, ascending. (Orbax renames a checkpoint once it is complete.)"""
    numbers = (path for path in directory.glob("[0-9]*") if path.is_dir() and path.name.isdecimal())
    return sorted(int(path.name) for path in numbers if path.name == str(int(path.name)))


def read_meta(directory: Path, which: str) -> dict[str, Any]:
    """Reads the `meta` of a checkpoint (the newest one for "average"), which says how to build the model."""
    return _read_meta(directory, choose(directory, which, keep=1)[-1])


def _read_meta(directory: Path, step: int) -> dict[str, Any]:
    path = directory / str(step) / "meta" / "metadata"
    meta = read_json(path)
    if meta.get(SIGNATURE) != signed(meta)[SIGNATURE]:
        raise UserError(f"{path} cannot be read: it is not what was saved, its checksum differs")
    return meta


def _loss_of(directory: Path, step: int) -> float | None:
    try:
        return criterion(_read_meta(directory, step))
    except UserError:  # restoring this checkpoint will report the error
        return None


def criterion(meta: dict[str, Any]) -> float | None:
    """Returns the number by which the best checkpoint has the lowest; None if it was not validated."""
    found: float | None = meta.get("criterion", meta[LOSS])
    return found


def signed(meta: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy with the SHA-256 of all other entries, serialized as JSON."""
    rest = {name: value for name, value in meta.items() if name != SIGNATURE}
    return rest | {SIGNATURE: hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()}


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. UserError names the file if it is missing or contains anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_without_duplicates)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: {brief(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} cannot be read: it is not a JSON object")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object of a JSON file. ValueError if a name occurs twice: json would keep only the last value."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {next(name for name in names if names.count(name) > 1)!r} twice")
    return content


def _read_params(directory: Path, step: int, template: Params, name: str) -> Params:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])  # whatever the sharding at the time of saving
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), template)
    try:
        check_shapes(directory, step, template)
        with ocp.StandardCheckpointer() as checkpointer:
            params = checkpointer.restore((directory / str(step) / name).absolute(), shapes)
        check(params, read_meta(directory, str(step)), name)
        return params
    except Exception as error:
        raise UserError(f"checkpoint {directory / str(step)} cannot be read: {brief(error)}") from error


def check_shapes(directory: Path, step: int, template: Params) -> None:
    """UserError names a parameter that is missing in the checkpoint or in the model, or whose shapes differ."""
    saved = _shapes(ocp.PyTreeCheckpointHandler().metadata((directory / str(step) / "params").absolute()).tree)
    model = _shapes(template)
    for name in sorted(saved.keys() | model.keys()):
        if (there := saved.get(name)) != (here := model.get(name)):
            shapes = [list(shape) if shape is not None else "missing" for shape in (there, here)]
            raise UserError(
                f"its {name} is {shapes[0]}, this model's is {shapes[1]}: "
                "was it trained with different code, or with --parts?"
            )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(leaf.shape) for name, leaf in named(tree).items()}


def read_arrays(directory: Path, step: int) -> dict[str, Any]:
    """Reads the parameters of a checkpoint as NumPy arrays, using only its own metadata, without building the model.

    Lists of the model become dicts with the keys 0, 1, ... UserError if the checkpoint cannot be read or its checksum
    differs.
    """
    path = (directory / str(step) / "params").absolute()
    try:
        with ocp.PyTreeCheckpointer() as checkpointer:
            if (metadata := checkpointer.metadata(path).item_metadata) is None:
                raise UserError("it does not contain params")
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree)
            params = numbered(checkpointer.restore(path, ocp.args.PyTreeRestore(restore_args=as_numpy)))
        check(params, read_meta(directory, str(step)), "params")
        return params
    except Exception as error:
        raise UserError(f"checkpoint {directory / str(step)} cannot be read: {brief(error)}") from error


def numbered(tree: Any) -> Any:
    """Returns a copy with numeric names converted to int, so that 10 sorts after 9."""
    if not isinstance(tree, dict):
        return tree
    return {int(name) if name.isdecimal() else name: numbered(below) for name, below in tree.items()}


def checksum(arrays: Any) -> int:
    """32-bit checksum of arrays: changing any single bit changes it. It does not depend on the sharding."""
    return int(_checksum(arrays))


def compile_checksums(shapes: TrainState) -> None:
    """Compiles what saving a state of these shapes and shardings runs, before there is one."""
    for part in parts_of(shapes).values():
        _checksum.lower(part).compile()


@jax.jit
def _checksum(arrays: Any) -> Array:
    # A model has hundreds of arrays and a dozen shapes: arrays of one shape are compiled as one.
    alike: dict[tuple[Any, ...], list[tuple[int, Array]]] = {}
    for number, leaf in enumerate(map(jnp.atleast_1d, jax.tree.leaves(arrays))):
        alike.setdefault((leaf.shape, leaf.dtype), []).append((number, leaf))
    return sum((_checksum_of(members) for members in alike.values()), jnp.zeros((), jnp.uint32))


def _checksum_of(members: list[tuple[int, Array]]) -> Array:
    numbers, leaves = zip(*members, strict=True)
    bits = jnp.stack([_bits(leaf) for leaf in leaves])
    keys = jax.vmap(jax.random.key)(jnp.array(numbers))
    # Odd factors lose no bits, and a different one for each position detects swapped entries.
    factors = jax.vmap(lambda key: random_bits(key, bits.shape[1:]) | 1)(keys)
    return jnp.sum(bits * factors, dtype=jnp.uint32)


def _bits(leaf: Array) -> Array:
    return jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")).astype(jnp.uint32)


def check(arrays: Any, meta: dict[str, Any], name: str) -> None:
    """UserError if the checksum of the arrays is not the one saved under this name."""
    if checksum(arrays) != meta[CHECKSUM][name]:
        raise UserError(f"its {name} are not what was saved: the checksum differs")


def average(checkpoints: Iterable[Params]) -> Params:
    """Section 6.1, checkpoint averaging: the mean of each parameter. One checkpoint is in memory at a time."""
    total, count = None, 0
    for params in checkpoints:
        total = params if total is None else jax.tree.map(jnp.add, total, params)
        count += 1
    return jax.tree.map(lambda leaf: leaf / count, total)


def brief(error: BaseException) -> str:
    """The first line of an error message, truncated to a readable length."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(" See full TensorStore")[0][:160]
