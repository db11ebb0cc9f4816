"""Mask-predict: what the decoder sees, what is masked in training, and decoding in a few passes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from transformer.config import BOS, EOS, PAD, DataConfig, DecodeConfig, Experiment, ModelConfig, TrainConfig, UserError
from transformer.train import LOSSES
from transformer.variants.decoding.ways import decode
from transformer.variants.mask_predict import (
    MASK,
    MaskPredict,
    can_be_masked,
    length_loss,
    mask_predict,
    masked_cross_entropy,
    masked_tokens,
    sentence_lengths,
)

fill = jax.jit(MaskPredict.fill)


@pytest.fixture(scope="module")
def masked(config) -> MaskPredict:
    return MaskPredict(replace(config, architecture="mask-predict"), rngs=nnx.Rngs(0))


def outputs(model, source, target, hidden):
    written = jnp.where(hidden, MASK, target)
    return fill(model, written, model.encode(source), source)


@pytest.mark.slow
def test_a_prediction_depends_on_every_token_that_is_not_masked_and_on_no_other(masked, source, target):
    hidden = jnp.zeros(target.shape, bool).at[:, [0, 2]].set(True)
    found = outputs(masked, source, target, hidden)
    for t in range(3):
        changed = outputs(masked, source, target.at[0, t].set(9), hidden)
        assert jnp.any(changed[0, 0] != found[0, 0]) == (not hidden[0, t])
        np.testing.assert_array_equal(changed[1:], found[1:])


@pytest.mark.slow
def test_sentences_in_one_row_are_as_alone(masked):
    sources, targets = [[5, 6, EOS], [7, 8, 9, EOS]], [[10, 11, 12, EOS], [13, EOS]]
    row = jnp.array([[*sources[0], *sources[1]]]), jnp.array([[*targets[0], *targets[1]]])
    together = outputs(masked, *row, jnp.array([[1, 0, 1, 0, 1, 0]]) > 0)
    first = outputs(masked, jnp.array(sources[:1]), jnp.array(targets[:1]), jnp.array([[1, 0, 1, 0]]) > 0)
    second = outputs(masked, jnp.array(sources[1:]), jnp.array(targets[1:]), jnp.array([[1, 0]]) > 0)
    np.testing.assert_allclose(together[0], jnp.concatenate([first[0], second[0]]), atol=2e-6)


def test_padding_changes_nothing(masked, source, target):
    hidden = can_be_masked(target)
    wide = jnp.pad(source, ((0, 0), (0, 3))), jnp.pad(target, ((0, 0), (0, 2)))
    found, padded = outputs(masked, source, target, hidden), outputs(masked, *wide, can_be_masked(wide[1]))
    real = (target != PAD)[..., None]
    np.testing.assert_allclose(jnp.where(real, padded[:, : target.shape[1]], 0), jnp.where(real, found, 0), atol=2e-6)


def test_the_number_of_masked_tokens_is_uniform():
    target = jnp.tile(jnp.array([[5, 6, 7, EOS, 8, EOS, 9, 9, 9, 9, 9, 9, EOS, PAD]]), (4000, 1))
    hidden = np.asarray(masked_tokens(jax.random.key(0), target))
    assert not hidden[:, -1].any()
    assert not hidden[np.asarray(target) == EOS].any()
    for start, length in ((0, 3), (4, 1), (6, 6)):
        counts = np.bincount(hidden[:, start : start + length].sum(axis=1), minlength=length + 1)
        assert counts[0] == 0
        np.testing.assert_allclose(counts[1:] / 4000, 1 / length, atol=0.03)
        np.testing.assert_allclose(hidden[:, start : start + length].mean(axis=0), (1 + 1 / length) / 2, atol=0.03)


@pytest.mark.slow
def test_the_loss_is_that_of_the_masked_tokens_and_of_the_length(masked, source, target):
    experiment = Experiment(
        "x", model=masked.config, data=DataConfig(vocab_size=29, max_length=64), train=TrainConfig(loss="mask_predict")
    )
    assert LOSSES.find("mask_predict") is masked_cross_entropy
    key = jax.random.key(3)
    loss, count = masked_cross_entropy(masked, {"source": source, "target": target}, key, experiment)
    hidden = masked_tokens(jax.random.split(key, 3)[0], target)
    assert count == hidden.sum() and 0 < count < (target != PAD).sum()
    without = replace(masked.config, dropout=0.0)
    still = nnx.merge(nnx.graphdef(MaskPredict(without, rngs=nnx.Rngs(0))), nnx.state(masked))
    plain = replace(experiment, model=without, train=replace(experiment.train, label_smoothing=0.0))
    loss, _ = masked_cross_entropy(still, {"source": source, "target": target}, key, plain)
    log_probs = jax.nn.log_softmax(still.logits(outputs(still, source, target, hidden)))
    chosen = jnp.take_along_axis(log_probs, target[..., None], axis=-1)[..., 0]
    lengths = length_loss(still, still.encode(source), source, target)
    np.testing.assert_allclose(loss, lengths - (chosen * hidden).sum(), rtol=1e-5)


def test_lengths_are_those_of_sentences_and_packing_does_not_change_their_loss(masked):
    sources, targets = [[5, 6, EOS], [7, 8, 9, EOS]], [[10, 11, 12, EOS], [13, EOS]]

    def loss(source, target):
        source, target = jnp.array(source), jnp.array(target)
        return length_loss(masked, masked.encode(source), source, target)

    row = [*targets[0], *targets[1], PAD]
    assert sentence_lengths(jnp.array([row]))[0, :6].tolist() == [4, 4, 4, 4, 2, 2]
    alone = sum(loss([source], [target]) for source, target in zip(sources, targets, strict=True))
    np.testing.assert_allclose(loss([[*sources[0], *sources[1]]], [row]), alone, rtol=1e-5)


@pytest.mark.parametrize("iterations", [1, 3])
def test_decoding(masked, source, iterations):
    source = jnp.concatenate([source, jnp.zeros_like(source[:1])])
    search = jax.jit(partial(mask_predict, iterations=iterations, lengths=3, extra_length=5, best=2))
    found = search(masked, source)
    tokens = np.asarray(found.tokens)
    assert tokens.shape == (4, 2, source.shape[1] + 5) and (tokens[3] == PAD).all()
    for sentence, limit in zip(tokens[:3], (12, 9, 10), strict=True):
        for one in sentence:
            length = int((one != PAD).sum())
            assert 1 <= length <= limit and one[length - 1] == EOS and not np.isin(one[: length - 1], [EOS, BOS]).any()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    lengths = np.maximum((tokens != PAD).sum(axis=-1), 1)
    np.testing.assert_allclose(np.asarray(found.log_probs).sum(axis=-1) / lengths, found.scores, rtol=1e-5)
    # A sentence is translated as it is alone.
    alone = search(masked, source[1:2, :4])
    np.testing.assert_array_equal(alone.tokens[0, :, :9], tokens[1, :, :9])


@pytest.mark.slow
def test_one_iteration_takes_the_likeliest_tokens(masked, source):
    found = mask_predict(masked, source, iterations=1, lengths=1, extra_length=5)
    target = found.tokens[:, 0]
    logits = masked(source, target).at[..., jnp.array([PAD, BOS, EOS])].set(-jnp.inf)
    inner = can_be_masked(target)
    np.testing.assert_array_equal(jnp.where(inner, logits.argmax(axis=-1), 0), jnp.where(inner, target, 0))


def test_later_iterations_predict_the_least_certain_tokens_again(masked, source, monkeypatch):
    seen = []
    real = MaskPredict.fill

    def spy(self, written, *others):
        jax.debug.callback(lambda written: seen.append(int((written == MASK).sum())), written)
        return real(self, written, *others)

    monkeypatch.setattr(MaskPredict, "fill", spy)
    found = mask_predict(masked, source, iterations=4, lengths=1, extra_length=5)
    jax.effects_barrier()
    lengths = (found.tokens[:, 0] != PAD).sum(axis=1) - 1
    assert seen == [int((lengths * (4 - t) // 4).sum()) for t in range(4)]


def test_the_settings_choose_it(masked, source):
    settings = DecodeConfig(beam=2, iterations=2)
    found = decode(masked, source, settings, best=2, pieces=29)
    direct = mask_predict(masked, source, iterations=2, lengths=2, extra_length=settings.extra_length, best=2)
    np.testing.assert_array_equal(found.tokens, direct.tokens)


@pytest.mark.parametrize(
    ("model", "train", "decode", "message"),
    [
        ({}, {"loss": "mask_predict"}, {}, "needs --model.architecture mask-predict"),
        ({}, {}, {"iterations": 4}, "not for encoder-decoder"),
        ({"architecture": "mask-predict"}, {}, {"min_length": 4}, "decode.min_length"),
        ({"architecture": "mask-predict"}, {}, {"iterations": 0}, "decode.iterations must be at least 1"),
        ({"architecture": "mask-predict"}, {}, {"beam": 1025}, "decode.beam is 1025 lengths"),
        ({"architecture": "mask-predict", "max_positions": 99}, {}, {}, "must be at least data.max_length"),
        ({"architecture": "mask-predict", "decoder_layers": 0}, {}, {}, "model.decoder_layers must be at least 1"),
        ({"architecture": "recurrent", "decoder_layers": 0}, {}, {}, "model.decoder_layers must be at least 1"),
    ],
)
def test_settings_that_do_not_fit(model, train, decode, message):
    with pytest.raises(UserError, match=message):
        Experiment("x", ModelConfig(**model), train=TrainConfig(**train), decode=DecodeConfig(**decode))


def test_documents_are_not_for_it():
    with pytest.raises(UserError, match=r"data\.context must be 1"):
        Experiment("x", ModelConfig(architecture="mask-predict"), DataConfig(context=2))
