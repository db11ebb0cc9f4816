from dataclasses import replace
from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.programs import compiled_search
from tests.transformer.compiled import attention_weights, forward, token_log_probs
from transformer import decode as decoding
from transformer.config import BOS, EOS, PAD, UNK, DecodeConfig, ModelConfig
from transformer.decode import length_penalty
from transformer.model import Transformer
from transformer.variants.decoding import ways
from transformer.variants.decoding.alignment import alignment
from transformer.variants.decoding.ensemble import Ensemble
from transformer.variants.decoding.sampling import line_keys, truncated
from transformer.variants.decoding.ways import Given

ALPHA, EXTRA = 0.6, 6
SIZE = 29


def model_of(config: ModelConfig, seed: int, scale: float) -> Transformer:
    """A random model of one layer with larger embeddings, so that its probabilities are not nearly flat."""
    model = Transformer(replace(config, num_layers=1), rngs=nnx.Rngs(seed))
    model.embedding[...] = model.embedding[...] * scale
    return model


@pytest.fixture(scope="module")
def sharp(config) -> Transformer:
    return model_of(config, 0, 2)


@pytest.fixture(scope="module")
def tiny(config) -> Transformer:
    """A vocabulary of six tokens, four of which can be generated: all translations can be enumerated."""
    return model_of(replace(config, vocab_size=6), 1, 3)


@partial(jax.jit, static_argnames=("settings", "best", "pieces"))
def decode(models, source, settings, best, given, pieces=SIZE):
    return ways.decode(
        models if isinstance(models, Transformer) else Ensemble(models), source, settings, best, pieces, given
    )


@jax.jit
def forced(models, source, target):
    return decoding.token_log_probs(Ensemble(models), source, target)


def settings_of(**changes) -> DecodeConfig:
    return DecodeConfig(**({"beam": 4, "alpha": ALPHA, "extra_length": EXTRA} | changes))


def words_of(tokens) -> list[int]:
    """The tokens of a hypothesis without padding."""
    return [int(i) for i in tokens if i != PAD]


def holds(tokens, phrase) -> bool:
    return any(list(tokens[i : i + len(phrase)]) == list(phrase) for i in range(len(tokens)))


def repeats(tokens, n: int) -> bool:
    ngrams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(ngrams)) < len(ngrams)


def phrases(*given) -> Given:
    return Given(phrases=jnp.array([given]))


# Each rule as settings, as what is given, and as a predicate on finished outputs (tokens without EOS).
RULES = {
    "min_length": ({"min_length": 3}, Given(), lambda words: len(words) >= 3),
    "unigram": ({"no_repeat_ngram": 1}, Given(), lambda words: not repeats(words, 1)),
    "bigram": ({"no_repeat_ngram": 2}, Given(), lambda words: not repeats(words, 2)),
    "forbid_unk": ({"forbid_unk": True}, Given(), lambda words: UNK not in words),
    "rows": ({"forbid_unk": True}, Given(), lambda words: not {UNK, 5} & set(words)),
    "both": ({"forbid_unk": True, "min_length": 2}, Given(), lambda words: UNK not in words and len(words) >= 2),
    "prefix": ({}, Given(jnp.array([[5, 4, PAD]])), lambda words: words[:2] == [5, 4]),
    "prefix wins": (
        {"forbid_unk": True},
        Given(jnp.array([[UNK]])),
        lambda words: words[:1] == [UNK] and 3 not in words[1:],
    ),
    "phrase": ({}, phrases([4, 4]), lambda words: holds(words, [4, 4])),
    "phrases": ({}, phrases([3, PAD], [5, 5], [PAD, PAD]), lambda words: 3 in words and holds(words, [5, 5])),
    "phrase that begins again": ({}, phrases([4, 4, 3]), lambda words: holds(words, [4, 4, 3])),
    "phrase and rule": ({"min_length": 4}, phrases([5]), lambda words: 5 in words and len(words) >= 4),
    "phrase and prefix": ({}, Given(jnp.array([[5]]), jnp.array([[[3]]])), lambda words: 3 in words and words[0] == 5),
}


LIMIT = 5


@pytest.fixture(scope="module")
def every(tiny) -> dict[tuple[int, ...], float]:
    """Every finished translation of up to five tokens, without EOS, and its score."""
    outputs = [words for length in range(LIMIT) for words in product([3, 4, 5], repeat=length)]
    padded = jnp.array([[*words, EOS] + [PAD] * (LIMIT - len(words) - 1) for words in outputs])
    totals = token_log_probs(tiny, jnp.tile(jnp.array([[4, 5, 3, 2]]), (len(outputs), 1)), padded).sum(axis=1)
    scores = totals / length_penalty((padded != PAD).sum(axis=1), ALPHA)
    return dict(zip(outputs, scores.tolist(), strict=True))


