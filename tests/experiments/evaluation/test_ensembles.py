"""`evaluate RUN1,RUN2` and `evaluate RUN --mbr N`: what is scored, and what the record says that it is."""

import json
import shutil

import pytest

import experiments
from data.text import read_lines
from data.tokenizer import train_tokenizer
from experiments.cli.main import main
from experiments.evaluation.compare import compare
from experiments.evaluation.evaluate import evaluate
from experiments.evaluation.records import OF_RUN, outputs_of, read_evaluation, results_table, write_record
from experiments.tables.runner import check_record
from experiments.training.average import average_run
from experiments.translator import Translator
from experiments.workdir import WorkDir, ensemble_folder, write_run
from transformer.checkpoint import Checkpoint
from transformer.config import UserError


def quiet(line):
    pass


@pytest.fixture(scope="module")
def pair(run, tmp_path_factory):
    """Two runs of one vocabulary, neither scored yet."""
    folder = tmp_path_factory.mktemp("ensembles")
    shutil.copytree(run.path, folder / "a", ignore=shutil.ignore_patterns("evaluation"))
    average_run(run, "20,30", folder / "b", quiet)
    return WorkDir(folder / "a"), WorkDir(folder / "b")


@pytest.fixture(scope="module")
def together(pair):
    """The folder of their ensemble, which is scored."""
    main(["evaluate", ",".join(str(each.path) for each in pair), "--test-set", "dev"])
    return WorkDir(pair[0].path.with_name("a+b"))


def test_the_record_of_an_ensemble_says_of_each_run_what_its_own_record_says(pair, together):
    record = read_evaluation(together.evaluation / "dev.json")
    assert not list(pair[0].path.glob("evaluation/*"))  # what the ensemble scored is none of the first run's scores
    own = [read_evaluation(evaluate(each, Translator.load(each.path), "dev", quiet).record) for each in pair]
    assert record["members"] == [
        {"run": name} | {field: alone[field] for field in OF_RUN} for name, alone in zip("ab", own, strict=True)
    ]
    assert [member["checkpoints"] for member in record["members"]] == [[20, 30, 40], [20, 30]]
    assert "members" not in own[0] and "mbr" not in own[0] and set(OF_RUN) < set(own[0])
    assert set(record) == set(own[0]) - {*OF_RUN, "curve"} | {"members", "commit"}
    assert record["commit"] == {"evaluate": own[0]["commit"]["evaluate"]}


def test_each_ensemble_has_a_folder_of_its_own(tmp_path):
    names = "a/run", "b/run", "c/run", "a/x", "a/y+z", "a/x+y", "a/z", "a/y"
    runs = {name: WorkDir(tmp_path / name) for name in names}
    groups = ("a/run", "b/run"), ("a/run", "c/run"), ("b/run", "a/run"), ("a/x", "a/y+z"), ("a/x+y", "a/z")
    groups += (("a/x", "a/y", "a/z"), ("a/x", "a/y"), ("a/y", "a/x"))
    folders = [ensemble_folder([runs[name] for name in group]).path for group in groups]
    assert len(set(folders)) == len(groups)
    assert folders[0].parent == tmp_path / "a" and folders[-2].name == "x+y"
    for each in (runs["a/x+y"], runs["a/x"], runs["a/y"]):
        each.path.mkdir(parents=True)
        (each.path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"x\+y, the folder for the scores of this ensemble, is a run"):
        ensemble_folder([runs["a/x"], runs["a/y"]])


def test_the_outputs_are_those_of_the_ensemble(pair, together, text):
    model = experiments.load([each.path for each in pair], log=quiet)
    sources = list(read_lines(text / "dev.en"))
    found = list(read_lines(together.evaluation / "dev.output.txt"))
    assert found == model.translate(sources) != experiments.load(pair[0].path, log=quiet).translate(sources)


