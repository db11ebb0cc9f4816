"""Fine-tuning: frozen parameters, and low-rank adaptation (LoRA; Hu et al., 2021, "LoRA: Low-Rank Adaptation").

With LoRA, the parameters have an additional entry "lora": for each adapted matrix W of shape [in, out], factors `a`
[in, r] and `b` [r, out]. The model is run with W + (alpha / r) a b in place of W, so that its code does not know of
them, and a merged model is an ordinary one.
"""

import math
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from transformer.config import Experiment, LoraConfig, UserError
from transformer.parameters import Params, name_of, named

LORA = "lora"


def has_frozen(experiment: Experiment) -> bool:
    """Whether some parameters of an experiment are not trained."""
    return bool(experiment.freeze or experiment.lora.rank)


def trained(experiment: Experiment, params: Params) -> Params:
    """Whether each parameter is trained, as a tree of bools. UserError for a pattern that matches no parameter."""
    patterns = [pattern.strip() for pattern in (experiment.freeze or "").split(",") if pattern.strip()]
    names = list(named(params))
    for pattern in patterns:
        if not any(matches(name, pattern) for name in names):
            raise UserError(f"--freeze {pattern!r} matches no parameter; there are: {', '.join(names[:3])}, ...")

    def is_trained(path: tuple[Any, ...], _: Any) -> bool:
        name = name_of(path)
        adapted = not experiment.lora.rank or name.startswith(f"{LORA}.")
        return adapted and not any(matches(name, pattern) for pattern in patterns)

    found = jax.tree_util.tree_map_with_path(is_trained, params)
    if not any(jax.tree.leaves(found)):
        raise UserError("every parameter is frozen: there is nothing to train")
    return found


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern matches the name of a parameter, or its beginning up to a dot."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def add_lora(params: Params, config: LoraConfig, key: Array) -> Params:
    """Adds the factors for the matrices that `config.on` names, if the rank is not 0. The model stays the same.

    The entries of `a` are normal with a standard deviation of 1 / sqrt(in); `b` is 0.
    """
    if not config.rank:
        return params
    chosen = config.on.split(",")

    def below(tree: Any, key: Array) -> Any:
        if not isinstance(tree, dict):
            return None
        keys = jax.random.split(key, len(tree))
        found = {}
        for (name, part), key in zip(sorted(tree.items(), key=str), keys, strict=True):
            is_chosen = name in chosen and isinstance(part, dict) and "kernel" in part
            if added := factors(name, part["kernel"], config.rank, key) if is_chosen else below(part, key):
                found[name] = added
        return found

    return params | {LORA: below(params, key)}


def factors(name: str, kernel: Array, rank: int, key: Array) -> dict[str, Array]:
    """The factors `a` and `b` of a matrix with this kernel, which may have several input or output axes."""
    split = 2 if name == "output" else 1  # the output projection maps (N, H) to D
    inputs, outputs = math.prod(kernel.shape[:split]), math.prod(kernel.shape[split:])
    if rank > min(inputs, outputs):
        raise UserError(f"lora.rank = {rank} is larger than {name}, a matrix of {inputs} x {outputs}")
    return {"a": jax.random.normal(key, (inputs, rank)) * inputs**-0.5, "b": jnp.zeros((rank, outputs))}


def merge_lora(params: Params, config: LoraConfig) -> Params:
    """Returns the parameters of the model: W + (alpha / r) a b for each adapted W, without the factors."""
    if LORA not in params:
        return params
    scale = config.alpha / config.rank

    def merged(part: Any, added: Any) -> Any:
        if "a" in added and "b" in added:
            product = (added["a"] @ added["b"]).reshape(part["kernel"].shape)
            return part | {"kernel": part["kernel"] + scale * product}
        return part | {name: merged(part[name], below) for name, below in added.items()}

    return merged({name: part for name, part in params.items() if name != LORA}, params[LORA])
