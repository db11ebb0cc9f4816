"""Evaluation on test sets other than that of the run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from sacrebleu import DATASETS

from data.languages import Languages
from experiments.cli.flags import Evaluating
from experiments.cli.verbs import test_set_of as chosen
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.test_sets import find_test_set, own_split, read_files
from experiments.translator import Translator
from experiments.workdir import PATHS
from transformer.config import DataConfig, UserError

EN_DE = Languages("en", "de")


def quiet(line):
    pass


@pytest.fixture
def news(tmp_path):
    """A second test set of three lines, one of them blank."""
    source, target = tmp_path / "news.en", tmp_path / "news.de"
    source.write_text("The man sees the dog.\n\nThe dog sees the man.\n")
    target.write_text("Der Mann sieht den Hund.\n\nDer Hund sieht den Mann.\n")
    return source, target


def test_a_further_text_has_a_record_of_its_own(run, news):
    translator = Translator.load(run.path)
    own = evaluate(run, translator, "test", quiet)
    before = own.record.read_bytes()
    said = []
    found = evaluate(run, translator, read_files(*news, translator.tokenizer, EN_DE), said.append)
    assert own.record.read_bytes() == before and found.record != own.record
    assert found.outputs[1] == ""  # every line of a file is scored
    record = json.loads(found.record.read_text())
    assert record["test_set"] == "news, en-de" and record["language"] == "de"
    assert {facts["name"] for facts in record["sources"].values()} == {path.name for path in news}
    assert "BLEU-split" in {score["name"] for score in record["scores"]}
    assert "average of checkpoints 20, 30, 40 (average), news, en-de" in said


@pytest.mark.slow
def test_a_record_says_what_it_was_scored_by(run, news):
    """Flags of `evaluate` override the settings of the run, also in the settings of the record."""
    translator = Translator.load(run.path)
    assert translator.experiment.data.languages is None
    data = replace(translator.experiment.data, max_unknown=0.5)
    translator.experiment = replace(translator.experiment, data=data)
    for text in (
        own_split(translator, "test", quiet, Languages("en", "de")),
        read_files(*news, translator.tokenizer, Languages("en", "de")),
    ):
        record = json.loads(evaluate(run, translator, text, quiet).record.read_text())
        trained = translator.meta["experiment"]["data"]
        names = [name for path in PATHS if trained[name := path.removeprefix("data.")]]
        paths = {name: Path(trained[name]).name for name in names}
        assert record["settings"]["data"] == trained | paths | {"languages": "en-de", "max_unknown": 0.5}
        assert all("/" not in facts["name"] for facts in record["data"]["sources"].values())  # of this machine
        assert not any(line.startswith("languages") for line in record["deviations"])
    record = json.loads(evaluate(run, translator, "test", quiet).record.read_text())
    assert record["settings"]["data"]["languages"] is None and record["language"] is None


def test_another_text_of_the_same_name_is_another_test_set(run, news):
    translator = Translator.load(run.path)
    first = read_files(*news, translator.tokenizer, EN_DE)
    news[0].write_text(news[0].read_text().replace("dog", "cat"))
    assert read_files(*news, translator.tokenizer, EN_DE).name != first.name


def test_flags_choose_the_text(run, news):
    translator = Translator.load(run.path)
    assert chosen(translator, Evaluating()).name == "test"
    dev = chosen(translator, Evaluating(test_set="dev", languages="en-zh-Hans"))
    assert (dev.name, dev.languages) == ("dev", ("en", "zh-Hans"))
    assert dev.sources == own_split(translator, "dev", quiet).sources
    assert chosen(translator, Evaluating(test_src=news[0], test_tgt=news[1])).label == "news"
    with pytest.raises(UserError, match="needs both sides"):
        chosen(translator, Evaluating(test_src=news[0]))
    with pytest.raises(UserError, match="give only one of them"):
        chosen(translator, Evaluating(test_set="dev", test_src=news[0], test_tgt=news[1]))
    with pytest.raises(UserError, match=r"unknown test set 'wmt17': .*give the languages with --data\.languages"):
        chosen(translator, Evaluating(test_set="wmt17"))


def test_sets_of_sacrebleu_are_found_by_name(run, tmp_path, monkeypatch):
    translator = Translator.load(run.path)
    monkeypatch.setattr(DATASETS["wmt14/full"], "_outdir", str(tmp_path))
    for field, line in {"src": "A dog.", "ref": "Ein Hund.", "docid": "1", "genre": "news", "origlang": "en"}.items():
        (tmp_path / f"wmt14_full.en-de.{field}").write_text(line + "\n")
    found = find_test_set("wmt14/full", translator, EN_DE, quiet)
    assert (found.name, found.label) == ("wmt14-full", "wmt14/full, en-de")
    assert (found.sources, found.references) == (["A dog."], ["Ein Hund."])
    assert not any(str(tmp_path) in facts["name"] for facts in found.files.values())  # records are portable
    with pytest.raises(UserError, match="no test set 'unheard-of' for en-de"):
        find_test_set("unheard-of", translator, EN_DE, quiet)


def test_multi30k_has_a_second_test_set(run, tmp_path, monkeypatch):
    translator = Translator.load(run.path)
    translator.experiment = replace(translator.experiment, data=DataConfig(corpus="multi30k-en-de", vocab_size=200))
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("DATA_MIRROR", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere"):
        find_test_set("test_2017_flickr", translator, EN_DE, quiet)


def test_an_unknown_word_is_counted_and_too_many_are_refused(run, tmp_path):
    files = tmp_path / "x.en", tmp_path / "x.de"
    for file in files:
        file.write_text("\u20ac\u20ac\u20ac \u2603\n")
    translator = Translator.load(run.path)
    with pytest.raises(UserError, match=r"of the tokens are <unk>.*'€' 3 times"):
        evaluate(run, translator, read_files(*files, translator.tokenizer, EN_DE), quiet)
    data = replace(translator.experiment.data, max_unknown=1.0)
    translator.experiment = replace(translator.experiment, data=data)
    result = evaluate(run, translator, read_files(*files, translator.tokenizer, EN_DE), quiet)
    assert json.loads(result.record.read_text())["counts"]["source_uncovered"] == {"€": 3, "☃": 1}


def test_a_line_that_is_too_long_costs_no_other(run, tmp_path):
    said = []
    translator = Translator.load(run.path, log=said.append)
    translator.max_tokens = 12
    files = tmp_path / "x.en", tmp_path / "x.de"
    for file in files:
        file.write_text("The man sees the dog.\n" + "The man sees the dog. " * 9 + "\nThe man sees the dog.\n")
    result = evaluate(run, translator, read_files(*files, translator.tokenizer, EN_DE), quiet)
    outputs = result.outputs
    assert json.loads(result.record.read_text())["skipped"] == 1
    assert outputs[1] == "" and outputs[0] == outputs[2] != ""
    assert any("line 2 has" in line and "skipped" in line for line in said)
