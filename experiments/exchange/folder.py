"""Our own exchange format, a folder: config.json, vocab.model and the parameters as model.safetensors."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from data.tokenizer import Tokenizer
from experiments.exchange.arrays import META, filled, meta_of, read_arrays, write_arrays
from experiments.translator import Translator
from experiments.workdir import differences, value_of
from transformer.checkpoint import read_json
from transformer.config import Experiment, UserError, counted
from transformer.parameters import Params, named
from transformer.train import init_params

Log = Callable[[str], None]

WEIGHTS = "model.safetensors"


def shapes_of(experiment: Experiment) -> Params:
    """Returns the shapes of the parameters of an experiment's model."""
    return jax.eval_shape(lambda: init_params(experiment.model, 0))


def write_folder(translator: Translator, folder: Path, log: Log) -> None:
    """Writes the parameters as they are used, averaged and merged, and reads them back. UserError if they differ."""
    arrays = {name: np.asarray(leaf) for name, leaf in named(translator.params).items()}
    meta = translator.meta | {"averaged": translator.steps, "selection": translator.selection}
    path = folder / WEIGHTS
    write_arrays(path, arrays, {META: json.dumps(meta)})
    (folder / "config.json").write_text(json.dumps(asdict(translator.experiment), indent=2) + "\n", encoding="utf-8")
    for name, content in translator.tokenizer.files().items():
        (folder / name).write_bytes(content)
    read = named(read_folder(folder).params)
    if differing := [name for name in arrays if not np.array_equal(arrays[name], read[name])]:
        raise UserError(f"{path} does not hold what was written: {differing[0]} differs")
    log(f"{counted(len(arrays), 'array')} read back, all equal bit for bit")


def read_folder(folder: Path) -> Translator:
    """Loads a model from a folder of `write_folder`.

    Raises:
        UserError: a file is missing or damaged, or config.json is not of the model that model.safetensors has.
    """
    config, path = folder / "config.json", folder / WEIGHTS
    given = read_json(config)
    experiment = Experiment.from_dict(given, config)
    tokenizer = Tokenizer.load(folder)
    arrays, metadata = read_arrays(path)
    meta = meta_of(path, metadata)
    settings = asdict(experiment)
    for name in differences(meta["experiment"], settings):
        if name.startswith("model."):
            said, trained = value_of(settings, name), value_of(meta["experiment"], name)
            raise UserError(f"{config} says {name} = {said}, but the model of {path} has {trained}")
    if tokenizer.sha256 != meta["vocabulary"]:
        raise UserError(f"{folder / 'vocab.model'} is not the vocabulary of the model in {path}")
    params = filled(shapes_of(experiment), arrays, path)
    translator = Translator(params, experiment, tokenizer)
    translator.meta, translator.steps = meta | {"experiment": settings}, meta["averaged"]
    return translator
