"""The encoder with a head: what its outputs depend on, what the loss counts, and what it predicts."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.inspection.invariants import measure_invariants
from transformer.config import EOS, PAD, DataConfig, Experiment, ModelConfig, OptimizerConfig, UserError
from transformer.decode import token_log_probs
from transformer.flops import forward_flops
from transformer.model import Transformer, count_parameters, make_model
from transformer.train import batch_loss, init_state, make_train_step
from transformer.variants.classifier import label

BASE = ModelConfig(
    architecture="classifier", decoder_layers=0, tied="target", vocab_size=16, source_vocab_size=40,
    num_layers=2, d_model=24, d_ff=40, num_heads=3, d_k=10, d_v=7, dropout=0.1,
)  # fmt: skip
CONFIGS = {
    "classifier": BASE,
    "tagger": replace(BASE, architecture="tagger", norm="pre", output_bias=True),
}
A, B, C = [5, 6, 7, 8, EOS], [9, 10, EOS], [11, 12, 13, EOS]
LABELS = {
    "classifier": {"A": [6, EOS], "B": [7, EOS], "C": [8, EOS]},
    "tagger": {"A": [6, 7, PAD, 9, EOS], "B": [7, PAD, EOS], "C": [8, 6, 6, EOS]},
}


@pytest.fixture(scope="module", params=CONFIGS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def labeller(kind):
    return make_model(CONFIGS[kind], rngs=nnx.Rngs(0))


def rows(*sentences: list[int], width: int = 12):
    return jnp.array([sentence + [PAD] * (width - len(sentence)) for sentence in sentences])


def batch_of(kind: str, *texts: str, width: int = 12):
    """A batch with a row for each text, which may be several sentences, as "AB"."""
    sentences = {"A": A, "B": B, "C": C}
    return {
        "source": rows(*([i for name in text for i in sentences[name]] for text in texts), width=width),
        "target": rows(*([i for name in text for i in LABELS[kind][name]] for text in texts), width=width),
    }


def outputs(model, batch) -> np.ndarray:
    return np.asarray(jax.jit(model.outputs)(batch["source"], batch["target"]))


def test_sentences_in_one_row_are_as_alone(kind, labeller):
    together = outputs(labeller, batch_of(kind, "ABC"))[0]
    alone = outputs(labeller, batch_of(kind, "A", "B", "C"))
    sizes = [len(LABELS[kind][name]) for name in "ABC"]
    expected = np.concatenate([row[:size] for row, size in zip(alone, sizes, strict=True)])
    np.testing.assert_allclose(together[: sum(sizes)], expected, atol=2e-6)


def test_padding_and_the_order_of_the_rows_change_nothing(kind, labeller):
    few = outputs(labeller, batch_of(kind, "A", "BC", width=8))
    many = outputs(labeller, batch_of(kind, "BC", "A", width=20))
    for row, size in ((0, len(LABELS[kind]["A"])), (1, len(LABELS[kind]["B"] + LABELS[kind]["C"]))):
        np.testing.assert_allclose(few[row, :size], many[1 - row, :size], atol=2e-6)


def test_a_text_is_the_mean_of_its_tokens():
    model = make_model(BASE, rngs=nnx.Rngs(0))
    batch = batch_of("classifier", "AB")
    memory = model.encode(batch["source"])[0]
    found = outputs(model, batch)[0]
    for at, tokens in ((0, memory[:5]), (1, memory[:5]), (2, memory[5:8]), (3, memory[5:8])):
        np.testing.assert_allclose(found[at], tokens.mean(axis=0), atol=2e-6)


@pytest.mark.slow
def test_the_loss_of_a_sentence_has_no_gradient_in_another(kind, labeller):
    graph, params = nnx.split(labeller)
    batch = batch_of(kind, "ABC")
    only_b = [PAD] * len(LABELS[kind]["A"]) + LABELS[kind]["B"][:1]
    # EOS separates the sentences: it stays. Of the labels, only the first of B does.
    kept = jnp.where(batch["target"] == EOS, EOS, rows(only_b))
    grads = jax.grad(lambda p: batch_loss(nnx.merge(graph, p), batch | {"target": kept})[0])(params)
    moved = np.flatnonzero(np.abs(grads["source_embedding"][...]).sum(axis=1)).tolist()
    assert set(moved) <= {*B} and {9, 10} <= {*moved}


def test_the_loss_counts_labels_and_nothing_else(kind, labeller):
    batch = batch_of(kind, "AB", "C")
    loss, count = batch_loss(labeller, batch)
    labels = [label for name in "ABC" for label in LABELS[kind][name] if label > EOS]
    assert count == len(labels)
    by_hand = token_log_probs(labeller, batch["source"], batch["target"])
    logits = np.asarray(labeller(batch["source"], batch["target"]), np.float64)
    each = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    wanted = np.asarray(batch["target"])
    expected = -np.take_along_axis(each, wanted[..., None], axis=-1)[..., 0][wanted > EOS].sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert by_hand.shape == batch["target"].shape


def test_the_encoder_has_the_parameters_of_a_translation_model(kind):
    config = CONFIGS[kind]
    whole = replace(config, architecture="encoder-decoder", decoder_layers=None)
    names = {
        architecture: {
            ".".join(map(str, path)): leaf.shape
            for path, leaf in nnx.to_flat_state(nnx.state(nnx.eval_shape(build), nnx.Param))
        }
        for architecture, build in {
            "labels": lambda: make_model(config, rngs=nnx.Rngs(0)),
            "whole": lambda: Transformer(whole, rngs=nnx.Rngs(0)),
        }.items()
    }
    assert names["labels"].items() <= names["whole"].items()
    assert {name.split(".")[0] for name in names["whole"].keys() - names["labels"].keys()} <= {
        "decoder",
        "decoder_norm",
    }


@pytest.mark.parametrize("changes", [{"decoder_layers": None}, {"tied": "none"}])
def test_a_decoder_or_a_second_matrix_of_labels_is_refused(changes):
    with pytest.raises(UserError, match=r"labels have a matrix of their own"):
        make_model(replace(BASE, **changes), rngs=nnx.Rngs(0))


def test_only_an_architecture_without_a_decoder_may_have_none():
    with pytest.raises(UserError, match="decoder_layers must be at least 1"):
        ModelConfig(decoder_layers=0)


def test_the_likeliest_labels_of_a_text_come_first():
    model = make_model(BASE, rngs=nnx.Rngs(0))
    source = rows(A, C, width=8)
    found = jax.jit(lambda source: label(model, source, jnp.ones((2, 1), jnp.int32), best=12))(source)
    assert found.tokens.shape == (2, 12, 2) and (found.tokens[..., 1] == EOS).all()
    for row in range(2):
        assert sorted(found.tokens[row, :, 0].tolist()) == list(range(4, 16))
        assert (np.diff(found.scores[row]) <= 0).all()
        target = jnp.pad(found.tokens[row], ((0, 0), (0, 6)))
        forced = token_log_probs(model, jnp.tile(source[row], (12, 1)), target)
        np.testing.assert_allclose(forced[:, 0], found.scores[row], atol=1e-5)


def test_words_are_labelled_where_they_begin():
    model = make_model(CONFIGS["tagger"], rngs=nnx.Rngs(0))
    source, places = rows(A, width=8), jnp.array([[1, 0, 1, 1, 0, 0, 0, 0]])
    found = label(model, source, places)
    logits = model(source, source)[0]
    expected = [4 + int(logits[at, 4:].argmax()) if at in (0, 2, 3) else PAD for at in range(8)]
    assert found.tokens[0, 0].tolist() == [*expected, EOS]
    assert (found.log_probs[0, 0][jnp.array([1, 4, 5, 6, 7, 8])] == 0).all()
    np.testing.assert_allclose(found.scores[0, 0], found.log_probs[0, 0].sum())


def test_micro_batches_give_the_gradient_of_the_batch(kind):
    experiment = Experiment(
        "labels",
        model=replace(CONFIGS[kind], dropout=0.0),
        data=DataConfig(task={"classifier": "classification", "tagger": "tagging"}[kind], vocabularies="separate",
                        vocab_size=16, source_vocab_size=40, batch_tokens=128),
        optimizer=OptimizerConfig(warmup_steps=2),
    )  # fmt: skip
    halves = replace(experiment, train=replace(experiment.train, accumulate=2))
    batch = batch_of(kind, "AB", "C")
    after = [jax.jit(make_train_step(one))(init_state(one), batch, jax.random.key(0)) for one in (experiment, halves)]
    (whole, metrics), (split, of_parts) = after
    assert metrics.tokens == of_parts.tokens
    np.testing.assert_allclose(metrics.loss, of_parts.loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(whole.opt_state), jax.tree.leaves(split.opt_state), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_decoder_has_no_operations_and_no_parameters(kind):
    config = CONFIGS[kind]
    two = replace(config, num_layers=2 * config.num_layers)
    head = 2 * 4 * config.d_model * config.vocab_size
    assert forward_flops(two, 9, 4) - head == 2 * (forward_flops(config, 9, 4) - head)
    own = count_parameters(config)
    assert own < count_parameters(replace(config, architecture="encoder-decoder", decoder_layers=1))


def test_the_invariants_of_a_model_are_measured_without_a_decoder(kind):
    found = measure_invariants(CONFIGS[kind])
    assert max(found) < 1e-5
