"""Parsing as a task: a run on trees, from training to its record."""

import json
from dataclasses import replace

import pytest

from data.treebanks.linear import is_tree_over
from data.treebanks.trees import read_trees, words_in, words_of
from experiments import find
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.risk import MinimumRisk
from experiments.evaluation.test_sets import read_files
from experiments.exchange.exchange import export_run
from experiments.history import read_metrics
from experiments.planning.explain import explain
from experiments.task import TASKS, task_of
from experiments.training.loop import train
from experiments.training.stopping import Best
from experiments.translator import Translator
from transformer.config import DataConfig, UserError

NOUNS, VERBS = ("cat", "dog", "man", "house"), ("sees", "finds", "likes")
TREES = [
    f"(TOP (S (NP (DT the) (NN {a})) (VP (VBZ {verb}) (NP (DT the) (NN {b}))) (. .)))"
    for a in NOUNS
    for verb in VERBS
    for b in NOUNS
]


@pytest.fixture(scope="module")
def parser(micro, tmp_path_factory):
    """A run that has learned the one shape of tree there is."""
    path = tmp_path_factory.mktemp("treebank") / "all.trees"
    path.write_text("".join(tree + "\n" for tree in TREES), encoding="utf-8")
    data = DataConfig(
        task="parsing",
        train_tgt=str(path),
        dev_tgt=str(path),
        vocabularies="separate",
        vocab_size=20,
        source_vocab_size=50,
        max_length=40,
        batch_tokens=512,
    )
    experiment = replace(
        micro,
        model=replace(micro.model, tied="none", vocab_size=20, source_vocab_size=50, norm="pre", dropout=0.0),
        data=data,
        decode=replace(micro.decode, extra_length=30),
        train=replace(micro.train, steps=80, eval_every=40),
    )
    return train(experiment, tmp_path_factory.mktemp("runs") / "parser", log=lambda line: None)


@pytest.mark.slow
def test_a_parser_is_trained_validated_and_scored_by_f1(parser):
    assert "dev_f1" in {name for row in read_metrics(parser.metrics) for name in row}
    translator = Translator.load(parser.path, log=lambda line: None)
    (tree,) = translator.translate(["the dog finds the cat ."])
    assert tree == "(TOP (S (NP (XX the) (XX dog)) (VP (XX finds) (NP (XX the) (XX cat))) (XX .)))"
    found = evaluate(parser, translator, "test", log=lambda line: None)
    record = json.loads(found.record.read_text(encoding="utf-8"))
    assert [score["name"] for score in record["scores"]] == ["F1", "precision", "recall", "complete match"]
    assert record["scores"][0]["value"] == 100.0 and "EVALB" in record["scores"][0]["signature"]


@pytest.mark.slow
def test_every_sentence_gets_a_tree_over_its_words(parser):
    translator = Translator.load(parser.path, log=lambda line: None)
    sentences = ["cat", "the ( cat ) sees", "a\u00a0b c", "the " * 30 + "house", "", "unheard words , too !"]
    for sentence, output in zip(sentences, translator.translate(sentences), strict=True):
        trees = list(read_trees([output], "output"))
        words = [word.text for tree in trees for word in words_of(tree)]
        assert words == [word.replace("(", "-LRB-").replace(")", "-RRB-") for word in sentence.split(" ") if word]


@pytest.mark.slow
def test_a_bracket_is_read_as_it_is_written_in_a_treebank(parser):
    warnings: list[str] = []
    translator = Translator.load(parser.path, log=warnings.append)
    one, other = translator.n_best(["the ( cat ) sees", "the -LRB- cat -RRB- sees"], 1)
    assert one == other
    assert all("'('" not in warning for warning in warnings)


@pytest.mark.slow
@pytest.mark.parametrize("beam", [1, 3])
def test_with_only_trees_no_sequence_has_to_be_repaired(parser, beam):
    translator = Translator.load(parser.path, log=lambda line: None)
    sentences = ["cat", "the ( cat ) sees", "a b c d e f g", "the dog finds the cat .", ""]
    decode = replace(translator.experiment.decode, beam=beam, only_trees=True)
    translator.experiment = replace(translator.experiment, decode=decode)
    complete = 0
    for sentence, (best, *_) in zip(sentences, translator.n_best(sentences, 1), strict=True):
        symbols = [piece.removeprefix("▁") for piece in best.pieces[:-1]]
        complete += best.finished and bool(symbols)
        assert not best.finished or is_tree_over(words_in(sentence), symbols), (sentence, symbols)
    assert complete >= 2


