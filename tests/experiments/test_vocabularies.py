"""A run whose source and target have separate vocabularies: everything reads each side by its own."""

import json
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest

from data.dataset import prepare
from data.held_out import held_out
from data.tokenizer import Tokenizer
from experiments.exchange.exchange import export_run, import_folder
from experiments.inspection.heads import looks
from experiments.planning.explain import explain
from experiments.training.loop import train
from experiments.training.preflight import try_model
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.config import Experiment, UserError
from transformer.train import graph_of

SOURCE, TARGET = 150, 180
ROWS, SOURCE_ROWS = 190, 160


def quiet(line):
    pass


def separate(experiment, **settings) -> Experiment:
    model = replace(experiment.model, tied="target", vocab_size=ROWS, source_vocab_size=SOURCE_ROWS)
    data = replace(experiment.data, vocabularies="separate", vocab_size=TARGET, source_vocab_size=SOURCE)
    return replace(experiment, model=model, data=data, **settings)


@pytest.fixture(scope="module")
def both(micro, tmp_path_factory) -> WorkDir:
    return train(separate(micro), tmp_path_factory.mktemp("runs") / "both", quiet)


@pytest.fixture(scope="module")
def translator(both) -> Translator:
    return Translator.load(both.path, "last", quiet)


@pytest.fixture(scope="module")
def sentences(text):
    return (text / "dev.en").read_text().splitlines()[:4]


def test_each_side_has_its_matrix_and_its_pieces(translator, both):
    assert translator.params["embedding"].shape == (ROWS, 32)
    assert translator.params["source_embedding"].shape == (SOURCE_ROWS, 32)
    assert (translator.tokenizer.source.size, translator.tokenizer.size) == (SOURCE, TARGET)
    assert translator.tokenizer.sha256 == translator.meta["vocabulary"] == Tokenizer.load(both.path).sha256


@pytest.mark.slow
def test_translation_scoring_and_attention_agree_on_the_ids(translator, sentences):
    found = [best[0] for best in translator.n_best(sentences, 1)]
    scores = translator.score(sentences, [one.pieces for one in found])
    np.testing.assert_allclose(scores, [one.score for one in found], rtol=1e-3)
    attention = translator.attention(sentences[0], found[0].pieces)
    assert attention.source == translator.tokenizer.source.pieces(translator.tokenizer.source.encode(sentences)[0])
    assert attention.target == list(found[0].pieces)
    assert len(translator.align(sentences, found)) == len(sentences)


def test_the_source_is_read_by_its_own_pieces(translator, sentences):
    """With the source's pieces swapped for the target's, the same model says something else."""
    wrong = Translator(translator.params, translator.experiment, Tokenizer(translator.tokenizer.to_bytes()), quiet)
    target = [best[0].pieces for best in translator.n_best(sentences, 1)]
    assert not np.isclose(translator.score(sentences, target), wrong.score(sentences, target), rtol=1e-5).any()


def test_held_out_text_is_read_by_both(translator, tmp_path):
    trained = translator.meta["data"]
    found = held_out(translator.experiment.data, "test", translator.tokenizer, trained, tmp_path, quiet)
    data = prepare(translator.experiment.data, log=quiet)
    for side in ("source", "target"):
        for i in range(len(found.tokens)):
            np.testing.assert_array_equal(getattr(found.tokens, side)[i], getattr(data.test, side)[i])
    stats = looks(translator, found.sources[:3], found.references[:3])
    assert np.isfinite(jax.tree.leaves(stats["cross"])[0]).all()


