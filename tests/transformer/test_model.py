from dataclasses import asdict, replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.presets.paper import BASE, BIG, TABLE3
from experiments.registry import run_file
from tests.examples import EXAMPLES
from tests.transformer.compiled import attention_weights, decode, encode, forward, start_cache, step
from transformer.config import BOS, EOS, PAD, Experiment, ModelConfig, UserError
from transformer.layers import dropout
from transformer.model import ARCHITECTURES, Transformer, count_parameters, make_model, shift_right
from transformer.segments import segments
from transformer.train import init_params

for example in ("alibi", "soft_cap_attention", "scale_norm", "maxout"):
    run_file(EXAMPLES / f"{example}.py")

VARIANTS = [
    {},
    pytest.param({"norm": "pre"}, marks=pytest.mark.slow),
    pytest.param({"positions": "learned"}, marks=pytest.mark.slow),
    pytest.param({"norm": "pre", "positions": "learned"}, marks=pytest.mark.slow),
    {"norm": "pre", "positions": "alibi", "attention": "soft-cap", "norm_type": "scale-norm", "feed_forward": "maxout"},
    {"positions": "rotary", "attention": "qk-norm", "norm_type": "rms"},
    {"decoder_layers": 4, "shared_layers": 2, "tied": "target", "activation": "gelu", "biases": False}
    | {"output_bias": True},
    {"attention": "restricted", "attention_window": 8},
    {"attention": "sparse", "attention_window": 4},
    {"attention": "linear", "positions": "rotary"},
    {"architecture": "recurrent", "attention": "relative", "positions": "none"}
    | {"attention_window": 2, "attention_memory": 2},
    pytest.param(
        {"norm": "pre", "decoder_layers": 1, "tied": "none", "feed_forward": "gated", "activation": "swish"}
        | {"scale_embeddings": False, "norm_epsilon": 1e-3},
        marks=pytest.mark.slow,
    ),
]


@pytest.fixture(scope="module", params=VARIANTS, ids=str)
def variant(request, config) -> Transformer:
    model = Transformer(replace(config, **request.param), rngs=nnx.Rngs(0))
    if model.config.output_bias:  # zero at the start: where it is missing would go unnoticed
        model.output_bias[...] = jax.random.normal(jax.random.key(1), model.output_bias.shape)
    return model


def test_no_position_sees_what_comes_after(variant, source, target):
    logits = forward(variant, source, target)
    for t in range(target.shape[1]):
        changed = forward(variant, source, target.at[:, t:].set(9))
        np.testing.assert_array_equal(changed[:, : t + 1], logits[:, : t + 1])  # logits at t follow target[:, :t]
        if t + 1 < target.shape[1]:
            assert jnp.any(changed[:, t + 1 :] != logits[:, t + 1 :])


def test_every_prediction_depends_on_all_of_the_source_and_all_that_came_before(variant, source, target):
    sentence, translation = source[:1], target[:1, :4]
    logits = forward(variant, sentence, translation)
    for s in range(sentence.shape[1]):
        changed = forward(variant, sentence.at[0, s].set(3), translation)
        assert jnp.all(jnp.any(changed != logits, axis=-1))
    for t in range(translation.shape[1] - 1):
        changed = forward(variant, sentence, translation.at[0, t].set(3))
        assert jnp.all(jnp.any(changed[:, t + 1 :] != logits[:, t + 1 :], axis=-1))


def test_padding_changes_nothing(variant, source, target):
    logits = forward(variant, source, target)
    wider = jnp.pad(source, ((0, 0), (0, 5))), jnp.pad(target, ((0, 0), (0, 3)))
    # Cosines are multiplied by 10, and so is their rounding error.
    atol = 1e-5 if variant.config.attention == "qk-norm" else 2e-6
    np.testing.assert_allclose(
        forward(variant, *wider)[:, : target.shape[1]][target != PAD], logits[target != PAD], atol=atol
    )


