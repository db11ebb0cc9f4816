"""Models with random parameters, and the vocabulary of a run."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.exchange import check
from experiments.translator import Translator
from transformer.config import ModelConfig
from transformer.train import init_params


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Models with random parameters do not end their outputs."""
    monkeypatch.setattr(check, "EXTRA", 4)


@pytest.fixture
def random(run):
    """Returns a function from settings of a model to such a model, in which every parameter is random."""
    trained = Translator.load(run.path, log=lambda line: None)

    def build(**settings):
        sizes = {"vocab_size": 220, "num_layers": 2, "d_model": 32, "d_ff": 48, "num_heads": 4, "d_k": 8, "d_v": 8}
        model = ModelConfig(**(sizes | settings))
        leaves, tree = jax.tree.flatten(init_params(model, 0))
        rng = np.random.default_rng(0)
        leaves = [leaf + rng.normal(0, 0.2, leaf.shape).astype(np.float32) for leaf in leaves]
        made = Translator(jax.tree.unflatten(tree, leaves), replace(trained.experiment, model=model), trained.tokenizer)
        made.meta, made.log = trained.meta, lambda line: None
        return made

    return build
