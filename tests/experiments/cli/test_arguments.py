"""An experiment or a run by name, and settings from a file."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace

import pytest

from experiments import find
from experiments.cli.arguments import UsageError, configured, experiment_of, parse, take_config
from experiments.cli.flags import Attending, Planning, Scoring, Training
from experiments.workdir import find_workdir
from transformer.config import UserError


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def test_a_run_stands_for_its_settings(here):
    mine = replace(find("demo"), name="other", note="mine")
    write(here / "runs" / "mine" / "config.json", asdict(mine))
    for name in ("mine", "runs/mine", str(here / "runs" / "mine")):
        named = experiment_of("train", [name, "--train.steps", "7"])
        assert named.experiment == mine and named.flags == ["--train.steps", "7"]
        assert named.run and named.run.path.resolve() == here / "runs" / "mine"


def test_an_experiment_is_meant_by_a_name_that_a_run_has_too(here):
    write(here / "runs" / "demo" / "config.json", asdict(replace(find("demo"), note="mine")))
    assert experiment_of("train", ["demo"]) == (find("demo"), None, [])
    assert experiment_of("train", ["runs/demo"]).experiment.note == "mine"


@pytest.mark.parametrize("flag", [["--config", "mine.json"], ["--config=mine.json"]], ids=len)
def test_a_file_changes_some_settings_or_has_all(here, flag):
    write(here / "mine.json", {"name": "tiny", "train": {"steps": 5}})
    named = experiment_of("train", ["demo", "--screen", *flag])
    demo = find("demo")
    assert named.experiment == replace(demo, name="tiny", train=replace(demo.train, steps=5))
    assert named.flags == ["--screen"]
    write(here / "mine.json", asdict(demo))
    assert experiment_of("train", flag).experiment == demo
    write(here / "mine.json", {})
    assert experiment_of("train", flag).experiment.name == "mine"


@pytest.mark.parametrize(
    "content, message",
    [
        ({"train": {"stepz": 1}}, "unknown setting 'train.stepz'; did you mean 'train.steps'[?]"),
        ({"model": {"droput": 0.3}}, "unknown setting 'model.droput'; did you mean 'model.dropout'[?]"),
        ({"dropout": 0.3}, "unknown setting 'dropout'; did you mean 'model.dropout'[?]"),
        ({"vocab_size": 9}, "unknown setting 'vocab_size'; did you mean 'model.vocab_size' or 'data.vocab_size'[?]"),
        ({"modle": {}}, "unknown setting 'modle'; did you mean 'model'[?]"),
        ({"mesh": {"qqqq": 1}}, "unknown setting 'mesh.qqqq'; there are: mesh.data, mesh.fsdp"),
        ({"train": 3}, "train expects an object with settings, not 3"),
        ({"name": {"a": 1}, "model": {"d_model": "wide"}}, "name expects a string"),
        ([1], "not a JSON object"),
        ({"train": {"steps": 0}}, "train.steps must be at least 1"),
        ({"train": {"steps": 6.5}}, "train.steps expects a whole number, not 6.5"),
        ({"train": {"steps": True}}, "train.steps expects a whole number, not True"),
        ({"model": {"norm": "banana"}}, "model.norm expects one of post, pre, not 'banana'"),
        ({"model": {"kernels": "no"}}, "model.kernels expects true or false, not 'no'"),
        ({"model": {"kernels": 0}}, "model.kernels expects true or false, not 0"),
        ({"model": {"no_kernels": True}}, "unknown setting 'model.no_kernels'; did you mean 'model.kernels'[?]"),
        ({"data": {"train_pairs": "ten"}}, "data.train_pairs expects a whole number or null, not 'ten'"),
        ({"name": ""}, "name '' cannot name a run"),
        ({"name": "../up"}, "cannot name a run"),
    ],
    ids=str,
)
def test_a_file_of_no_settings_is_refused(here, content, message):
    write(here / "mine.json", content)
    for arguments in (["demo", "--config", "mine.json"], ["--config", "mine.json"]):
        with pytest.raises(UserError, match=f"^mine.json.*{message}"):
            experiment_of("train", arguments)
    write(here / "runs" / "mine" / "config.json", {"name": "mine"} | content if isinstance(content, dict) else content)
    with pytest.raises(UserError, match=f"^runs/mine/config.json.*{message}"):
        experiment_of("train", ["runs/mine"])


def test_a_setting_that_a_file_gives_twice_is_refused(here):
    (here / "mine.json").write_text('{"train": {"steps": 5, "seed": 1, "steps": 6}}')
    with pytest.raises(UserError, match=r"mine.json cannot be read: .*'steps' twice"):
        experiment_of("train", ["demo", "--config", "mine.json"])


def test_settings_come_through_a_pipe_too(here):
    """It has no name, so without one a run has none either."""
    for given, arguments in (({"train": {"steps": 5}}, ["demo"]), ({"name": "mine", "train": {"steps": 5}}, [])):
        there, inside = os.pipe()
        with os.fdopen(there), os.fdopen(inside, "w") as writer:
            writer.write(json.dumps(given))
            writer.close()
            experiment = experiment_of("train", [*arguments, "--config", f"/dev/fd/{there}"]).experiment
        assert (experiment.name, experiment.train.steps) == (given.get("name", "demo"), 5)
    os.mkfifo(here / "pipe")
    with ThreadPoolExecutor(1) as writer:
        writer.submit((here / "pipe").write_text, "{}")
        with pytest.raises(UserError, match=r"^pipe: the setting 'name' is missing"):
            experiment_of("train", ["--config", "pipe"])


def make_run(path, **changes):
    write(path / "config.json", asdict(replace(find("demo"), **changes)))
    (path / "vocab.model").touch()


def test_a_run_that_is_not_there_names_those_that_are(here):
    for name in ("train", "explain"):
        with pytest.raises(UserError, match=r"^no run at runs/mutli30k: train one with"):
            experiment_of(name, ["runs/mutli30k"])
    write(here / "runs" / "multi30k-not" / "config.json", {})  # of another program: it has no vocabulary
    for run in ("runs/multi30k", "elsewhere/europarl", "runs/table/small"):
        make_run(here / run)
    for name, near in (
        ("runs/mutli30k", "runs/multi30k"),
        ("elsewhere/europal", "elsewhere/europarl"),
        ("table/smal", "runs/table/small"),
        (f"{here}/elsewhere/euro-parl", f"{here}/elsewhere/europarl"),
    ):
        with pytest.raises(UserError, match=rf"^no run at {name}( or runs/{name})?; did you mean: {near}\?$"):
            experiment_of("train", [name])
        with pytest.raises(UserError, match=rf"^no run at {name}( or runs/{name})?; did you mean: {near}\?$"):
            find_workdir(name)
    with pytest.raises(UserError, match=r"^no run at mutli30k or runs/mutli30k; did you mean: runs/multi30k\?$"):
        find_workdir("mutli30k")
    with pytest.raises(UserError, match=r"^no run at q or runs/q; the newest runs are: runs/"):
        find_workdir("q")
    with pytest.raises(
        UserError, match=r"^no experiment or run 'mutli30k'; did you mean: multi30k, .*, runs/multi30k\?$"
    ):
        experiment_of("plan", ["mutli30k"])


def test_a_file_is_perhaps_settings_where_there_is_one(here):
    write(here / "sub" / "x.json", {})
    for name in ("sub/x.json", str(here / "sub" / "x.json")):
        with pytest.raises(UserError, match=f"perhaps --config {name}"):
            experiment_of("train", [name])
    for name in ("x.json", "sub/y.json"):
        with pytest.raises(UserError) as told:
            experiment_of("train", [name])
        assert "--config" not in str(told.value)


def test_a_name_of_both_is_noted_where_the_settings_differ(here, capsys):
    make_run(here / "runs" / "demo")
    experiment_of("train", ["demo"])
    assert capsys.readouterr().err == ""  # either means the same
    make_run(here / "runs" / "demo", note="mine")
    for verb in ("train", "plan"):
        assert experiment_of(verb, ["demo"]).run is None
        assert capsys.readouterr().err == (
            "note: demo is the experiment; the run with this name has other settings: use runs/demo\n"
        )
        assert experiment_of(verb, ["runs/demo"]).experiment.note == "mine" and capsys.readouterr().err == ""
    make_run(here / "demo", note="mine")
    experiment_of("train", ["demo"])
    assert capsys.readouterr().err.endswith("use ./demo\n") and experiment_of("train", ["./demo"]).run


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["demo", "--config"], "--config expects a JSON file"),
        (["demo", "--config="], "--config expects a JSON file"),
        (["demo", "--config", "."], r"--config [.] is a directory: give a JSON file"),
        (["demo", "--config", "nothing.json"], "no such file"),
        (["demo", "--config", "a", "--config", "b"], "given twice"),
        (["runs/nothing"], "no run at runs/nothing"),
        (["nothing"], "no experiment or run 'nothing'; the experiments are: demo, "),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(here, arguments, message):
    with pytest.raises(UserError, match=message):
        experiment_of("train", arguments)
    with pytest.raises(UsageError):
        experiment_of("train", [])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--htm", "a.html"], "there is no flag --htm; perhaps --html"),
        (["--nothing-like-it"], "there is no flag --nothing-like-it"),
        (["--html", "a.html", "b.html"], "unexpected b.html"),
        (["yes"], "unexpected yes"),
        ([""], "unexpected ''"),
    ],
    ids=str,
)
def test_what_nobody_reads_is_told_in_a_sentence(arguments, message):
    with pytest.raises(UserError) as told:
        parse(Attending, arguments, Attending(), "attention")
    assert str(told.value) == message


def test_flags_that_are_alike_are_named_without_their_help():
    with pytest.raises(
        UserError, match=r"^there is no flag --train.step and no --model.d-modl; perhaps --[-a-z. ]+$"
    ) as e:
        parse(Planning, ["--train.step", "5", "--model.d-modl", "3"], Planning(find("demo")), "plan")
    assert "--train.steps" in str(e.value).split() and "--model.d-model" in str(e.value).split()


def parsed(*flags):
    demo = find("demo")
    return parse(Training, list(flags), Training(demo), "train demo")


def test_a_boolean_setting_has_a_flag_for_each_value_and_a_file_has_false(here):
    off = replace(find("demo"), model=replace(find("demo").model, kernels=False))
    for flag in ("--model.no-kernels", "--model.no_kernels"):
        assert parsed(flag).experiment == off
    write(here / "off.json", {"model": {"kernels": False}})
    configured = experiment_of("train", ["demo", "--config", "off.json"]).experiment
    assert configured == off
    assert parse(Training, ["--model.kernels"], Training(configured), "train demo").experiment == find("demo")


@pytest.mark.parametrize("on, off", [("--model.kernels", "--model.no-kernels"), ("--screen", "--no-screen")])
@pytest.mark.parametrize("value", ["False", "true", "0", ""])
def test_a_boolean_flag_with_a_value_says_what_to_type(on, off, value):
    for flag in (on, off):
        for words in ([f"{flag}={value}"], [flag.replace("-k", "_k") + "=" + value], [flag, value, "--train.steps=5"]):
            with pytest.raises(UserError) as told:
                parsed(*words)
            assert str(told.value) == f"{flag} expects no value, not {value!r}: type {on} for True or {off} for False"


@pytest.mark.parametrize("flag", ["--model.kernel", "--model.no-kernel", "--no-model.kernels", "--model.no-kernels-"])
def test_a_mistyped_boolean_flag_names_both(flag):
    with pytest.raises(UserError, match=f"^there is no flag {flag}; perhaps --model.kernels or --model.no-kernels$"):
        parsed(flag)


def test_help_says_what_is_required_and_no_default_for_it(capsys):
    with pytest.raises(SystemExit):
        parse(Scoring, ["--help"], Scoring(), "score RUN")
    words = " ".join(capsys.readouterr().out.replace("│", "").split())
    for flag in ("--source", "--target"):
        told = words[words.index(f"{flag} FILE") :].split("(", 2)
        assert "required)" in words[words.index(f"{flag} FILE") :].split(" --")[0] and "None" not in told[0]


def test_the_demo_takes_a_file_too(here):
    write(here / "mine.json", {"train": {"steps": 5}})
    config, flags = take_config(["--config", "mine.json", "--no-screen"])
    experiment = configured(find("demo"), config)
    assert experiment.train.steps == 5 and experiment.name == "demo" and flags == ["--no-screen"]
    with pytest.raises(UserError, match="no such file"):
        configured(find("demo"), take_config(["--config", "nothing.json"])[0])
