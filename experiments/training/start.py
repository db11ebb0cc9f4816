"""Where a run starts: from random parameters, from another run's parameters (`--init`), or from its state (`--branch`).

The metadata of every checkpoint has the lineage of its run: the runs that it descends from, the nearest first.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from data.tokenizer import Tokenizer
from experiments.translator import Translator
from experiments.workdir import WorkDir, find_workdir
from transformer.checkpoint import SIGNATURE, choose, load_state, read_meta
from transformer.config import Experiment, UserError, counted
from transformer.parameters import Params, name_of, named
from transformer.train import TrainState
from transformer.variants.finetuning import LORA

Log = Callable[[str], None]
Lineage = list[dict[str, Any]]

_TABLES = ("embedding", "source_embedding", "output_embedding", "output_bias")
"""Parameters with a row for each piece of the vocabulary."""


class Parent(NamedTuple):
    """A checkpoint of another run."""

    run: WorkDir
    checkpoint: str

    def __str__(self) -> str:
        return f"{self.run.path}:{self.checkpoint}"


def parent_of(given: str, checkpoint: str) -> Parent:
    """Reads RUN or RUN:CHECKPOINT, where `checkpoint` is the default. UserError if there is no such run."""
    name, which = run_and_checkpoint(given, checkpoint)
    return Parent(find_workdir(name), which)


def run_and_checkpoint(given: str, checkpoint: str) -> tuple[str, str]:
    """Splits RUN or RUN:CHECKPOINT."""
    name, colon, which = given.rpartition(":")
    return (name, which) if colon and re.fullmatch(r"average|best|last|ema|[0-9,]+", which) else (given, checkpoint)


def with_absolute_parent(experiment: Experiment, run: WorkDir) -> Experiment:
    """Writes the path of the parent in full, so that a run can be resumed from any folder.

    Once the run has checkpoints, its parent may be gone.
    """
    changed: dict[str, Any] = {}
    for setting, default in (("init", "average"), ("branch", "last")):
        if (given := getattr(experiment, setting)) is None:
            continue
        name, checkpoint = run_and_checkpoint(given, default)
        try:
            changed[setting] = f"{find_workdir(name).path.absolute()}:{checkpoint}"
        except UserError:
            before = getattr(run.experiment(), setting) if run.newest_meta() else None
            if before not in {f"{path.absolute()}:{checkpoint}" for path in (Path(name), Path("runs") / name)}:
                raise
            changed[setting] = before
    return replace(experiment, **changed)


def start_of(
    experiment: Experiment, template: TrainState, initial: Callable[[], TrainState], tokenizer: Tokenizer, log: Log
) -> tuple[TrainState, dict[str, Any], Lineage]:
    """Returns the state that a run starts from, the metadata to continue from, and the lineage of the run.

    Args:
        template: shapes and shardings of the state.
        initial: computes the state with random parameters.
    """
    if experiment.branch:
        parent = parent_of(experiment.branch, "last")
        check_vocabulary(parent, tokenizer)
        state, meta = load_state(parent.run.checkpoints, parent.checkpoint, template)
        log(f"continuing {parent} after step {int(state.step)}")
        return state, meta, lineage_of(parent, meta, "branch")
    if experiment.init:
        parent = parent_of(experiment.init, "average")
        other = Translator.load(parent.run.path, parent.checkpoint, log)
        state = initial()
        params = carried_over(experiment, state.params, other, tokenizer, parent, log)
        log(f"starting from the parameters of {parent} (checkpoint {', '.join(map(str, other.steps))})")
        ema = jax.tree.map(jnp.copy, params) if state.ema else {}
        return state._replace(params=params, ema=ema), {}, lineage_of(parent, other.meta, "init")
    return initial(), {}, []


def lineage_of(parent: Parent, meta: dict[str, Any], how: str) -> Lineage:
    """Returns the parent and its own lineage, as JSON.

    Records and checkpoints are identified by hashes, since paths mean nothing on another machine.
    """
    records = sorted(parent.run.evaluation.glob("*.json"))
    steps = choose(parent.run.checkpoints, parent.checkpoint, meta["experiment"]["train"]["keep"])
    entry = {
        "how": how,
        "run": parent.run.path.name,
        "experiment": meta["experiment"]["name"],
        "checkpoints": meta.get("averaged", steps),
        "sha256": {str(step): read_meta(parent.run.checkpoints, str(step))[SIGNATURE] for step in steps},
        "records": {record.name: hashlib.sha256(record.read_bytes()).hexdigest() for record in records},
        "vocabulary": meta["vocabulary"],
        "commit": meta["commit"],
    }
    return [entry, *meta.get("lineage", [])]


def check_vocabulary(parent: Parent, tokenizer: Tokenizer) -> None:
    """Raises UserError unless the run has this vocabulary."""
    if Tokenizer.load(parent.run.path).sha256 != tokenizer.sha256:
        raise UserError(f"{parent.run.path} has another vocabulary: use --init, which carries over the shared pieces")


def carried_over(
    experiment: Experiment, params: Params, other: Translator, tokenizer: Tokenizer, parent: Parent, log: Log
) -> Params:
    """Returns `params` with everything that the other run has in their place.

    Rows of embedding matrices are matched by the piece that they stand for, and layers by `init_layers`. UserError
    names a parameter that the other run does not have, or has in another shape.
    """
    layers = layer_map(experiment.init_layers, params, other.params, parent)
    both_sides = {"": (tokenizer, other.tokenizer)}
    new_head = tokenizer.labels_of is not None and other.tokenizer.labels_of is None
    if new_head:  # only the encoder is carried over, and what embeds its source
        both_sides = {}
    if not (tokenizer.one_vocabulary and other.tokenizer.one_vocabulary):
        both_sides[" of the source"] = (tokenizer.source, other.tokenizer.source)
    shared = {side: shared_rows(*each) for side, each in both_sides.items()}
    for side, rows in shared.items():
        if rows is not None:
            pieces, run = counted(both_sides[side][0].size, "piece"), parent.run.path
            log(f"another vocabulary{side}: of {pieces}, {len(rows[0]):,} are in {run}, the others start at random")
    theirs = named(other.params)

    def value(path: tuple[Any, ...], mine: Any) -> Any:
        name = name_of(path)
        if name.startswith(f"{LORA}."):
            return mine
        stack, _, rest = name.partition(".")
        if stack in layers:
            number, _, rest = rest.partition(".")
            name = f"{stack}.{layers[stack][int(number)]}.{rest}"
        if new_head and name in ("embedding", "output_bias"):
            return mine
        one_for_both = name == "source_embedding" and name not in theirs
        if (found := theirs.get("embedding" if one_for_both else name)) is None:
            if other.experiment.model.architecture != experiment.model.architecture:
                log(f"{name} is not in {parent.run.path}: it starts at random")
                return mine
            raise UserError(f"{parent.run.path} has no {name}, which this model has: --init needs a model of its kind")
        found = np.asarray(found)
        side = " of the source" if name == "source_embedding" and " of the source" in shared else ""
        rows = shared.get(side)
        if name in _TABLES and found.shape[1:] == mine.shape[1:] and (rows is not None or found.shape != mine.shape):
            to, of = rows if rows is not None else 2 * (np.arange(both_sides[side][0].size),)
            table = np.array(replicated_value(mine))
            table[to] = found[of]
            found = table
        if found.shape != mine.shape:
            raise UserError(
                f"{parent.run.path} has {name} of {list(found.shape)}, this model of {list(mine.shape)}: "
                f"--init can change the vocabulary and the depth, but no width"
            )
        return jax.make_array_from_callback(mine.shape, mine.sharding, lambda place: found[place])

    return jax.tree_util.tree_map_with_path(value, params)


def replicated_value(x: jax.Array) -> np.ndarray:
    """Returns the whole array, which may be sharded over the devices of several processes."""
    return np.asarray(x if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True))


def shared_rows(mine: Tokenizer, theirs: Tokenizer) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the ids of shared pieces in both vocabularies, [n] and [n]; None if all pieces are the same."""
    pieces, others = mine.pieces(range(mine.size)), theirs.pieces(range(theirs.size))
    if pieces == others:
        return None
    other = {piece: row for row, piece in enumerate(others)}
    pairs = [(row, other[piece]) for row, piece in enumerate(pieces) if piece in other]
    to, of = np.array(pairs).T
    return to, of


