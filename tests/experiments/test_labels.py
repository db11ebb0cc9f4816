"""Classification and tagging as tasks: runs on labels, from training to their records."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from experiments import find
from experiments.cli.flags import Translating
from experiments.cli.main import main
from experiments.cli.translating import loaded
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.test_sets import read_labelled
from experiments.exchange.exchange import export_run
from experiments.history import read_metrics
from experiments.inspection.attention import pair_of, to_json, to_page
from experiments.inspection.saliency import MEASURES, rollout, saliency_of
from experiments.labels.peer import features
from experiments.planning.explain import explain
from experiments.planning.plan import plan
from experiments.presets.deviations import deviations
from experiments.serving.batching import Batcher
from experiments.training.loop import train
from experiments.training.preflight import preflight
from experiments.translator import Translator
from experiments.workdir import WorkDir
from tests.experiments.training.test_loop import assert_bitwise_equal, final_state
from transformer.config import Experiment, UserError
from transformer.model import ARCHITECTURES
from transformer.variants.classifier import Classifier

SENTENCE = "the man who buys a lamp laughs ."


def quiet(line: str) -> None:
    """Says nothing."""


def small(name: str, steps: int = 40) -> Experiment:
    """A preset with a narrow model, which is trained in seconds."""
    preset = find(name)
    sizes = {"num_layers": 1, "d_model": 32, "d_ff": 64, "num_heads": 2, "source_vocab_size": 300}
    return replace(
        preset,
        model=replace(preset.model, **sizes),
        data=replace(preset.data, train_pairs=400, source_vocab_size=300, batch_tokens=512),
        optimizer=replace(preset.optimizer, warmup_steps=20),
        train=replace(preset.train, steps=steps, log_every=10, eval_every=20, eval_sentences=4),
    )


@pytest.fixture(scope="module")
def tagger(tmp_path_factory) -> WorkDir:
    return train(small("generated-tags"), tmp_path_factory.mktemp("runs") / "tagger", quiet)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> WorkDir:
    return train(small("generated-classes"), tmp_path_factory.mktemp("runs") / "classifier", quiet)


@pytest.fixture(scope="module")
def tags(tagger) -> Translator:
    return Translator.load(tagger.path, log=quiet)


@pytest.fixture(scope="module")
def classes(classifier) -> Translator:
    return Translator.load(classifier.path, log=quiet)


def test_a_run_is_validated_by_the_score_of_its_task(tagger, classifier):
    for run in (tagger, classifier):
        rows = read_metrics(run.metrics)
        assert [row["step"] for row in rows if "dev_accuracy" in row] == [20, 40]
        losses = [row["dev_loss"] for row in rows if "dev_loss" in row]
        assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", ["generated-tags", pytest.param("generated-classes", marks=pytest.mark.slow)])
def test_stopping_and_going_on_gives_the_same_bits(name, tagger, classifier, tmp_path):
    experiment = small(name)
    for steps in (7, 40):
        part = train(replace(experiment, train=replace(experiment.train, steps=steps)), tmp_path / "run", quiet)
    whole = tagger if name == "generated-tags" else classifier
    assert_bitwise_equal(final_state(part, experiment)[0], final_state(whole, experiment)[0])


def test_every_word_has_a_tag_and_every_text_a_label(tags, classes):
    texts = [SENTENCE, "", "unheard-of words\t, \u00a0 ▁ naïve", "lamp", "the " * 20 + "house"]
    for text, found in zip(texts, tags.translate(texts), strict=True):
        assert len(found.split()) == len(text.replace("\u00a0", "x").split())
        assert {*found.split()} <= {*tags.tokenizer.symbols}
    found = classes.translate(texts)
    assert found[1] == "" and {*found[:1], *found[2:]} <= {"thing", "person", "nothing", "fact"}


def test_a_label_does_not_depend_on_its_batch(tags, classes):
    texts = [SENTENCE, "every woman helps a friend .", "did the man buy this lamp ?"]
    for translator in (tags, classes):
        together = [best[0] for best in translator.n_best(texts * 3, 1)]
        for text, found in zip(texts * 3, together, strict=True):
            (alone,) = translator.n_best([text], 1)[0]
            assert alone.text == found.text and alone.score == pytest.approx(found.score, abs=1e-4)


def test_the_labels_of_a_text_have_probabilities_that_sum_to_one(classes):
    (best,) = classes.n_best([SENTENCE], 4, log_probs=True)
    assert len({one.text for one in best}) == 4
    assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)
    assert 0.9 < sum(math.exp(one.score) for one in best) <= 1.0 + 1e-5
    assert all(one.finished and one.log_probs == pytest.approx((one.score, 0.0)) for one in best)
    with pytest.raises(UserError, match="an n-best list of 5 does not fit 4 labels"):
        classes.n_best([SENTENCE], 5)


def test_the_score_of_labels_is_that_of_their_prediction(tags, classes):
    for translator in (tags, classes):
        (found,) = translator.n_best([SENTENCE], 1, log_probs=True)[0]
        (value,) = translator.score([SENTENCE], [found.text])
        assert value == pytest.approx(found.score, abs=1e-5)
        (each,) = translator.log_probs([SENTENCE], [found.text])
        assert each == pytest.approx(list(found.log_probs), abs=1e-5) and each[-1] == 0.0
        assert len(each) == len(found.text.split()) + 1
    assert classes.score([""], [""]) == [0.0]
    with pytest.raises(UserError, match="target line 1: 2 labels for 8 words, where each word needs one"):
        tags.score([SENTENCE], ["DT NN"])
    with pytest.raises(UserError, match="target line 1: 'joy' has a label that this run was not trained with"):
        classes.score([SENTENCE], ["joy"])
    with pytest.raises(UserError, match="give labels as text, not as pieces"):
        classes.score([SENTENCE], [["▁thing", "</s>"]])


@pytest.mark.parametrize(
    "flags",
    [{"beam": 2}, {"alpha": 0.5}, {"sample": True}, {"only_trees": True}, {"min_length": 3}, {"replace_unk": True},
     {"tag": "<2de>"}, {"mbr": 4}],
)  # fmt: skip
def test_what_is_for_a_search_is_refused_by_name(classifier, flags):
    (name,) = flags
    with pytest.raises(UserError, match=f"^--{name.replace('_', '-')}: not for labels"):
        loaded(str(classifier.path), Translating(**flags))


def test_what_else_is_for_translations_is_refused(tags, classes, tmp_path):
    for asked in ({"prefixes": ["DT"]}, {"constraints": [["NN"]]}):
        with pytest.raises(UserError, match="not for labels"):
            tags.n_best(["lamp"], 1, **asked)
    with pytest.raises(UserError, match="alignments: not for labels"):
        tags.check_alignable()
    for kind in ("marian", "ctranslate2"):
        with pytest.raises(UserError, match=f"--format {kind}: not for labels"):
            export_run(classes, tmp_path / kind, print, kind)
    with pytest.raises(UserError, match=r"decode\.sample is for outputs that are searched for"):
        preset = find("generated-tags")
        replace(preset, decode=replace(preset.decode, beam=1, sample=True))


@pytest.mark.slow
def test_a_model_of_labels_is_exported_and_imported(classifier, classes, tmp_path):
    export_run(classes, tmp_path / "exported", quiet)
    main(["import", str(tmp_path / "exported"), "--output", str(tmp_path / "imported")])
    again = Translator.load(tmp_path / "imported", log=quiet)
    assert again.n_best([SENTENCE], 4) == classes.n_best([SENTENCE], 4)


def test_an_evaluation_has_the_scores_and_a_table_by_label(tagger, tags, classifier, classes):
    for run, translator, names, title in (
        (tagger, tags, ["accuracy", "complete match"], "tag"),
        (classifier, classes, ["accuracy", "macro F1"], "label"),
    ):
        found = evaluate(run, translator, "test", quiet)
        record = json.loads(found.record.read_text(encoding="utf-8"))
        assert [score["name"] for score in record["scores"]] == names and record["scores"][0]["margin"] > 0
        assert list(record["details"]) == [title] and "peer" not in record
        right = sum(
            a == b
            for gold, output in zip(found.references, found.outputs, strict=True)
            for a, b in zip(gold.split(), output.split(), strict=True)
        )
        total = sum(len(gold.split()) for gold in found.references)
        assert record["scores"][0]["value"] == pytest.approx(100 * right / total)
        assert any("encoder only, with a head" in line for line in record["deviations"])


def test_a_file_of_labelled_text_is_a_test_set(classes, tags, classifier, tmp_path, capsys):
    path = tmp_path / "more.tsv"
    path.write_text("the man laughs .\tnothing\nthe man buys a lamp .\tthing\n", encoding="utf-8")
    found = read_labelled(path, "<label>", classes.tokenizer, None)
    assert found.references == ["nothing", "thing"] and found.name.startswith("more-")
    main(["evaluate", str(classifier.path), "--data.test-tgt", str(path)])
    assert capsys.readouterr().out.startswith("accuracy = ")
    with pytest.raises(SystemExit):
        main(["evaluate", str(classifier.path), "--data.test-tgt", str(path), "--test-set", "dev"])
    assert "both select a test set" in capsys.readouterr().err


@pytest.mark.slow
def test_the_peer_is_trained_on_the_same_text(classifier, classes, tagger, tags):
    pytest.importorskip("sklearn")
    for run, translator in ((classifier, classes), (tagger, tags)):
        found = evaluate(run, translator, "test", quiet, peer=True)
        record = json.loads(found.record.read_text(encoding="utf-8"))
        assert record["peer"]["texts"] == 400 and record["peer"]["scores"][0]["name"] == "accuracy"
        assert record["peer"]["scores"][0]["value"] == found.peers[0].value > 60


def test_the_features_of_a_word_are_of_it_and_its_neighbours():
    first, *_ = features(["The", "dogs", "bark"])
    assert first == ["-2=", "-1=", "0=The", "1=dogs", "2=bark", "<Th", "he>", "The>"]


def test_a_translation_has_no_peer_of_this_kind(run):
    with pytest.raises(UserError, match="--peer is for labels"):
        evaluate(run, Translator.load(run.path, log=quiet), "test", quiet, peer=True)


@pytest.mark.slow
@pytest.mark.parametrize("tied", ["all", pytest.param("none", marks=pytest.mark.slow)])
def test_init_copies_the_encoder_of_a_translation_run(micro, run, tied, tmp_path):
    parent = run
    if tied == "none":
        separate = {"vocabularies": "separate", "source_vocab_size": 200}
        model = replace(micro.model, tied="none", source_vocab_size=220)
        shorter = replace(micro.train, steps=2)
        other = replace(micro, model=model, data=replace(micro.data, **separate), train=shorter)
        parent = train(other, tmp_path / "parent", quiet)
    theirs = Translator.load(parent.path, "last", log=quiet)
    sizes = {"vocab_size": 32, "source_vocab_size": 220, "tied": "target", "decoder_layers": 0}
    text = tmp_path / "texts.tsv"
    text.write_text("A man sees a dog.\tone\nA dog sees a man.\ttwo\n" * 9, encoding="utf-8")
    labels = replace(
        find("generated-classes"),
        model=replace(micro.model, architecture="classifier", **sizes),
        data=replace(
            find("generated-classes").data,
            train_tgt=str(text),
            dev_tgt=str(text),
            vocabulary=str(parent.path),
            source_vocab_size=200,
            max_length=40,
            batch_tokens=512,
        ),
        optimizer=replace(micro.optimizer, scale=1e-9, warmup_steps=2),
        train=replace(micro.train, steps=1),
        init=f"{parent.path}:last",
    )
    mine = Translator.load(train(labels, tmp_path / "labels", quiet).path, "last", log=quiet)
    assert mine.tokenizer.source.to_bytes() == theirs.tokenizer.source.to_bytes()
    for name in ("kernel", "bias"):
        np.testing.assert_allclose(
            mine.params["encoder"][0]["feed_forward"]["inner"][name],
            theirs.params["encoder"][0]["feed_forward"]["inner"][name],
            atol=1e-6,
        )
    table = theirs.params["embedding" if tied == "all" else "source_embedding"]
    np.testing.assert_allclose(mine.params["source_embedding"], table, atol=1e-6)
    assert mine.params["embedding"].shape == (32, micro.model.d_model)


def test_a_translation_model_cannot_start_from_an_encoder(micro, classifier, tmp_path):
    other = replace(micro, model=replace(micro.model, d_model=32, num_heads=2), init=str(classifier.path))
    with pytest.raises(UserError, match="has no decoder, which this model has"):
        train(other, tmp_path / "new", quiet)


@pytest.mark.parametrize("documents", [{"context": 2}, {"documents": "column"}])
def test_labels_of_documents_are_refused(documents):
    experiment = find("generated-tags")
    with pytest.raises(UserError, match=rf"data.{next(iter(documents))} is for translations of documents"):
        replace(experiment, data=replace(experiment.data, **documents))


def test_explain_and_plan_say_what_there_is_and_what_differs(tagger):
    experiment = small("generated-tags")
    said = "\n".join(explain(experiment))
    assert "no decoder: the labels are predicted from the encoder's output" in said
    assert "encoder only, with a head (Devlin et al., 2019)" in said and "beam of" not in said
    assert "BERT, section 3.2" in said and "decoding starts from a BOS" not in said
    planned = "\n".join(plan(experiment, measure=False, log=quiet))
    assert "encoder only, with a head" in planned
    assert not any("encoder only" in line for line in deviations(find("demo")))


def test_an_own_architecture_without_a_decoder_passes_the_preflight_checks(monkeypatch):
    class Doubled(Classifier):
        """Twice the mean."""

        def outputs(self, source, target, key=None):
            return 2 * super().outputs(source, target, key)

    monkeypatch.setitem(ARCHITECTURES, "doubled", Doubled)
    experiment = small("generated-classes")
    told: list[str] = []
    preflight(replace(experiment, model=replace(experiment.model, architecture="doubled")), told.append)
    assert told == ["preflight checks of model.architecture: this takes some seconds"]


@pytest.mark.slow
def test_shares_of_all_tokens_sum_to_one_and_belong_to_a_label(tags, classes):
    for translator, count in ((tags, 8), (classes, 1)):
        found = saliency_of(translator, SENTENCE)
        pieces = found.attention.source
        assert found.shares.shape == (1, len(MEASURES), count, len(pieces)) and (found.shares >= 0).all()
        np.testing.assert_allclose(found.shares.sum(axis=-1), 1.0, rtol=1e-5)
        assert found.attention.weights.encoder.shape == (1, 2, len(pieces), len(pieces))
    other = saliency_of(classes, SENTENCE, "fact")
    assert other.attention.target == ["▁fact"]
    with pytest.raises(UserError, match="needs a sentence that is not blank"):
        saliency_of(classes, " ")


@pytest.mark.slow
def test_gradient_times_input_is_the_slope_by_the_size_of_an_embedding(classes):
    """A table with a row for each token is scaled at one token: the log-probability changes by its share."""
    text = "every woman helps a friend ."
    found = saliency_of(classes, text, "person").shares[0, 1, 0]
    (ids,) = classes.tokenizer.source.encode([text])
    assert len(set(ids)) == len(ids)
    slopes = []
    for i in ids:
        table = np.asarray(classes.params["source_embedding"])
        values = []
        for factor in (0.99, 1.01):
            scaled = table.copy()
            scaled[i] *= factor
            changed = Translator(
                classes.params | {"source_embedding": scaled}, classes.experiment, classes.tokenizer, quiet
            )
            values += changed.score([text], ["person"])
        slopes.append(abs(values[1] - values[0]))
    np.testing.assert_allclose(found, np.array(slopes) / sum(slopes), atol=0.02)


def test_rollout_by_hand():
    layer = np.array([[[0.5, 0.5], [0.0, 1.0]]])
    np.testing.assert_allclose(rollout(layer[None], [0, 1]), [[0.75, 0.25], [0.0, 1.0]])
    np.testing.assert_allclose(rollout(np.stack([layer, layer]), None), [[0.75**2 / 2, 1 - 0.75**2 / 2]])


def test_the_page_and_the_json_have_the_shares_first(tags, classes):
    for translator, labels in ((tags, 8), (classes, 1)):
        pair = pair_of(translator, "run", SENTENCE, None)
        assert list(pair.weights) == ["saliency", "encoder"] and len(pair.translation.split()) == labels
        found = json.loads(to_json(pair, by_words=True))
        assert found["measures"] == list(MEASURES) and found["axes"]["saliency"] == ["target", "source"]
        assert np.array(found["weights"]["saliency"]).shape == (1, 2, labels, 9)
        assert '"saliency"' in to_page(pair, by_words=False)


def test_labels_are_served(classes, tags):
    assert Batcher(classes, 0.0, 8).most == 4 and Batcher(tags, 0.0, 8).most == 1
    tags.warm_up(16, 2)
    classes.warm_up(16, 2)


@pytest.mark.slow
def test_an_ensemble_averages_probabilities(classes):
    both = Translator.ensemble([("a", classes), ("b", classes)])
    found, alone = both.n_best([SENTENCE], 4), classes.n_best([SENTENCE], 4)
    assert [one.text for one in found[0]] == [one.text for one in alone[0]]
    np.testing.assert_allclose([one.score for one in found[0]], [one.score for one in alone[0]], atol=1e-5)
