"""An experiment or a run by name, and settings from a file."""

import json
from dataclasses import asdict, replace

import pytest

from experiments import find
from experiments.cli.arguments import UsageError, configured, experiment_of, parse, take_config
from experiments.cli.flags import Attending, Planning, Scoring
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
        assert named.run and named.run.resolve() == here / "runs" / "mine"


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
        ({"train": {"stepz": 1}}, "unknown setting 'stepz'"),
        ({"train": 3}, "not the settings of an experiment"),
        ({"name": {"a": 1}, "model": {"d_model": "wide"}}, "name must be a text"),
        ([1], "not a JSON object"),
        ({"train": {"steps": 0}}, "train.steps must be at least 1"),
        ({"train": {"steps": 6.5}}, "train.steps must be a whole number, not 6.5"),
        ({"train": {"steps": True}}, "train.steps must be a whole number, not True"),
        ({"model": {"norm": "banana"}}, "model.norm must be post, pre, not 'banana'"),
        ({"data": {"train_pairs": "ten"}}, "data.train_pairs must be a whole number or null, not 'ten'"),
        ({"name": ""}, "name '' cannot name a run"),
        ({"name": "../up"}, "cannot name a run"),
    ],
    ids=str,
)
def test_a_file_of_no_settings_is_refused(here, content, message):
    write(here / "mine.json", content)
    for arguments in (["demo", "--config", "mine.json"], ["--config", "mine.json"]):
        with pytest.raises(UserError, match=message):
            experiment_of("train", arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["demo", "--config"], "--config needs a JSON file"),
        (["demo", "--config", "nothing.json"], "no such file"),
        (["demo", "--config", "a", "--config", "b"], "given twice"),
        (["runs/nothing"], "no run at runs/nothing"),
        (["nothing"], "unknown experiment 'nothing'"),
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
        (["--words", "yes"], "unexpected yes"),
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