def layer_map(given: str | None, mine: Params, theirs: Params, parent: Parent) -> dict[str, list[int]]:
    """Returns, for "encoder" and "decoder", which layer of the other run each layer starts from."""
    chosen = {}
    for part in (given or "").split():
        stack, equals, numbers = part.partition("=")
        if stack not in ("encoder", "decoder") or not equals or not re.fullmatch(r"\d+(,\d+)*", numbers):
            raise UserError(f"--init-layers {part!r} is not of the form encoder=0,2,4 or decoder=0,2,4")
        chosen[stack] = [int(number) for number in numbers.split(",")]
    for stack in ("encoder", "decoder"):
        there, here = len(theirs.get(stack, ())), len(mine.get(stack, ()))
        if not here and stack not in chosen:  # an encoder with a head
            continue
        if not there:
            raise UserError(f"{parent.run.path} has no {stack}, which this model has: --init needs a model of its kind")
        example = ",".join(str(i * there // here) for i in range(here))
        if here == there:
            chosen.setdefault(stack, list(range(here)))
        if stack not in chosen:
            raise UserError(
                f"the {stack} of {parent.run.path} has {counted(there, 'layer')}, this model's {here}: "
                f"say which to copy, such as --init-layers {stack}={example}"
            )
        if len(chosen[stack]) != here or max(chosen[stack]) >= there:
            raise UserError(
                f"--init-layers {stack}: {counted(here, 'number')} from 0 to {there - 1} are needed, such as "
                f"{stack}={example}"
            )
    return chosen