@pytest.mark.slow
def test_a_run_can_be_resumed_and_started_from(translator, both, micro, tmp_path):
    assert (
        train(replace(separate(micro), train=replace(micro.train, steps=41)), both.path, quiet).newest_meta()["step"]
        == 41
    )
    still = replace(micro.optimizer, scale=1e-30)
    settings = {"init": f"{both.path}:40", "optimizer": still, "train": replace(micro.train, steps=1)}
    given = separate(micro, **settings)
    given = replace(given, data=replace(given.data, vocabulary=str(both.path)))
    new = Translator.load(train(given, tmp_path / "new", quiet).path, "last", quiet)
    jax.tree.map(np.testing.assert_array_equal, new.params, Translator.load(both.path, "40", quiet).params)

    lines: list[str] = []
    other = separate(micro, **settings)
    other = replace(other, data=replace(other.data, source_vocab_size=120))
    new = Translator.load(train(other, tmp_path / "other", lines.append).path, "last", quiet)
    np.testing.assert_array_equal(new.params["embedding"], translator.params["embedding"])
    mine, theirs = (each.tokenizer.source.pieces(range(each.tokenizer.source.size)) for each in (new, translator))
    row = next(i for i, piece in enumerate(mine) if i > 4 and piece in theirs and theirs.index(piece) != i)
    expected = translator.params["source_embedding"][theirs.index(mine[row])]
    np.testing.assert_array_equal(new.params["source_embedding"][row], expected)
    assert any("another vocabulary of the source: of 120 pieces" in line for line in lines)
    assert not any("another vocabulary:" in line for line in lines)


def test_the_vocabularies_belong_to_the_checkpoint(both, micro, run, tmp_path):
    (both.path / "source.model").rename(tmp_path / "source.model")
    try:
        with pytest.raises(UserError, match="is not the vocabulary that the checkpoints of"):
            Translator.load(both.path, "last", quiet)
    finally:
        (tmp_path / "source.model").rename(both.path / "source.model")
    with pytest.raises(UserError, match="have different vocabularies"):
        Translator.load([both.path, run.path], "last", quiet)


def test_it_is_exported_and_imported(translator, sentences, tmp_path):
    folder = export_run(translator, tmp_path / "exported", quiet)
    assert (folder / "source.model").exists()
    back = Translator.load(import_folder(folder, tmp_path / "back", quiet), log=quiet)
    assert back.n_best(sentences, 1) == translator.n_best(sentences, 1)


def test_explain_says_so(micro):
    lines = list(explain(separate(micro)))
    assert f"    {SOURCE_ROWS} rows of that of the source, for {SOURCE} pieces of its own vocabulary" in lines


def test_the_preflight_checks_stay_within_the_smaller_vocabulary(micro):
    for sizes in ({"vocab_size": 300, "source_vocab_size": 9}, {"vocab_size": 9, "source_vocab_size": 300}):
        small = replace(micro.model, tied="none", **sizes)
        try_model(small, graph_of(small))


REFUSED = {
    "cannot share an embedding matrix: set --model.tied": {
        "data": {"vocabularies": "separate"},
    },
    "model.source_vocab_size needs an embedding matrix of the source": {"model": {"source_vocab_size": 100}},
    "data.source_vocab_size needs separate vocabularies": {"data": {"source_vocab_size": 100}},
    "vocabulary of the source has 250 pieces but its embedding only 220 rows": {
        "model": {"tied": "target"},
        "data": {"vocabularies": "separate", "source_vocab_size": 250},
    },
    "vocabulary of the source has 200 pieces but its embedding only 100 rows": {
        "model": {"tied": "target", "source_vocab_size": 100},
    },
    "model.source_vocab_size must be at least 1": {"model": {"tied": "target", "source_vocab_size": 0}},
    r"data.source_vocab_size must lie in \[8, 65535\]": {"data": {"vocabularies": "separate", "source_vocab_size": 7}},
}


@pytest.mark.parametrize("message", REFUSED)
def test_settings_that_contradict_each_other_are_refused(message, micro):
    settings = json.loads(json.dumps(asdict(micro)))
    for section, changes in REFUSED[message].items():
        settings[section].update(changes)
    with pytest.raises(UserError, match=message):
        Experiment.from_dict(settings)