@pytest.mark.slow
def test_what_is_for_texts_is_refused_for_trees(parser, tmp_path):
    translator = Translator.load(parser.path, log=lambda line: None)
    with pytest.raises(UserError, match="compares texts, and the outputs of this run are trees"):
        evaluate(parser, translator, "test", lambda line: None, MinimumRisk(2))
    for kind in ("marian", "ctranslate2"):
        with pytest.raises(UserError, match=f"the {kind} format is for texts"):
            export_run(translator, tmp_path / kind, print, kind)
    (best,) = translator.n_best(["the dog finds the cat ."], 1)
    with pytest.raises(UserError, match="nothing to align"):
        translator.align(["the dog finds the cat ."], best)
    decode = replace(translator.experiment.decode, replace_unk=True)
    translator.experiment = replace(translator.experiment, decode=decode)
    with pytest.raises(UserError, match="replace_unk is for texts"):
        translator.translate(["the dog"])


@pytest.mark.slow
def test_a_target_may_be_a_tree_or_its_sequence(parser):
    translator = Translator.load(parser.path, log=lambda line: None)
    sentence = "the dog finds the cat ."
    tree, sequence = (
        "(TOP (S (NP (DT the) (NN dog)) (VP (VBZ finds) (NP (DT the) (NN cat))) (. .)))",
        "(S (NP XX XX )NP (VP XX (NP XX XX )NP )VP XX )S",
    )
    one, other = translator.score([sentence] * 2, [tree, sequence])
    assert one == pytest.approx(other)
    begun = [best.pieces[:3] for (best,) in translator.n_best([sentence] * 2, 1, prefixes=["(S (VP", ")S"])]
    assert begun[0][:2] == ("▁(S", "▁(VP") and begun[1][:1] == ("▁)S",)


@pytest.mark.slow
def test_references_that_are_no_trees_are_refused_before_anything_is_translated(parser, tmp_path):
    translator = Translator.load(parser.path, log=lambda line: None)
    for name, text in (("source", "the dog"), ("target", "(S (NP XX XX )NP )S")):
        (tmp_path / name).write_text(text + "\n", encoding="utf-8")
    test_set = read_files(tmp_path / "source", tmp_path / "target", translator.tokenizer, None)
    lines: list[str] = []
    with pytest.raises(UserError, match="the references are not bracketed trees, one per line: reference 1, line 1"):
        evaluate(parser, translator, test_set, lines.append)
    assert not lines


def test_the_words_of_a_treebank_are_not_published():
    task = TASKS["tagged-parsing"]
    assert task.published("(TOP (S (NP (PRP It)) (VP (VBZ works)) (. .)))") == "(S (NP PRP )NP (VP VBZ )VP . )S"
    assert task.published("") == "" and TASKS["translation"].published("Es geht.") == "Es geht."


def test_a_reference_must_be_a_tree_over_the_words_of_its_sentence():
    task = TASKS["parsing"]
    tree = "(TOP (NP (NN a) (-LRB- -LRB-) (NN b)))"
    assert task.warning(["a ( b", "a -LRB- b"], [tree, tree], None) is None
    with pytest.raises(UserError, match="line 2: the reference is not a tree over the words of its sentence"):
        task.warning(["a ( b", "a b"], [tree, tree], None)


def test_a_sequence_that_is_no_tree_over_the_words_counts_as_repaired():
    task = TASKS["parsing"]
    assert not task.is_repaired("a b", ["▁(NP", "▁XX", "▁XX", "▁)NP"])
    assert not task.is_repaired("", [])
    for pieces in (["▁(NP", "▁XX", "▁)NP"], ["▁(NP", "▁XX", "▁XX"], ["▁(NP", "▁XX", "▁XX", "▁)VP"], []):
        assert task.is_repaired("a b", pieces), pieces
    assert not TASKS["translation"].is_repaired("a b", ["▁(NP"])


@pytest.mark.slow
def test_only_trees_is_refused_for_translation(run):
    translator = Translator.load(run.path, log=lambda line: None)
    translator.experiment = replace(
        translator.experiment, decode=replace(translator.experiment.decode, only_trees=True)
    )
    with pytest.raises(UserError, match="only_trees is for parsing"):
        translator.translate(["a"])


def test_tasks_are_found_by_name():
    assert {task_of(DataConfig(task=name)).metric for name in TASKS} == {"BLEU", "F1", "accuracy"}
    with pytest.raises(UserError, match=r"unknown data.task 'parsin'; there are: parsing"):
        task_of(DataConfig(task="parsin"))


def test_explain_says_what_a_target_is():
    experiment = find("demo")
    trees = replace(experiment, data=replace(experiment.data, task="tagged-parsing"))
    said, of_texts = ("\n".join(explain(each)) for each in (trees, experiment))
    assert "data.task = 'tagged-parsing': A sentence into its constituency tree" in said
    assert "symbols of trees" in said and "trees" not in of_texts and "data.task" not in of_texts


def test_a_run_without_a_better_score_stops_for_the_score_of_its_task():
    experiment = find("demo")
    trees = replace(
        experiment,
        data=replace(experiment.data, task="parsing"),
        train=replace(experiment.train, best="score", patience=1),
    )
    assert "no better F1 in" in Best(1.0, 1, 1.0).reason(trees)
    assert "no better BLEU in" in Best(1.0, 1, 1.0).reason(replace(trees, data=experiment.data))