def test_padding_changes_nothing_where_no_eos_is_before_it(model):
    """In a batch every sentence ends with EOS; in `translate` and a search it need not."""
    source, target = jnp.array([[5, 6, 7]]), jnp.array([[8, 9, 10, 11]])
    padded = forward(model, jnp.pad(source, ((0, 0), (0, 4))), target)
    np.testing.assert_allclose(padded, forward(model, source, target), atol=2e-6)


def test_rows_do_not_see_each_other(variant, source, target):
    logits = forward(variant, source, target)
    order = jnp.array([2, 0, 1])
    np.testing.assert_allclose(forward(variant, source[order], target[order]), logits[order], atol=2e-6)


def test_step_by_step_equals_all_at_once(variant, source, target):
    """Three hypotheses for each source, reordered at every step as in a beam search."""
    K, (B, T) = 3, target.shape
    targets = jnp.stack([jnp.roll(target, i, axis=0) for i in range(K)], axis=1)
    full = jnp.stack([forward(variant, source, targets[:, k]) for k in range(K)], axis=1)
    shifted = jnp.stack([shift_right(targets[:, k], segments(targets[:, k])) for k in range(K)], axis=1)
    room = T + 4  # unused positions must be masked
    cache, history = start_cache(variant, source, beam=K, length=room), jnp.full((B, K, room), 7)
    order = jnp.arange(K)
    for t in range(T):
        moved = jax.random.permutation(jax.random.key(t), K)
        order, history = order[moved], history[:, moved].at[:, :, t].set(jnp.arange(K))
        logits, cache = step(variant, shifted[:, order, t], cache, jnp.array(t), history)
        real = targets[:, order, t] != PAD
        assert real.any()
        np.testing.assert_allclose(logits[real], full[:, order, t][real], atol=1e-5)


def test_shift_right():
    ids = jnp.array([[5, 6, EOS, 7, EOS, 0]])
    np.testing.assert_array_equal(shift_right(ids, segments(ids)), [[BOS, 5, 6, BOS, 7, BOS]])


def test_sentences_in_one_row_are_as_alone(variant):
    """Any number of sentences, in any order, followed by padding; alone is each in a row of its own."""
    pairs = [([5, 6, 7, EOS], [8, 9, EOS]), ([10, EOS], [11, 12, 13, 14, EOS]), ([5, 6, EOS], [EOS])]
    padded = (jnp.array([row + [PAD] * (5 - len(row)) for row in rows]) for rows in zip(*pairs, strict=True))
    alone = [logits[: len(target)] for logits, (_, target) in zip(forward(variant, *padded), pairs, strict=True)]
    for order in ([0, 1, 2], [2, 0, 1], [1, 1, 0]):
        source, target = ([token for i in order for token in pairs[i][side]] for side in (0, 1))
        sources, targets = (jnp.array([row + [PAD] * (15 - len(row))]) for row in (source, target))
        together = forward(variant, sources, targets)[0, : len(target)]
        np.testing.assert_allclose(together, jnp.concatenate([alone[i] for i in order]), atol=1e-5)


def test_segments():
    found = segments(jnp.array([[5, EOS, 6, 7, EOS, 0], [EOS, EOS, 5, 0, 0, 0]]))
    np.testing.assert_array_equal(found.number, [[1, 1, 2, 2, 2, 3], [1, 2, 3, 3, 3, 3]])
    np.testing.assert_array_equal(found.position, [[0, 1, 0, 1, 2, 0], [0, 0, 0, 1, 2, 3]])


def test_one_matrix_embeds_both_sides_and_predicts(config, source, target):
    model = Transformer(config, rngs=nnx.Rngs(0))
    shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
    assert shapes.count((config.vocab_size, config.d_model)) == 1
    x = model.embed(source, model.position_vectors(segments(source).position))
    rows = model.embedding[...][source] * config.d_model**0.5
    table = model.positions(jnp.arange(source.shape[1]))
    np.testing.assert_allclose(x[0], rows[0] + table, atol=1e-6)
    np.testing.assert_allclose(x[1, :4], rows[1, :4] + table[:4], atol=1e-6)
    np.testing.assert_allclose(model.logits(x), x @ model.embedding[...].T, atol=1e-5)


