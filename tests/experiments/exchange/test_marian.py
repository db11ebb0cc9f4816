"""`export --format marian`: the model that Hugging Face transformers loads computes the same."""

import json
import re

import numpy as np
import pytest

from experiments.exchange import marian
from experiments.exchange.exchange import export_run
from transformer.config import UserError

pytest.importorskip("torch")
pytest.importorskip("transformers")

VARIANTS = {
    "paper": {},
    "swish": {"activation": "swish", "tied": "target", "output_bias": True, "norm_epsilon": 1e-5, "dtype": "bfloat16"},
    "untied": {"activation": "gelu", "tied": "none", "decoder_layers": 1, "scale_embeddings": False},
}


def quiet(line):
    pass


@pytest.mark.parametrize(
    "variant", [one if one == "swish" else pytest.param(one, marks=pytest.mark.slow) for one in VARIANTS]
)
def test_transformers_computes_the_same(variant, random, tmp_path):
    lines = []
    sentences = ["a dog runs", "two men are sitting on a bench", "the woman reads"]
    export_run(random(**VARIANTS[variant]), tmp_path / "new", lines.append, "marian", sentences)
    equal, count = map(int, re.match(r"(\d+) of (\d+) outputs equal", lines[-1]).groups())
    assert equal == count == 3


def test_another_function_is_noticed_and_nothing_is_left(random, tmp_path, monkeypatch):
    monkeypatch.setattr(marian, "halves", np.arange)
    with pytest.raises(UserError, match="transformers gives other scores"):
        export_run(random(), tmp_path / "new", quiet, "marian", ["a dog runs"])
    assert list(tmp_path.iterdir()) == []


def test_the_pieces_have_the_ids_of_the_run(random, tmp_path):
    model = random()
    marian.write_marian(model, tmp_path)
    ids = json.loads((tmp_path / "vocab.json").read_text())
    assert sorted(ids.values()) == list(range(220))
    assert [ids[piece] for piece in model.tokenizer.pieces(range(model.tokenizer.size))] == list(range(200))


REFUSED = {
    "norm = post": {"norm": "pre"},
    "positions = sinusoidal": {"positions": "learned"},
    "biases = True": {"biases": False},
    "shared_layers = 1": {"shared_layers": 2},
    "d_v = 8": {"d_v": 4},
    "architecture = encoder-decoder": {"architecture": "recurrent"},
    "an even model.d_model": {"d_model": 30},
}


@pytest.mark.parametrize("needed", REFUSED)
def test_a_model_that_the_format_has_not_is_refused(needed, random, tmp_path):
    with pytest.raises(UserError, match=needed):
        export_run(random(**REFUSED[needed]), tmp_path / "new", quiet, "marian")
    assert list(tmp_path.iterdir()) == []
