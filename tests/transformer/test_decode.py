from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.transformer.compiled import beam_search, forward, greedy_search, token_log_probs
from transformer.config import BOS, EOS, PAD
from transformer.decode import cache_lengths, largest, length_penalty
from transformer.model import Transformer

EXTRA = 6


@pytest.fixture(scope="module")
def sharp(config) -> Transformer:
    """A random model with larger embeddings, so that its probabilities are not nearly flat. Some outputs have EOS."""
    model = Transformer(replace(config, num_layers=1), rngs=nnx.Rngs(0))
    model.embedding[...] = model.embedding[...] * 2
    return model


@pytest.fixture(scope="module")
def tiny(config) -> Transformer:
    """A vocabulary of six tokens, four of which can be generated: all translations can be enumerated."""
    model = Transformer(replace(config, vocab_size=6, num_layers=1), rngs=nnx.Rngs(1))
    model.embedding[...] = model.embedding[...] * 3
    return model


def total_log_prob(model, source, tokens):
    return float(token_log_probs(model, source[None], jnp.array([tokens]))[0].sum())


def test_length_penalty_is_the_papers():
    np.testing.assert_allclose(length_penalty(1, 0.6), 1.0)
    np.testing.assert_allclose(length_penalty(7, 0.6), 2**0.6)
    np.testing.assert_allclose(length_penalty(100, 0.0), 1.0)


def test_greedy_takes_the_likeliest_token_up_to_its_first_eos(sharp):
    sources = jax.random.randint(jax.random.key(0), (16, 5), 4, 29).at[::2, 3:].set(PAD)

    def search(model):
        return greedy_search(model, sources, alpha=0.0, extra_length=EXTRA).tokens[:, 0]

    # EOS becomes slightly likelier than the fourth token that the model generates, so that some outputs end with it.
    written = search(sharp)[0, 3]
    model = nnx.clone(sharp)
    model.embedding[...] = model.embedding[...].at[EOS].set(1.01 * model.embedding[...][written])
    found = search(model)
    # Each token depends only on those before it: one forward pass gives the next token at every position.
    likeliest = np.array(forward(model, sources, found).at[..., jnp.array([PAD, BOS])].set(-jnp.inf).argmax(axis=-1))
    limits = (sources != PAD).sum(axis=1) + EXTRA
    ended = 0
    for tokens, guesses, limit in zip(np.array(found), likeliest, limits, strict=True):
        length = int((tokens != PAD).sum())
        np.testing.assert_array_equal(tokens[:length], guesses[:length])
        assert EOS not in tokens[: length - 1]
        assert tokens[length - 1] == EOS or length == limit
        ended += tokens[length - 1] == EOS and length < limit
    assert ended


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_a_wide_beam_finds_the_best_of_all_translations(tiny, alpha):
    # A beam as wide as the tree prunes nothing, so it must agree with an exhaustive search.
    source, limit = jnp.array([[4, 5, 3, 2]]), 5
    candidates = []
    for length in range(1, limit + 1):
        for words in product([3, 4, 5], repeat=length - 1):
            candidates.append([*words, EOS])
    candidates += [list(words) for words in product([3, 4, 5], repeat=limit)]
    padded = jnp.array([c + [PAD] * (limit - len(c)) for c in candidates])
    # The searches never generate PAD or BOS, and renormalise the other probabilities; do so here too.
    logits = forward(tiny, jnp.tile(source, (len(padded), 1)), padded).at[:, :, jnp.array([PAD, BOS])].set(-jnp.inf)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), padded[:, :, None], axis=2)[:, :, 0]
    scores = np.array(jnp.where(padded == PAD, 0, chosen).sum(1)) / np.array(
        length_penalty(jnp.array([len(c) for c in candidates]), alpha)
    )
    ended = np.array([c[-1] == EOS for c in candidates])
    best = np.argsort(-np.where(ended, scores, -np.inf))[:3]

    found = beam_search(tiny, source, beam=81, alpha=alpha, extra_length=limit - 4, best=3)
    for i, candidate in enumerate(best):
        np.testing.assert_array_equal(found.tokens[0, i], padded[candidate])
        np.testing.assert_allclose(found.scores[0, i], scores[candidate], rtol=1e-4)