def test_an_ensemble_is_compared_as_one_system_and_listed_as_what_it_is(pair, together):
    (a, b), both = (str(each.path) for each in pair), str(together.path)
    for each in pair:
        evaluate(each, Translator.load(each.path), "dev", quiet)
    warning = list(compare([both], [a], "dev"))[1]
    assert "models: 2 and 1; checkpoints: average (3 averaged) + 20,30 (2 averaged) and average (3" in warning
    with pytest.raises(UserError, match=r"a\+b is an ensemble, not one of several seeds"):
        next(compare([both, a], [a, b], "dev"))
    with pytest.raises(UserError, match=r"2 runs of one system and 1 .* the folder RUN1\+RUN2"):
        next(compare([a, b], [both], "dev"))
    with pytest.raises(UserError, match=r"a\+b has no scored test set 'test' \(scored: dev\).*evaluate RUN1,RUN2"):
        next(compare([both], [both], "test"))
    row = results_table(together.evaluation).splitlines()[2]
    assert row.startswith("| [ensemble of a + b](") and "| 40 + 30 of 40 |" in row


def test_an_ensemble_is_no_row_of_a_table(together, micro):
    path = together.evaluation / "dev.json"
    with pytest.raises(UserError, match=r"dev\.json is the record of an ensemble, which is no row of a table"):
        check_record(3, path, read_evaluation(path), micro, 0)


def test_each_member_is_described(tmp_path):
    whole = {field: {} for field in OF_RUN}
    record = {"scores": [{}], "sources": {}, "members": [whole, whole]}
    write_record(tmp_path / "whole.json", record)
    assert len(read_evaluation(tmp_path / "whole.json")["members"]) == 2
    lacking = {field: {} for field in OF_RUN if field != "settings"}
    write_record(tmp_path / "lacking.json", record | {"members": [whole, lacking]})
    with pytest.raises(UserError, match=r"lacking\.json is not the record of an evaluation: it has no settings"):
        read_evaluation(tmp_path / "lacking.json")


@pytest.mark.slow
def test_the_choice_among_samples_is_scored_and_recorded(pair, capsys, text):
    a = str(pair[0].path)
    ways = ["--sample", "--mbr", "4", "--mbr-metric", "bleu", "--seed", "3", "--temperature", "0.5"]
    main(["translate", a, "--input", str(text / "test.en"), *ways])
    printed = capsys.readouterr().out
    main(["evaluate", a, *ways])
    path = pair[0].evaluation / "test.json"
    record = read_evaluation(path)
    assert outputs_of(path).read_text() == printed
    assert record["mbr"] == {"samples": 4, "metric": "bleu"} and record["settings"]["decode"]["seed"] == 3
    assert "minimum Bayes risk of 4 samples by bleu (6.1)" in record["deviations"]
    searched = evaluate(pair[1], Translator.load(pair[1].path), "test", quiet)
    lines = list(compare([a], [str(pair[1].path)], "test"))
    assert "sample: True and False; temperature: 0.5 and 1.0; seed: 3 and 0; choice: minimum Bayes" in lines[1]
    assert "mbr" not in json.loads(searched.record.read_text())


def test_samples_of_an_ensemble_are_chosen_from_too(pair, capsys):
    names = ",".join(str(each.path) for each in pair)
    main(["evaluate", names, "--sample", "--mbr", "2", "--temperature", "0.5"])
    record = read_evaluation(pair[0].path.with_name("a+b") / "evaluation" / "test.json")
    assert record["mbr"] == {"samples": 2, "metric": "chrf"} and len(record["members"]) == 2


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--mbr", "4"], "needs --sample"),
        (["--mbr", "0", "--sample"], "at least 1"),
        (["--mbr-metric", "bleu", "--sample"], "needs --mbr N"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(pair, capsys, flags, said):
    with pytest.raises(SystemExit) as end:
        main(["evaluate", str(pair[0].path), *flags])
    error = capsys.readouterr().err
    assert end.value.code == 2 and said in error and error.count("error:") == 1


def test_runs_of_different_vocabularies_are_refused_and_leave_no_folder(pair, capsys, tmp_path):
    model = Translator.load(pair[1].path)
    tokenizer = train_tokenizer(["some other text", "with other pieces"], tmp_path / "other.model", "bpe", 30)
    stranger = pair[1].path.with_name("c")
    meta = model.meta | {"vocabulary": tokenizer.sha256}
    write_run(stranger, model.experiment, tokenizer, Checkpoint(model.params, meta, model.steps))
    with pytest.raises(SystemExit) as end:
        main(["evaluate", f"{pair[0].path},{stranger}"])
    error = capsys.readouterr().err
    assert end.value.code == 2 and "have different vocabularies" in error and error.count("error:") == 1
    assert not pair[0].path.with_name("a+c").exists()