@pytest.mark.parametrize("name", RULES)
def test_a_wide_beam_with_a_rule_finds_the_best_of_the_translations_that_keep_it(tiny, every, name):
    changes, given, keeps = RULES[name]
    best = sorted((score, words) for words, score in every.items() if keeps(list(words)))[::-1]
    assert len(best) >= 2
    settings = settings_of(beam=81, extra_length=LIMIT - 4, **changes)
    found = decode(tiny, jnp.array([[4, 5, 3, 2]]), settings, 3, given, 5 if name == "rows" else 6)
    for tokens, value, (score, words) in zip(found.tokens[0], found.scores[0], best, strict=False):
        assert words_of(tokens) == [*words, EOS]
        np.testing.assert_allclose(value, score, rtol=1e-4)


WAYS = {
    "greedy": settings_of(beam=1, no_repeat_ngram=2, min_length=4),
    "beam": settings_of(no_repeat_ngram=1, forbid_unk=True),
    "constrained": settings_of(min_length=5),
    "sampling": settings_of(beam=1, sample=True, top_p=0.9, temperature=1.5, no_repeat_ngram=2),
}


def given_for(way: str, rows) -> Given:
    """What is given for the sentences `rows` of the fixture `source`: another thing for each."""
    prefixes = jnp.array([[20, 21, 22], [23, PAD, PAD], [PAD, PAD, PAD]])[rows]
    # The second sentence has no room for its phrase: it is cut off before the others.
    phrases = (
        jnp.zeros((3, 2, 12), jnp.int32).at[:, :, :2].set([[[7, 8], [9, PAD]], [[11, 12]] * 2, [[12, 13], [13, 14]]])
    )
    phrases = phrases.at[1, 0].set(11)[rows]
    return Given(
        prefixes,
        phrases if way == "constrained" else None,
        line_keys(3, [11 + int(row) for row in rows]) if way == "sampling" else None,
    )