def test_each_matrix_has_its_place(config, source, target):
    """Changing the row of a token in one of them changes only what that matrix is for."""

    def changed(model, name):
        other = nnx.clone(model)
        table = getattr(other, name)
        table[...] = table[...].at[10].add(jnp.sin(jnp.arange(config.d_model)))  # token 10 is in the source alone
        return other

    for tied, matrices in (("target", 2), ("none", 3)):
        model = Transformer(replace(config, tied=tied), rngs=nnx.Rngs(0))
        shapes = [leaf.shape for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))]
        assert shapes.count((config.vocab_size, config.d_model)) == matrices
        memory, logits = encode(model, source), forward(model, source, target)
        assert jnp.any(encode(changed(model, "source_embedding"), source) != memory)
        np.testing.assert_array_equal(encode(changed(model, "embedding"), source), memory)
        output = changed(model, "embedding" if tied == "target" else "output_embedding")
        others = jnp.arange(config.vocab_size) != 10
        found = forward(output, source, target)
        np.testing.assert_array_equal(found[..., others], logits[..., others])
        assert jnp.all(found[..., 10] != logits[..., 10])
    seen = changed(model, "embedding")
    np.testing.assert_array_equal(forward(seen, source, target), logits)  # token 10 is not in the target
    assert jnp.any(forward(seen, source, target.at[0, 0].set(10)) != forward(model, source, target.at[0, 0].set(10)))


def test_settings_of_one_part_leave_the_first_values_of_the_others(config):
    def values(**changes):
        flat = nnx.to_flat_state(nnx.state(Transformer(replace(config, **changes), rngs=nnx.Rngs(0)), nnx.Param))
        return {path: leaf[...] for path, leaf in flat}

    expected = values()
    for changes in ({"tied": "none", "output_bias": True}, {"activation": "gelu"}, {"attention_dropout": 0.1}):
        found = values(**changes)
        assert expected.keys() <= found.keys()
        for path, value in expected.items():
            np.testing.assert_array_equal(found[path], value)


def test_what_the_model_begins_with(config):
    """Embeddings have variance 1 / D: scaled by sqrt(D), they are as large as the positional encodings (3.4)."""
    table = Transformer(replace(config, vocab_size=5000), rngs=nnx.Rngs(0)).embedding[...]
    np.testing.assert_allclose(table.std(), config.d_model**-0.5, rtol=0.02)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_a_stack_ends_normalised(config, source, target, norm):
    model = Transformer(replace(config, num_layers=1, norm=norm), rngs=nnx.Rngs(0))
    memory = encode(model, source)
    for x in (memory, decode(model, target, memory, source)):
        np.testing.assert_allclose(x.mean(-1), 0, atol=1e-5)
        np.testing.assert_allclose(x.std(-1), 1, rtol=1e-3)


def test_dropout_needs_a_key(model, source, target):
    plain = forward(model, source, target)
    np.testing.assert_array_equal(forward(model, source, target), plain)
    one, two = (forward(model, source, target, jax.random.key(seed)) for seed in (1, 2))
    assert jnp.any(one != plain) and jnp.any(one != two)
    np.testing.assert_array_equal(forward(model, source, target, jax.random.key(1)), one)


@pytest.mark.parametrize("inside", [False, True], ids=["the paper's", "inside of sub-layers too"])
def test_dropout_is_where_the_paper_has_it_and_each_place_draws_for_itself(inside, config, source, target, monkeypatch):
    """Section 5.4: dropout on the output of each sub-layer, and on the sums of embeddings and positional encodings."""
    drawn = []

    def spy(x, rate, key):
        drawn.append((x.shape, rate, key))
        return dropout(x, rate, key)

    @jax.jit
    def run(model, key):
        model(source, target, key)
        return jnp.stack([jax.random.key_data(key) for _, _, key in drawn])

    for module in ("transformer.layers", "transformer.model"):
        monkeypatch.setattr(f"{module}.dropout", spy)
    if inside:
        config = replace(config, attention_dropout=0.2, activation_dropout=0.3)
    keys = run(Transformer(config, rngs=nnx.Rngs(0)), jax.random.key(0)).tolist()
    shapes = {rate: [shape for shape, other, _ in drawn if other == rate] for _, rate, _ in drawn}
    L, (B, S), T = config.num_layers, source.shape, target.shape[1]
    expected = {0.1: [(B, S, config.d_model)] * (1 + 2 * L) + [(B, T, config.d_model)] * (1 + 3 * L)}
    if inside:
        N, F = config.num_heads, config.d_ff
        expected[0.2] = [(B, N, S, S)] * L + [(B, N, T, T), (B, N, T, S)] * L
        expected[0.3] = [(B * S, F)] * L + [(B * T, F)] * L
    assert shapes == expected
    assert len(set(map(tuple, keys))) == len(drawn)


