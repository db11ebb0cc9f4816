"""Checkpoints: written by Orbax, each whole or not at all, and averaged as in section 6.1.

`<workdir>/checkpoints/<step>` holds three items: `params`, `rest` (optimizer state and counters) and `meta`
(JSON: the experiment, the vocabulary's hash, the validation loss). Arrays and JSON only: loading one runs no code.
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from transformer.config import UserError
from transformer.train import Params, TrainState

LOSS = "dev_loss"


class Checkpoint(NamedTuple):
    """Parameters to translate with, and where they come from."""

    params: Params
    meta: dict[str, Any]
    steps: list[int]
    """The step, or the steps that were averaged."""


class Checkpoints:
    """The checkpoints of one run: the newest `keep`, and the one with the lowest validation loss."""

    def __init__(self, directory: Path, keep: int = 5):
        self.directory = directory
        newest = policies.LatestN(keep)
        best = policies.BestN(get_metric_fn=lambda metrics: metrics[LOSS], reverse=True, n=1)
        self.manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=lambda metrics: metrics[LOSS],
                best_mode="min",
                preservation_policy=policies.AnyPreservationPolicy([newest, best]),
                cleanup_tmp_directories=True,
            ),
            item_names=("params", "rest", "meta"),
        )
        self.keep = keep

    def save(self, state: TrainState, meta: dict[str, Any]) -> None:
        """Writes in the background; `meta` must be JSON and have a "dev_loss"."""
        items = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            rest=ocp.args.StandardSave(state._replace(params={})),
            meta=ocp.args.JsonSave(meta),
        )
        self.manager.save(int(state.step), args=items, metrics={LOSS: float(meta[LOSS])})

    def steps(self) -> list[int]:
        """Steps that have a complete checkpoint, ascending."""
        return sorted(self.manager.all_steps())

    def restore_state(self, template: TrainState, log=print) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest checkpoint that can be read, as (state, meta), or None where there is none yet.

        One that cannot be read is set aside under another name, and said so.
        """
        for step in reversed(self.steps()):
            try:
                shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
                items = self._restore(step, params=shapes.params, rest=shapes._replace(params={}))
                return items["rest"]._replace(params=items["params"]), items["meta"]
            except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
                set_aside = self.directory / f"unreadable-{step}"
                (self.directory / str(step)).rename(set_aside)
                self.manager.reload()
                log(f"checkpoint {step} cannot be read ({brief(error)}): moved to {set_aside}; trying the one before")
        return None

    def load(self, which: str, template: Params) -> Checkpoint:
        """Parameters of "last", "best", a step number, or "average": the mean of the newest ones that are kept."""
        steps = self.steps()
        if not steps:
            raise UserError(f"no checkpoint in {self.directory}")
        if which == "average":
            chosen = steps[-self.keep :]
        elif which in ("last", "best"):
            best = self.manager.best_step()
            chosen = [steps[-1] if which == "last" or best is None else best]
        elif which.isdecimal() and int(which) in steps:
            chosen = [int(which)]
        else:
            there = ", ".join(map(str, steps))
            raise UserError(f"no checkpoint {which!r} in {self.directory}; there are: last, best, average, {there}")
        loaded = [self._restore_params(step, template) for step in chosen]
        params = loaded[0][0] if len(loaded) == 1 else average([params for params, _ in loaded])
        return Checkpoint(params, loaded[-1][1], chosen)

    def _restore_params(self, step: int, template: Params) -> tuple[Params, dict[str, Any]]:
        try:
            items = self._restore(step, params=jax.tree.map(ocp.utils.to_shape_dtype_struct, template))
        except Exception as error:
            raise UserError(f"checkpoint {self.directory / str(step)} cannot be read: {brief(error)}") from error
        return items["params"], items["meta"]

    def _restore(self, step: int, **templates: Any) -> Any:
        items = {name: ocp.args.StandardRestore(template) for name, template in templates.items()}
        return self.manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore(), **items))

    def wait(self) -> None:
        """Returns when all that was saved is on the disk."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the directory."""
        self.manager.close()


def read_meta(directory: Path) -> dict[str, Any]:
    """The `meta` of the newest checkpoint of a run, which says how to build its model."""
    with ocp.CheckpointManager(directory.absolute(), item_names=("meta",)) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"no checkpoint in {directory}")
        return manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]


def average(checkpoints: list[Params]) -> Params:
    """Section 6.1: the mean of each parameter over several checkpoints."""
    return jax.tree.map(lambda *leaves: jnp.mean(jnp.stack(leaves), axis=0), *checkpoints)


def brief(error: Exception) -> str:
    """The first line of an error, cut to a readable length."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:160]
