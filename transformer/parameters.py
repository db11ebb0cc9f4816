"""The parameters of a model as a plain tree, and their names."""

from typing import Any

import jax

Params = dict[str, Any]
"""The model's parameters as a plain nested dict of arrays, which optax, Orbax and jit handle fastest."""


def name_of(path: tuple[Any, ...]) -> str:
    """The name of a parameter: "encoder.0.self_attention.query.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named(params: Any) -> dict[str, Any]:
    """The parameters, or anything with a shape in their place, by name."""
    leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=lambda x: hasattr(x, "shape"))
    return {name_of(path): leaf for path, leaf in leaves}
