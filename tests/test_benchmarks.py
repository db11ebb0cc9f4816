"""The benchmarks start with the packages of a GPU machine, and the peers get the same weights."""

import re
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.dialogues import contrasts, dialogues, variants
from benchmarks.table import table

ROOT = Path(__file__).parents[1]


def test_they_need_no_more_than_jax_and_text():
    names = [path.stem for path in (ROOT / "benchmarks").glob("*.py")]
    missing = dict.fromkeys(["tyro", "grain", "tensorboardX", "tensorflow", "torch", "transformers", "ctranslate2"])
    code = f"import sys, importlib; sys.modules.update({missing!r})\n"
    code += f"for name in {names!r}: importlib.import_module('benchmarks.' + name)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_pronouns_are_exchanged_where_only_one_can_be_meant():
    assert variants("I will book it.", "Ich buche ihn.") == ("ihn", ["Ich buche sie.", "Ich buche es."])
    assert variants("It's on the left.", "Er ist links.") == ("er", ["Sie ist links.", "Es ist links."])
    assert variants("Did you buy it?", "Haben Sie sie gekauft?") == ("sie", ["Haben Sie es gekauft?"])
    assert variants("Is it new?", "Ist es neu?") == ("es", ["Ist sie neu?"])
    for english, german in (
        ("I see.", "Ich sehe es."),
        ("It likes it.", "Er mag es."),
        ("She sold it.", "Sie hat ihn verkauft."),
        ("Where is it?", "Wo sind Sie?"),
        ("It is. ", "Es ist so, dass er geht."),
    ):
        assert variants(english, german) == ("", [])


def test_dialogues_begin_with_a_greeting_and_are_not_short():
    lines = ["Hi.", "Hello.", "A cup.", "It is hot.", "Bye.", "How can I help?", "Hi there.", "Tea.", "x", "y", "Hello"]
    found = dialogues([(line, f"{line} Sie ist es.") for line in lines])
    assert [len(each) for each in found] == [5, 5, 1] and found[1][0][0] == "How can I help?"
    cup = [("A cup.", "Eine Tasse."), ("It is hot.", "Sie ist heiß."), ("Take it.", "Nehmen Sie sie.")]
    (one,) = contrasts(cup)
    assert one["group"] == "sie" and one["contrastive"] == ["Nehmen Sie es."]
    assert one["context"] == [list(pair) for pair in cup[:2]]


def test_the_speeds_told_are_the_records():
    readme = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- speed:.*?-->\n(.*?)<!-- end of speed -->", readme, re.DOTALL)
    assert shown and shown[1] == table()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": "target", "source_vocab_size": 31, "decoder_layers": 1, "activation": "gelu", "output_bias": True},
        {"tied": "none", "norm_epsilon": 1e-2, "scale_embeddings": False},
    ],
    ids=str,
)
def test_the_peer_translates_with_our_model(model, source, target, changes):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from dataclasses import replace

    from flax import nnx

    from benchmarks.decode import marian
    from transformer.config import BOS, PAD
    from transformer.model import Transformer

    config = replace(model.config, d_k=8, d_v=8, **changes)  # Marian's heads are d_model / h wide
    ours = Transformer(config, rngs=nnx.Rngs(0))
    if config.output_bias:
        ours.output_bias[...] = jnp.arange(config.vocab_size) / 10
    theirs = marian(nnx.to_pure_dict(nnx.state(ours, nnx.Param)), config)
    row = target[:1, :4]
    shifted = np.concatenate([[[BOS]], np.array(row)[:, :-1]], axis=1)
    with torch.no_grad():
        logits = theirs(
            input_ids=torch.tensor(np.array(source[:1])),
            attention_mask=torch.ones(1, source.shape[1]),
            decoder_input_ids=torch.tensor(shifted),
        ).logits
    written = [i for i in range(config.vocab_size) if i not in (PAD, BOS)]
    np.testing.assert_allclose(ours(source[:1], row)[..., written], jnp.array(logits.numpy())[..., written], atol=1e-4)


def test_a_grammar_parses_labels_with_a_bar_too():
    pytest.importorskip("nltk")
    from benchmarks.pcfg import learned, parsed

    one = "(TOP (S (NP (DT the) (NN cat)) (VP (VBZ sits) (ADVP|PRT (RB down)))))"
    two = "(TOP (S (NP (DT the) (NN cat)) (VP (VBZ sits) (ADVP|PRT (RB down) (RB here)) (NP (NN it)))))"
    grammar = learned([one, two] * 5)
    assert parsed(["the", "cat", "sits", "down"], grammar) == one
    assert parsed(["the", "cat", "sits", "down", "here", "it"], grammar) == two