def test_scores_are_what_forced_scoring_gives(sharp, source):
    found = beam_search(sharp, source, beam=4, alpha=0.6, extra_length=EXTRA, best=4)
    for best in range(4):
        tokens = found.tokens[:, best]
        logits = forward(sharp, source, tokens).at[..., jnp.array([PAD, BOS])].set(-jnp.inf)
        log_probs = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_probs, tokens[..., None], axis=-1)[..., 0]
        total = jnp.where(tokens != PAD, chosen, 0).sum(axis=1)
        lengths = (tokens != PAD).sum(axis=1)
        np.testing.assert_allclose(found.scores[:, best], total / length_penalty(lengths, 0.6), rtol=1e-4)


def test_hypotheses_are_distinct(sharp, source):
    found = beam_search(sharp, source, beam=4, alpha=0.0, extra_length=EXTRA, best=4)
    for row in range(len(source)):
        assert len({tuple(tokens) for tokens in found.tokens[row].tolist()}) == 4


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_a_sentence_does_not_notice_its_batch(sharp, source, search):
    def run(batch):
        if search == "greedy":
            return greedy_search(sharp, batch, alpha=0.6, extra_length=EXTRA)
        return beam_search(sharp, batch, beam=4, alpha=0.6, extra_length=EXTRA, best=4)

    together = run(source)
    order = jnp.array([1, 2, 1])  # as many as before: another number would be another program
    shuffled = run(source[order])
    np.testing.assert_array_equal(shuffled.tokens, together.tokens[order])
    for row in range(len(source)):
        alone = run(source[row : row + 1])
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-5)


def test_output_stops_at_the_input_plus_extra_length(sharp, source):
    # Without EOS no output ends by itself: the logit of EOS is 0, and others are far above it.
    endless = nnx.clone(sharp)
    endless.embedding[...] = endless.embedding[...].at[EOS].set(0.0)
    for found in (
        greedy_search(endless, source, alpha=0.6, extra_length=3).tokens[:, 0],
        beam_search(endless, source, beam=2, alpha=0.6, extra_length=3).tokens[:, 0],
    ):
        np.testing.assert_array_equal((found != PAD).sum(axis=1), (source != PAD).sum(axis=1) + 3)
        assert not jnp.any(found == EOS)


def test_an_empty_row_costs_nothing_and_changes_nothing(sharp, source):
    with_empty = jnp.concatenate([source, jnp.zeros_like(source[:2])])
    expected = beam_search(sharp, source, beam=3, alpha=0.6, extra_length=EXTRA)
    found = beam_search(sharp, with_empty, beam=3, alpha=0.6, extra_length=EXTRA)
    np.testing.assert_array_equal(found.tokens[: len(source)], expected.tokens)
    assert jnp.all(found.tokens[len(source) :] == PAD)


def search_to_the_end(logits_of, beam, alpha, limit):
    """A textbook beam search for one sentence, without cache or early stopping. Returns score and tokens."""
    alive, finished = [(0.0, [])], []
    for t in range(limit):
        rows = [tokens + [PAD] * (limit - t) for _, tokens in alive] + [[PAD] * limit] * (beam - len(alive))
        logits = logits_of(jnp.array(rows))[:, t].at[:, jnp.array([PAD, BOS])].set(-jnp.inf)
        log_probs = np.array(jax.nn.log_softmax(logits))
        ways = sorted(
            ((score + log_probs[i, v], [*tokens, v]) for i, (score, tokens) in enumerate(alive) for v in range(2, 29)),
            key=lambda way: -way[0],
        )[: 2 * beam]
        finished += [(p / float(length_penalty(t + 1, alpha)), way) for p, way in ways if way[-1] == EOS]
        alive = [(p, way) for p, way in ways if way[-1] != EOS][:beam]
    return max(finished) if finished else max((p / float(length_penalty(limit, alpha)), way) for p, way in alive)


