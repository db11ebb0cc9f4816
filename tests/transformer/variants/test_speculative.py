"""Speculative decoding gives the output of greedy search, whatever the draft."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.transformer.compiled import greedy_search, step
from transformer.config import DecodeConfig
from transformer.model import make_model
from transformer.variants.decoding import speculative
from transformer.variants.decoding.speculative import Drafted, several_steps, speculative_search
from transformer.variants.decoding.ways import decode


@pytest.fixture(scope="module", params=[{}, {"attention": "restricted", "attention_window": 3, "norm": "pre"}], ids=str)
def large(request, config):
    model = make_model(replace(config, tied="none", **request.param), rngs=nnx.Rngs(3))
    # Otherwise the model repeats one token, which any draft would guess.
    model.output_embedding[...] = 8 * model.output_embedding[...]
    return model


@pytest.fixture(scope="module")
def sentences(source):
    """Sentences of 7, 4, 5 and 0 tokens."""
    return jnp.concatenate([source, jnp.zeros_like(source[:1])])


def searched(model, draft, source, length):
    def search(model, draft, source):
        return speculative_search(Drafted(model, draft, length), source, alpha=0.6, extra_length=9)

    return jax.jit(search)(model, draft, source)


@pytest.mark.parametrize("length", [1, 4])
@pytest.mark.parametrize("own", [True, False], ids=["itself", "another"])
def test_the_output_is_that_of_greedy_search(config, large, sentences, length, own):
    draft = large if own else make_model(replace(config, num_layers=1, tied="none"), rngs=nnx.Rngs(7))
    found = searched(large, draft, sentences, length)
    expected = greedy_search(large, sentences, alpha=0.6, extra_length=9)
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_allclose(found.log_probs, expected.log_probs, atol=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)
    assert len(np.unique(found.tokens)) > 5


@pytest.mark.parametrize("length", [1, 3])
def test_a_perfect_draft_saves_most_passes(large, sentences, length, monkeypatch):
    passes = []

    def counted(model, tokens, cache, index):
        jax.debug.callback(passes.append, index)
        return several_steps(model, tokens, cache, index)

    monkeypatch.setattr(speculative, "several_steps", counted)
    row = sentences[:1]
    found = searched(large, large, row, length)
    jax.effects_barrier()
    written = int((found.tokens != 0).sum())
    assert len(passes) == -(-written // (length + 1))


@pytest.mark.slow
def test_several_steps_are_one_after_the_other(large, source):
    tokens = jnp.array([[5, 9, 11, 6, 21]] * 3)
    cache, history = large.start_cache(source, 1, 8), jnp.zeros((3, 1, 8), jnp.int32)
    one_by_one, alone = [], cache
    for t in range(5):
        logits, alone = step(large, tokens[:, t : t + 1], alone, t, history)
        one_by_one.append(logits)
    first, cache = several_steps(large, tokens[:, :2], cache, jnp.array(0))
    # What a rejected draft left in the cache is written over.
    _, cache = several_steps(large, tokens[:, :3] + 1, cache, jnp.array(2))
    rest, _ = several_steps(large, tokens[:, 2:], cache, jnp.array(2))
    np.testing.assert_allclose(
        jnp.concatenate([first, rest], axis=1), jnp.concatenate(one_by_one, axis=1), rtol=1e-4, atol=1e-4
    )


@pytest.mark.slow
def test_the_settings_choose_it(large, sentences):
    drafted = Drafted(large, large, 3)
    settings = DecodeConfig(beam=1, extra_length=9)
    found = decode(drafted, sentences, settings, best=1, pieces=29)
    np.testing.assert_array_equal(found.tokens, greedy_search(large, sentences, alpha=0.6, extra_length=9).tokens)