@pytest.mark.parametrize("way", WAYS)
def test_a_sentence_does_not_notice_its_batch_or_its_padding(sharp, source, way):
    settings, best = WAYS[way], 1 if way == "greedy" else 4
    together = decode(sharp, source, settings, best, given_for(way, jnp.arange(3)))
    order = jnp.array([1, 2, 1])  # as many as before: another number would be another program
    shuffled = decode(sharp, source[order], settings, best, given_for(way, order))
    np.testing.assert_array_equal(shuffled.tokens, together.tokens[order])
    wide = jnp.pad(source, ((0, 0), (0, 5)))
    for row in range(3):
        alone = decode(sharp, wide[row : row + 1], settings, best, given_for(way, jnp.array([row])))
        np.testing.assert_array_equal(alone.tokens[0, :, :-5], together.tokens[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_those_of_forced_scoring_and_rules_hold(sharp, source, way):
    settings, best = WAYS[way], 1 if way == "greedy" else 4
    given = given_for(way, jnp.arange(3))
    found = decode(sharp, source, settings, best, given)
    for k in range(best):
        each = token_log_probs(sharp, source, found.tokens[:, k])
        lengths = (found.tokens[:, k] != PAD).sum(axis=1)
        np.testing.assert_allclose(found.scores[:, k], each.sum(axis=1) / length_penalty(lengths, ALPHA), rtol=1e-4)
        np.testing.assert_allclose(found.log_probs[:, k], each, rtol=1e-4, atol=1e-5)
        assert (np.array(found.log_probs[:, k]) <= 0).all()
    for outputs, prefix in zip(found.tokens, map(words_of, given.prefixes), strict=True):
        for tokens in map(words_of, outputs):
            assert tokens[: len(prefix)] == prefix
            assert len(tokens) > settings.min_length
            assert not settings.no_repeat_ngram or not repeats(tokens, settings.no_repeat_ngram)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_a_search_that_returns_no_log_probabilities_of_tokens_does_not_carry_them(sharp, source, way):
    settings, best = WAYS[way], 1 if way == "greedy" else 4
    graph, params = nnx.split(sharp)

    def carried(log_probs: bool) -> int:
        search = compiled_search(graph, settings, best, pieces=SIZE, log_probs=log_probs)
        program = search.lower(params, source, given_for(way, jnp.arange(3))).compile().as_text()
        loops = [line for line in program.splitlines() if " while(" in line]
        assert loops
        rows = "3" if way == "greedy" else "3,4"
        return sum(line.partition(" while(")[0].count(f"f32[{rows},{source.shape[1] + EXTRA}]") for line in loops)

    assert carried(True) > 0 == carried(False)


def test_where_the_rules_leave_nothing_the_output_ends(tiny):
    source = jnp.array([[4, 5, 3, 2]])
    for beam in (1, 4):
        found = decode(tiny, source, settings_of(beam=beam, no_repeat_ngram=1, min_length=9), 1, Given(), 6)
        assert sorted(words_of(found.tokens[0, 0])) == [EOS, 3, 4, 5] and int(found.tokens[0, 0, 3]) == EOS


def test_a_finished_output_contains_its_phrases_even_with_a_small_beam(sharp):
    keys = jax.random.split(jax.random.key(0), 2)
    sources = jax.random.randint(keys[0], (24, 6), 4, SIZE)
    phrases = jax.random.randint(keys[1], (24, 2, 2), 4, SIZE)
    # EOS as likely as others, so that outputs end.
    model = nnx.clone(sharp)
    model.embedding[...] = model.embedding[...].at[EOS].set(model.embedding[...][9])
    found = decode(model, sources, settings_of(extra_length=12), 4, Given(phrases=phrases))
    finished = 0
    for outputs, given in zip(found.tokens, phrases.tolist(), strict=True):
        for tokens in map(words_of, outputs):
            met = all(holds(tokens, phrase) for phrase in given)
            finished += tokens[-1] == EOS
            assert met or tokens[-1] != EOS
    assert finished > 24


@pytest.mark.slow
def test_no_phrases_are_no_constraint(sharp, source):
    settings = settings_of(extra_length=12)
    # A wide beam, since EOS is an extension here even when it is not among the 2K best.
    wide = replace(settings, beam=20)
    plain = decode(sharp, source, wide, 1, Given())
    found = decode(sharp, source, wide, 1, Given(phrases=jnp.zeros((3, 2, 2), jnp.int32)))
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-5)
    np.testing.assert_array_equal(found.tokens, plain.tokens)


def test_a_sample_of_one_candidate_is_greedy_search(sharp, source):
    greedy = decode(sharp, source, settings_of(beam=1), 1, Given())
    for changes in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}):
        settings = settings_of(beam=1, sample=True, **changes)
        found = decode(sharp, source, settings, 2, Given(keys=line_keys(0, [1, 2, 3])))
        np.testing.assert_array_equal(found.tokens, jnp.repeat(greedy.tokens, 2, axis=1))
        np.testing.assert_allclose(found.scores[:, :1], greedy.scores, rtol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"temperature": 2.0}, {"top_k": 2}, {"top_p": 0.8, "temperature": 1.7}])