def test_dropout_of_the_embedding_is_on_its_sum_with_the_positions(config, source):
    model, key = Transformer(config, rngs=nnx.Rngs(0)), jax.random.key(0)
    places = model.position_vectors(segments(source).position)
    np.testing.assert_array_equal(model.embed(source, places, key), dropout(model.embed(source, places), 0.1, key))


def test_bfloat16_keeps_parameters_and_logits_in_float32(config, model, source, target):
    half = Transformer(replace(config, dtype="bfloat16"), rngs=nnx.Rngs(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(half, nnx.Param))} == {jnp.dtype("float32")}
    assert encode(half, source).dtype == jnp.bfloat16
    logits, expected = forward(half, source, target), forward(model, source, target)
    assert logits.dtype == jnp.float32
    # The same parameters: bfloat16 has 8 bits of mantissa, so about 1% after a dozen sub-layers.
    assert jnp.abs(logits - expected).max() < 0.05 * jnp.abs(expected).max()


def test_attention_weights_are_those_the_model_used(variant, source, target):
    weights = attention_weights(variant, source, target)
    B, S, T = len(source), source.shape[1], target.shape[1]
    N, L, decoder = variant.config.num_heads, variant.config.num_layers, variant.config.decoder_depth
    assert weights.encoder.shape == (L, B, N, S, S)
    assert weights.decoder.shape == (decoder, B, N, T, T)
    assert weights.cross.shape == (decoder, B, N, T, S)
    for rows in weights:
        np.testing.assert_allclose(rows.sum(-1), 1.0, rtol=1e-5)
    assert jnp.all(jnp.triu(weights.decoder, 1) == 0)
    to_padding = (target != PAD)[:, :, None] & (source == PAD)[:, None]
    assert jnp.all(jnp.where(to_padding[None, :, None], weights.cross, 0) == 0)


counted = cache(count_parameters)


@pytest.mark.parametrize("row", TABLE3, ids=lambda row: row.name)
def test_parameter_counts_of_table_3(row):
    count = counted(replace(row.change(Experiment("base", model=BASE)).model, dropout=0.0))  # rows may differ in it
    # Big is an exception: its 213 M imply an embedding of about 35,900 rows; with 40,960, as the others, it has 218 M.
    assert round(count / 1e6) == {"big": 218, "E": 66}.get(row.name, row.parameters or 65)


def test_big_is_the_exception():
    assert round(count_parameters(replace(BIG, vocab_size=35_900)) / 1e6) == 213


def test_the_rows_of_table_3_are_the_papers():
    """At the paper's size, each row has the paper's h, d_k, d_v, and other differences from base."""
    base = Experiment("base", model=BASE)
    expected = {
        "base": {},
        "A-1": {"num_heads": 1, "d_k": 512, "d_v": 512},
        "A-2": {"num_heads": 4, "d_k": 128, "d_v": 128},
        "A-3": {"num_heads": 16, "d_k": 32, "d_v": 32},
        "A-4": {"num_heads": 32, "d_k": 16, "d_v": 16},
        "B-1": {"d_k": 16},
        "B-2": {"d_k": 32},
        "C-1": {"num_layers": 2},
        "C-2": {"num_layers": 4},
        "C-3": {"num_layers": 8},
        "C-4": {"d_model": 256, "d_k": 32, "d_v": 32},
        "C-5": {"d_model": 1024, "d_k": 128, "d_v": 128},
        "C-6": {"d_ff": 1024},
        "C-7": {"d_ff": 4096},
        "D-1": {"dropout": 0.0},
        "D-2": {"dropout": 0.2},
        "D-3": {},
        "D-4": {},
        "E": {"positions": "learned"},
        "big": {"d_model": 1024, "d_ff": 4096, "num_heads": 16, "dropout": 0.3},
    }
    rows = {row.name: row.change(base) for row in TABLE3}
    assert {name: row.model for name, row in rows.items()} == {
        name: replace(BASE, **changes) for name, changes in expected.items()
    }
    assert [rows[name].train.label_smoothing for name in ("base", "D-3", "D-4")] == [0.1, 0.0, 0.2]
    assert {name for name, row in rows.items() if row.train.steps != 100_000} == {"big"}
    assert rows["big"].train.steps == 300_000 and rows["big"].model == BIG


