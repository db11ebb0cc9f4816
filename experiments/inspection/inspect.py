"""`inspect RUN`: the parameters of a checkpoint, as they are stored on disk, and their provenance.

No model is built, so custom components need not be registered.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.history import minutes
from experiments.workdir import WorkDir
from transformer.checkpoint import choose, read_arrays, read_meta
from transformer.config import UserError, counted


def role_of(embedding: str, params: dict[str, Any]) -> str:
    """Returns what a matrix of embeddings is for; which there are depends on model.tied. Empty for other arrays."""
    own_source, own_output = "source_embedding" in params, "output_embedding" in params
    if embedding == "embedding" and not own_source:
        return "tied: it embeds source and target, and its transpose gives the logits (section 3.4)"
    return {
        "embedding": "it embeds the target" + ("" if own_output else ", and its transpose gives the logits"),
        "source_embedding": "it embeds the source",
        "output_embedding": "its transpose gives the logits",
    }.get(embedding, "")


def inspect(run: WorkDir, checkpoint: str) -> Iterator[str]:
    """Yields lines to print. UserError unless `checkpoint` is a single one: "last", "best" or a step."""
    if checkpoint == "average" or "," in checkpoint:
        raise UserError(
            "`inspect` shows one checkpoint: last, best or a step; to inspect an average, save it with `average` first"
        )
    (step,) = choose(run.checkpoints, checkpoint, keep=1)
    meta, params = read_meta(run.checkpoints, str(step)), read_arrays(run.checkpoints, step)
    yield f"{run.checkpoints / str(step)}"
    yield from tree(params)
    total = [leaf for _, leaf in leaves(params)]
    yield f"{sum(leaf.size for leaf in total):,} parameters in {len(total)} arrays, norm {norm(total):.4g}"
    yield ""
    yield from provenance_of(meta)


def tree(params: dict[str, Any]) -> Iterator[str]:
    """Yields a line for each array, indented below its modules: shape, number of parameters, norm, root mean square."""
    yield f"{'':44}{'shape':>18}{'parameters':>14}{'norm':>10}{'rms':>10}"
    yield from _branch(params, 0)


def _branch(node: dict[str, Any], depth: int) -> Iterator[str]:
    for name in sorted(node, key=lambda name: (not isinstance(node[name], dict), name)):
        below, label = node[name], "  " * depth + str(name)
        if not isinstance(below, dict):
            shape = " x ".join(map(str, below.shape)) or "1"
            rms = norm([below]) / below.size**0.5
            line = f"{label:44}{shape:>18}{below.size:>14,}{norm([below]):>10.4g}{rms:>10.3g}"
            role = role_of(name, node) if depth == 0 else ""
            yield f"{line}  {role}" if role else line
            continue
        arrays = [leaf for _, leaf in leaves(below)]
        if arrays:  # omit modules without parameters
            yield f"{label:44}{'':18}{sum(leaf.size for leaf in arrays):>14,}{norm(arrays):>10.4g}"
            yield from _branch(below, depth + 1)


def leaves(params: dict[str, Any]) -> list[tuple[Any, np.ndarray]]:
    """Returns the arrays of a tree with their paths."""
    return jax.tree_util.tree_leaves_with_path(params)


def norm(arrays: list[np.ndarray]) -> float:
    """Returns the Euclidean norm of all elements of the arrays together."""
    return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays)))


def provenance_of(meta: dict[str, Any]) -> Iterator[str]:
    """Yields lines on the provenance of a checkpoint, by its metadata."""
    experiment, data = meta["experiment"], meta["data"]
    yield f"experiment    {experiment['name']}, seed {experiment['train']['seed']}"
    yield f"step          {meta['step']:,} of {experiment['train']['steps']:,}"
    if "averaged" in meta:
        yield f"              the average of checkpoints {', '.join(map(str, meta['averaged']))}"
    loss = meta["dev_loss"]
    yield f"validation    {'none' if loss is None else f'loss {loss:.4f} per token'}"
    yield f"cost          {minutes(meta['seconds'])} and {counted(meta['target_tokens'], 'target token')}"
    yield f"commit        {meta['commit']}"
    if data["splits"]:
        pairs = counted(data["splits"]["train"]["kept"], "training pair")
        yield f"text          {data['corpus']}, {pairs}, hash {data['hash']}"
    else:
        yield f"text          unknown: the model was imported from {meta['lineage'][0]['run']}"
    for role, source in data["sources"].items():
        yield f"              {role}: {source['name']}, {source['sha256'][:16]}"
    yield f"vocabulary    {meta['vocabulary']}"
    for setting, part in meta.get("parts", {}).items():
        file = f"{part['file']} {part['sha256'][:16]}" if "file" in part else "a notebook"
        yield f"custom part   {setting} = {part['name']!r}, from {file}"