@pytest.mark.parametrize("alpha", [0.6, 1.5])
def test_a_search_that_stops_early_finds_what_one_to_the_end_finds(sharp, alpha):
    # A large alpha favours long outputs, which a bound based on the current length would discard.
    sources = jax.random.randint(jax.random.key(5), (16, 4), 4, 29)
    found = beam_search(sharp, sources, beam=3, alpha=alpha, extra_length=26)
    lengths = (found.tokens[:, 0] != PAD).sum(axis=1)
    assert lengths.min() < 30 and lengths.max() == 30  # some stop early, and some could have stopped
    logits_of = jax.jit(lambda source, target: sharp(jnp.tile(source, (3, 1)), target))
    for row, source in enumerate(sources):
        score, tokens = search_to_the_end(partial(logits_of, source), 3, alpha, limit=30)
        np.testing.assert_allclose(found.scores[row, 0], score, rtol=1e-4)
        np.testing.assert_array_equal(found.tokens[row, 0], tokens + [PAD] * (30 - len(tokens)))


@pytest.mark.parametrize("size", [9, 127, 200, 640, 2 * 331])
def test_the_largest_are_those_of_top_k(size):
    x = jax.random.normal(jax.random.key(size), (3, 2, size))
    x = x.at[0, 0, :7].set(9.0 + jnp.arange(7))  # adjacent: all from one block
    expected, places = jax.lax.top_k(x, 5)
    found, where = largest(x, 5)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(where, places)


def test_the_cache_grows_up_to_the_limit():
    assert cache_lengths(16, 66) == [16, 32, 66]
    assert cache_lengths(128, 129) == [129]


def test_forced_scoring_is_a_probability(tiny):
    # The probabilities of all translations of up to two tokens and of all prefixes of longer ones sum to 1.
    beginnings = [[EOS, PAD]] + [[a, b] for a in (3, 4, 5) for b in (2, 3, 4, 5)]
    source = jnp.tile(jnp.array([4, 5, 2]), (len(beginnings), 1))
    log_probs = token_log_probs(tiny, source, jnp.array(beginnings)).sum(axis=1)
    np.testing.assert_allclose(np.exp(log_probs).sum(), 1.0, rtol=1e-5)
    assert token_log_probs(tiny, source[:1], jnp.array([[4, 2, 0]]))[0, 2] == 0


def test_forced_scoring_gives_the_models_own_odds(tiny):
    source, target = jnp.array([[4, 5, 2]]), jnp.array([[4, 2]])
    scored = token_log_probs(tiny, source, target)[0]
    logits = forward(tiny, source, target)[0]
    other = token_log_probs(tiny, source, jnp.array([[5, 2]]))[0]
    np.testing.assert_allclose(scored[0] - other[0], logits[0, 4] - logits[0, 5], rtol=1e-4)


def test_finished_hypotheses_come_first_and_each_kind_is_sorted(tiny):
    # With at most two tokens there are 4 finished outputs and 9 prefixes.
    source = jnp.array([[4, 2], [5, 2]])
    found = beam_search(tiny, source, beam=12, alpha=0.6, extra_length=0, best=12)
    for tokens, scores in zip(found.tokens, np.array(found.scores), strict=True):
        cut_off = ~np.array((tokens == EOS).any(axis=1))
        count = int((~cut_off).sum())
        assert count == 4 and not cut_off[:count].any()
        assert np.all(np.diff(scores[:count]) <= 0) and np.all(np.diff(scores[count:]) <= 0)
        assert scores[count] > scores[count - 1]  # so the order is not only that of the scores
