"""Parameters in a safetensors file, each under its dotted name, such as encoder.0.self_attention.query.kernel."""

import importlib
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from transformer.checkpoint import brief
from transformer.config import UserError
from transformer.parameters import Params, named

META = "meta"
"""Key in the metadata of the file: the `meta` of the checkpoint, as JSON."""


def library(name: str, package: str = "") -> Any:
    """Imports a library of the extra `exchange`. UserError with the command that installs its package."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = package or name.partition(".")[0]
        raise UserError(f"this needs {package}: python -m pip install {package} (or the extra `exchange`)") from error


def filled(template: Params, arrays: dict[str, np.ndarray], source: Path) -> Params:
    """Returns the tree `template` with these arrays, given by their dotted names, in float32.

    Raises:
        UserError: the file `source`, which has these arrays, lacks a parameter, has one more, or its shape or type is
            another, or its numbers are not finite.
    """
    shapes = named(template)
    for name in sorted(shapes.keys() | arrays.keys()):
        there = list(arrays[name].shape) if name in arrays else "missing"
        here = list(shapes[name].shape) if name in shapes else "missing"
        if there != here:
            raise UserError(f"{source}: its {name} is {there}, that of the model of its config.json is {here}")
        if arrays[name].dtype.kind != "f":
            raise UserError(f"{source}: its {name} has numbers of type {arrays[name].dtype}, not float32")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"{source}: its {name} has numbers that are not finite")
    leaves = [jax.numpy.asarray(arrays[name], np.float32) for name in shapes]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def write_arrays(path: Path, arrays: dict[str, Any], metadata: dict[str, str]) -> None:
    """Writes a safetensors file."""
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    library("safetensors.numpy").save_file(whole, path, metadata)


def read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file as (arrays, metadata). UserError if it is missing, truncated or of another format."""
    safetensors = library("safetensors")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # the library raises its own, those of the system, and TypeError for a type without name
        raise UserError(f"{path} cannot be read: {brief(error)}") from error


def meta_of(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """Returns the `meta` of the checkpoint that a file was exported from. UserError if the file has none."""
    try:
        meta = json.loads(metadata[META])
        _ = meta["experiment"]["model"], meta["vocabulary"], meta["step"], list(map(int, meta["averaged"]))[-1]
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{path} was not written by `export --format safetensors`: it has no metadata of ours"
        ) from error
    return dict(meta)