def test_learned_positions_add_their_tables(config):
    learned = count_parameters(replace(config, positions="learned"))
    assert learned - count_parameters(config) == config.max_positions * config.d_model


def test_shared_layers_have_one_set_of_parameters(config):
    counts = {
        shared: count_parameters(replace(config, num_layers=4, decoder_layers=8, shared_layers=shared))
        for shared in (1, 2, 4)
    }
    embedding = config.vocab_size * config.d_model
    assert counts[1] - embedding == 2 * (counts[2] - embedding) == 4 * (counts[4] - embedding)


def test_without_biases_only_norms_and_logits_have_one(config):
    model = Transformer(replace(config, biases=False, output_bias=True), rngs=nnx.Rngs(0))
    paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
    assert {path[-2:] for path in paths if "bias" in str(path[-1])} == {("norm", "bias"), ("output_bias",)}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_layers": 6, "shared_layers": 4}, "shared_layers = 4 does not divide model.num_layers = 6"),
        ({"decoder_layers": 3, "shared_layers": 2}, "shared_layers = 2 does not divide model.decoder_layers = 3"),
        ({"decoder_layers": 0}, "decoder_layers must be at least 1, not 0"),
        ({"attention_dropout": 1.0}, r"attention_dropout must lie in \[0, 1\), not 1.0"),
        ({"activation_dropout": -0.1}, r"activation_dropout must lie in \[0, 1\), not -0.1"),
        ({"norm_epsilon": 0.0}, "norm_epsilon must be positive and finite, not 0.0"),
    ],
)
def test_settings_that_make_no_model(changes, message):
    with pytest.raises(UserError, match=f"^model.{message}$"):
        ModelConfig(**changes)


class Twofold(Transformer):
    """A model with a second output projection."""

    def __init__(self, config, *, rngs):
        super().__init__(config, rngs=rngs)
        self.second = nnx.Param(jnp.zeros((config.d_model, 5)))


def test_an_architecture_is_built_by_its_name(config, monkeypatch):
    assert type(make_model(config, rngs=nnx.Rngs(0))) is Transformer
    monkeypatch.setitem(ARCHITECTURES, "twofold", Twofold)
    own = replace(config, architecture="twofold")
    assert type(make_model(own, rngs=nnx.Rngs(0))) is Twofold
    assert init_params(own, 0)["second"].shape == (config.d_model, 5)
    assert count_parameters(own) == count_parameters(config) + config.d_model * 5


def test_settings_without_an_architecture_are_those_of_the_paper():
    old = asdict(Experiment("old"))
    del old["model"]["architecture"]
    assert Experiment.from_dict(old) == Experiment("old")


@pytest.mark.parametrize("setting", ["architecture", "activation", "feed_forward", "initializer"])
def test_an_unknown_component_is_named(config, setting):
    with pytest.raises(UserError, match=f"unknown model.{setting} 'other'; there are: "):
        make_model(replace(config, **{setting: "other"}), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("field", ["num_layers", "shared_layers", "d_model", "num_heads", "d_k", "d_v"])
def test_sizes_must_be_positive(field):
    with pytest.raises(UserError, match=f"model.{field} must be at least 1"):
        ModelConfig(**{field: 0})
