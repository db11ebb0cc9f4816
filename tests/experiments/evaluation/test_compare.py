"""Compares two systems on one test set with sacreBLEU's significance tests, on exactly the texts that were scored."""

import json
import random
import shutil

import pytest

from data.text import read_lines
from experiments.evaluation.compare import compare, paired, runs_of
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.records import write_record
from experiments.task import TASKS
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.config import UserError


def quiet(line):
    pass


@pytest.fixture(scope="module")
def evaluated(run, tmp_path_factory):
    """Two scored runs: the last checkpoint and the first."""
    paths = []
    for checkpoint in ("40", "20"):
        copy = WorkDir(tmp_path_factory.mktemp("compare") / checkpoint)
        shutil.copytree(run.path, copy.path)
        evaluate(copy, Translator.load(copy.path, checkpoint, quiet), "test", quiet)
        paths.append(copy.path)
    return paths


def edited(path, copy, change):
    """A copy of a scored run with changes in its record."""
    shutil.copytree(path, copy)
    record = json.loads((copy / "evaluation" / "test.json").read_text())
    change(record)
    write_record(copy / "evaluation" / "test.json", record)
    return WorkDir(copy), record


def test_a_system_is_as_good_as_itself(evaluated):
    lines = list(compare([str(evaluated[0])], [str(evaluated[0])], "test"))
    assert "+0.00" in lines[1] and "p = 1.0000 (bootstrap), 1.0000" in lines[1]
    assert lines[-1].startswith("chrF2") and "n = 1: no interval" in lines[-1]


def test_what_differs_in_how_two_were_scored_is_named(evaluated, tmp_path):
    a, b = map(str, evaluated)
    lines = list(compare([a], [b], "test"))
    assert "warning: not scored the same way" in lines[1] and "checkpoints: 40 and 20" in lines[1]
    assert not any("warning" in line for line in compare([a], [a], "test"))

    def change(record):
        record["settings"]["decode"]["beam"] = 1
        record.update(selection="average", checkpoints=[20, 30, 40])

    greedy, _ = edited(a, tmp_path / "greedy", change)
    lines = list(compare([a], [str(greedy.path)], "test"))
    assert "checkpoints: 40 and average (3 averaged); beam: 4 and 1" in lines[1]


def test_scores_of_other_tokens_are_not_compared(evaluated, tmp_path):
    def change(record):
        record["scores"][0]["signature"] = record["scores"][0]["signature"].replace("tok:13a", "tok:zh")

    other, _ = edited(evaluated[0], tmp_path / "other", change)
    with pytest.raises(UserError, match=r"BLEU of different tokenizers \(zh and 13a\)"):
        next(compare([str(evaluated[0])], [str(other.path)], "test"))


def test_seeds_are_compared_pair_by_pair(evaluated, tmp_path):
    a, b = map(str, evaluated)
    with pytest.raises(UserError, match="have the same seed"):
        next(compare([a, a], [b, b], "test"))
    with pytest.raises(UserError, match="not runs of one system: they differ in the selection of checkpoints"):
        next(compare([a, b], [b, a], "test"))

    def change(record):
        record["settings"]["train"]["seed"] = 1
        record["settings"]["model"]["kernels"] = False  # it changes the results only by rounding, as the mesh does
        record["settings"]["mesh"]["fsdp"] = 2

    other, record = edited(b, tmp_path / "other", change)
    record["selection"] = "40"
    write_record(other.evaluation / "test.json", record)
    c = str(other.path)
    lines = list(compare([a, c], [c, a], "test"))
    assert [line.split(" and ")[0] for line in lines if ", test set" in line] == [a, c]
    assert "±" in lines[-1] and "n = 2 seeds" in lines[-1]
    record["settings"]["model"]["dropout"] = 0.7
    write_record(other.evaluation / "test.json", record)
    with pytest.raises(UserError, match=r"not runs of one system: they differ in model\.dropout"):
        next(compare([a, c], [c, a], "test"))
    with pytest.raises(UserError, match="2 runs of one system and 1 of the other"):
        next(compare([a, b], [b], "test"))


@pytest.mark.slow
def test_chance_and_a_difference_are_told_apart():
    choose = random.Random(0)
    references = [" ".join(choose.choices("abcdefghij", k=12)) for _ in range(200)]

    def spoilt(part):
        return [" ".join(w if choose.random() > part else "x" for w in line.split()) for line in references]

    a, b, worse = spoilt(0.2), spoilt(0.2), spoilt(0.3)
    metrics = TASKS["translation"].metrics("de")
    for metric in ("BLEU", "chrF2"):
        same, different = paired(a, b, references, metrics)[metric], paired(a, worse, references, metrics)[metric]
        assert min(same.bootstrap, same.randomisation) > 0.05
        assert max(different.bootstrap, different.randomisation) < 0.01
        assert different.second < different.first


def test_parsers_are_compared_by_f1_and_what_one_of_them_skipped_is_no_error():
    right, wrong = "(TOP (S (NP (XX a)) (VP (XX b))))", "(TOP (S (VP (XX a)) (NP (XX b))))"
    metrics = TASKS["parsing"].metrics(None)
    found = paired([right] * 40, [wrong] * 20 + [right] * 19 + [""], [right] * 40, metrics)
    assert list(found) == ["F1"] and found["F1"].first == 100.0 and found["F1"].second < 80
    assert max(found["F1"].bootstrap, found["F1"].randomisation) < 0.01


def test_a_text_that_is_not_what_was_scored_is_refused(evaluated, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(evaluated[0], copy)
    output = copy / "evaluation" / "test.output.txt"
    output.write_text("another line\n" + "\n".join(list(read_lines(output))[1:]) + "\n")
    with pytest.raises(UserError, match=r"test\.output\.txt is not what .*test\.json was made from"):
        next(compare([str(evaluated[1])], [str(copy)], "test"))
    with pytest.raises(UserError, match=r"has no scored test set 'unheard-of' \(scored: .*test"):
        next(compare([str(copy)], [str(copy)], "unheard-of"))


def test_runs_of_several_seeds_have_commas_between(tmp_path):
    assert runs_of("a,b") == ["a", "b"]
    (tmp_path / "a,b").mkdir()
    assert runs_of(str(tmp_path / "a,b")) == [str(tmp_path / "a,b")]