def test_samples_have_the_models_frequencies(tiny, changes):
    # The first two tokens of many samples, against the products of the model's probabilities, by chi-square.
    count, source = 4000, jnp.array([[4, 5, 3, 2]])
    settings = settings_of(beam=1, sample=True, extra_length=1, **changes)
    keys = line_keys(7, range(count // 4))
    found = decode(tiny, jnp.tile(source, (count // 4, 1)), settings, 4, Given(keys=keys), 6)
    drawn = np.array(found.tokens[:, :, :2]).reshape(count, 2)
    temperature, top_k, top_p = (getattr(settings, name) for name in ("temperature", "top_k", "top_p"))

    def probabilities(target):
        logits = forward(tiny, jnp.tile(source, (len(target), 1)), jnp.array(target)).at[..., jnp.array([PAD, BOS])]
        odds = np.array(jax.nn.softmax(logits.set(-jnp.inf) / temperature), np.float64)
        for place in np.ndindex(odds.shape[:2]):
            order = np.argsort(-odds[place])
            odds[place][order[top_k or 6 :]] = 0
            odds[place] /= odds[place].sum()
            most = np.searchsorted(np.cumsum(odds[place][order]), top_p) + 1 if top_p < 1 else 6
            odds[place][order[most:]] = 0
            odds[place] /= odds[place].sum()
        return odds

    first = [2, 3, 4, 5]
    odds = probabilities([[a, PAD] for a in first])
    expected = {(2, PAD): odds[0, 0, 2]}
    expected |= {(a, b): odds[i, 0, a] * odds[i, 1, b] for i, a in enumerate(first) if a != EOS for b in first}
    observed = {pair: int((drawn == pair).all(axis=1).sum()) for pair in expected}
    assert sum(observed.values()) == count
    assert all(observed[pair] == 0 for pair, odd in expected.items() if odd == 0)
    likely = [pair for pair, odd in expected.items() if odd > 0]
    chi2 = sum((observed[pair] - count * expected[pair]) ** 2 / (count * expected[pair]) for pair in likely)
    degrees = len(likely) - 1
    assert chi2 < degrees + 4 * (2 * degrees) ** 0.5  # four standard deviations above the mean


def test_a_sample_depends_on_seed_line_and_its_number_alone(sharp, source):
    settings = settings_of(beam=1, sample=True)

    def draw(seed, lines, count):
        return decode(sharp, source[:1].repeat(len(lines), axis=0), settings, count, Given(keys=line_keys(seed, lines)))

    three = draw(0, [1, 2], 3).tokens
    np.testing.assert_array_equal(draw(0, [2], 1).tokens[0], three[1, :1])
    different = [three[0, 0], three[0, 1], three[1, 0], draw(1, [1], 1).tokens[0, 0]]
    assert len({tuple(words_of(tokens)) for tokens in different}) == 4


def test_keys_do_not_depend_on_the_default_generator():
    expected = jax.random.key_data(line_keys(5, [1, 2]))
    with jax.default_prng_impl("rbg"):
        np.testing.assert_array_equal(jax.random.key_data(line_keys(5, [1, 2])), expected)


def test_the_nucleus_is_the_smallest_set_that_reaches_p():
    logits = jnp.log(jnp.array([0.1, 0.4, 0.2, 0.3]))

    def kept(**changes):
        return np.flatnonzero(np.isfinite(truncated(logits, **changes))).tolist()

    assert kept() == [0, 1, 2, 3] and kept(top_k=3) == [1, 2, 3] and kept(top_k=1) == [1]
    assert kept(top_p=0.39) == [1] and kept(top_p=0.41) == [1, 3] and kept(top_p=0.95) == [0, 1, 2, 3]
    assert kept(top_k=2, top_p=0.55) == [1]  # 0.4 of the 0.7 that top-k leaves
    assert kept(top_k=2, top_p=0.6) == [1, 3]


SEARCHES = {
    "greedy": (settings_of(beam=1), 1, Given()),
    "beam": (settings_of(), 4, Given()),
    "sampling": (settings_of(beam=1, sample=True), 2, Given(keys=line_keys(0, [1, 2, 3]))),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", SEARCHES)
def test_an_ensemble_of_one_model_is_that_model(sharp, source, way):
    settings, best, given = SEARCHES[way]
    alone = decode(sharp, source, settings, best, given)
    one = decode([sharp], source, settings, best, given)
    np.testing.assert_array_equal(one.tokens, alone.tokens)
    np.testing.assert_array_equal(one.scores, alone.scores)
    twice = decode([sharp, sharp], source, settings, best, given)
    np.testing.assert_array_equal(twice.tokens, alone.tokens)
    np.testing.assert_allclose(twice.scores, alone.scores, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("way", SEARCHES)
def test_an_ensemble_averages_probabilities_in_searches_and_in_forced_scoring(config, sharp, source, way):
    settings, best, given = SEARCHES[way]
    models = [sharp, model_of(replace(config, d_model=16, norm="pre"), 5, 3)]  # of another size
    found = decode(models, source, settings, best, given)
    for k in range(best):
        tokens = found.tokens[:, k]
        each = jnp.stack([jnp.exp(token_log_probs(model, source, tokens)) for model in models])
        totals = jnp.log(each.mean(axis=0)).sum(axis=1)
        np.testing.assert_allclose(forced(models, source, tokens).sum(axis=1), totals, rtol=1e-5)
        lengths = (tokens != PAD).sum(axis=1)
        np.testing.assert_allclose(found.scores[:, k], totals / length_penalty(lengths, ALPHA), rtol=1e-4)


def test_the_alignment_is_the_last_layers_attention_to_the_source(model, source, target):
    expected = attention_weights(model, source, target).cross[-1].mean(axis=1)
    np.testing.assert_allclose(jax.jit(alignment)(model, source, target), expected, rtol=1e-6)
    both = jax.jit(lambda models: alignment(Ensemble(models), source, target))([model, model])
    np.testing.assert_allclose(both, expected, rtol=1e-6)


@pytest.mark.parametrize("beam", [1, 4])
def test_the_defaults_are_the_papers_program(tiny, beam):
    from transformer.decode import beam_search, greedy_search

    source, settings = jnp.array([[4, 5, 3, 2]]), settings_of(beam=beam)
    common = {"alpha": ALPHA, "extra_length": EXTRA}
    paper = partial(greedy_search, **common) if beam == 1 else partial(beam_search, beam=beam, **common)
    ours = jax.make_jaxpr(lambda source: ways.decode(tiny, source, settings, 1, 6))(source)
    assert str(ours) == str(jax.make_jaxpr(lambda source: paper(tiny, source))(source))
