"""Statistics of heads equal those of a loop over sentences, and an ablated head has no effect."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.inspection.heads import Head, Looks, heads, looks, unshared, without
from experiments.translator import Translator
from tests.transformer.compiled import attention_weights, forward
from transformer.config import UserError
from transformer.model import Transformer
from transformer.train import graph_of, init_params

SOURCES = ["the cat sees a dog", "a", "the dog sees the old cat and the cat sees it"]
TARGETS = ["die katze", "der hund sieht die alte katze", "ein"]


@pytest.fixture(scope="module")
def translator(run) -> Translator:
    return Translator.load(run.path, log=lambda line: None)


def test_all_heads_have_a_name_of_their_own(translator):
    config = translator.experiment.model
    names = [str(head) for head in heads(config)]
    assert len(set(names)) == len(names) == 3 * config.num_layers * config.num_heads
    assert names[0] == "encoder 1.1"


@pytest.mark.slow
def test_looks_are_those_of_a_loop_over_sentences_and_positions(translator):
    found = looks(translator, SOURCES, TARGETS)
    pairs = [translator.attention(*pair).weights for pair in zip(SOURCES, TARGETS, strict=True)]
    for name in ("encoder", "decoder", "cross"):
        layers, count = found[name].entropy.shape
        for layer in range(layers):
            for head in range(count):
                values = {field: [] for field in Looks._fields}
                for weights in pairs:
                    for t, row in enumerate(np.asarray(getattr(weights, name))[layer, head]):
                        values["entropy"].append(-sum(w * np.log2(w) for w in row if w > 0))
                        values["distance"].append(sum(w * abs(t - s) for s, w in enumerate(row)))
                        places = {"previous": t - 1, "same": t, "next": t + 1, "first": 0, "last": len(row) - 1}
                        for field, place in places.items():
                            if 0 <= place < len(row):
                                values[field].append(row[place])
                for field, every in values.items():
                    assert getattr(found[name], field)[layer, head] == pytest.approx(np.mean(every), abs=1e-5), field


def test_what_the_mask_hides_is_never_looked_at(translator):
    assert np.all(looks(translator, SOURCES, TARGETS)["decoder"].next == 0)


def test_a_text_that_is_no_text_is_refused(translator):
    with pytest.raises(UserError, match="1 source and 2 targets"):
        looks(translator, ["a"], ["b", "c"])
    with pytest.raises(UserError, match="0 sources"):
        looks(translator, [], [])


def test_removing_a_head_zeroes_its_rows_and_nothing_else(translator):
    params = translator.params
    before = jax.tree.map(np.array, params)
    changed = without(params, Head("cross", 0, 1))
    assert jax.tree.all(jax.tree.map(np.array_equal, before, params))
    differing = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(changed), strict=True)
        if not np.array_equal(a, b)
    ]
    assert len(differing) == 1 and "cross_attention" in differing[0] and "output" in differing[0]
    kernel, old = (p["decoder"][0]["cross_attention"]["output"]["kernel"] for p in (changed, params))
    assert np.all(kernel[1] == 0) and np.array_equal(kernel[0], old[0])


@pytest.mark.slow
def test_without_its_cross_heads_the_decoder_does_not_know_the_source(translator):
    config = translator.experiment.model
    blind = without(translator.params, *(head for head in heads(config) if head.attention == "cross"))
    target = jnp.array([[5, 6, 7, 2]])

    def logits(params):
        model = Translator(params, translator.experiment, translator.tokenizer).model
        return [np.asarray(model(jnp.array([source]), target)) for source in ([8, 9, 2], [10, 11, 2])]

    assert np.allclose(*logits(blind), atol=1e-6)
    assert not np.allclose(*logits(translator.params), atol=1e-3)


@pytest.mark.parametrize("head", [Head("encoder", 9, 0), Head("encoder", 0, 9), Head("encoder", 0, -1)])
def test_a_head_that_there_is_not_is_refused(translator, head):
    with pytest.raises(UserError, match="no head"):
        without(translator.params, head)


def test_heads_count_as_the_layers_are_applied(config, source, target):
    config = replace(config, num_layers=2, decoder_layers=4, shared_layers=2)
    found = list(heads(config))
    weights = attention_weights(Transformer(config, rngs=nnx.Rngs(0)), source, target)._asdict()
    assert {kind: len(array) * config.num_heads for kind, array in weights.items()} == {
        kind: sum(head.attention == kind for head in found) for kind in weights
    }


@pytest.mark.slow
def test_unshared_layers_are_the_same_model_whose_heads_can_be_ablated_alone(config, source, target):
    config = replace(config, num_layers=2, decoder_layers=4, shared_layers=2)
    params = init_params(config, 0)
    with pytest.raises(UserError, match=r"no head decoder 3\.1"):
        without(params, Head("decoder", 2, 0))
    alone, repeated = unshared(config, params)

    def logits(config, params):
        return forward(nnx.merge(graph_of(config), params), source, target)

    np.testing.assert_allclose(logits(alone, repeated), logits(config, params), atol=1e-6)
    changed = [logits(alone, without(repeated, Head("decoder", layer, 0))) for layer in (2, 3)]
    assert np.any(changed[0] != changed[1])
