"""Checkpoint averages, saved as a new run."""

import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments.evaluation.validation import warn_if_worse
from experiments.training.average import average_run
from experiments.training.loop import train
from experiments.translator import Translator
from experiments.workdir import WorkDir
from transformer.checkpoint import signed
from transformer.config import Experiment, UserError


def quiet(line):
    pass


def test_the_mean_is_a_run_that_translates_as_the_checkpoints_averaged(run, tmp_path):
    lines = []
    average_run(run, "average", tmp_path / "one", lines.append)
    average_run(run, "40,20,30", tmp_path / "two", quiet)
    expected = Translator.load(run.path, "average")
    for name in ("one", "two"):
        mean = Translator.load(tmp_path / name)
        assert mean.steps == [20, 30, 40] and mean.experiment == expected.experiment
        assert mean.selection == {"one": "average", "two": "40,20,30"}[name]
        jax.tree.map(np.testing.assert_array_equal, mean.params, expected.params)
    told = [line.split(": validation loss ") for line in lines if not line.startswith("warning")]
    assert [what for what, *_ in told] == ["step 20", "step 30", "step 40", "average of 3"]
    losses = [float(loss) for _, loss in told]
    assert losses[3] != losses[2] and abs(losses[3] - losses[2]) < 1


def test_some_checkpoints_only(run, tmp_path):
    average_run(run, "20,40", tmp_path / "new", quiet)
    both = [Translator.load(run.path, step).params for step in ("20", "40")]
    jax.tree.map(
        lambda mean, a, b: np.testing.assert_array_equal(mean, (a + b) / 2),
        Translator.load(tmp_path / "new").params,
        *both,
    )


def test_what_has_no_mean_is_refused(run, tmp_path):
    with pytest.raises(UserError, match="checkpoint 20 is named twice"):
        average_run(run, "20,30,20", tmp_path / "new", quiet)
    with pytest.raises(UserError, match="checkpoint 20 is named twice"):
        average_run(run, "20,020", tmp_path / "new", quiet)
    with pytest.raises(UserError, match=r"no checkpoint '25'"):
        average_run(run, "20,25", tmp_path / "new", quiet)
    with pytest.raises(UserError, match="choose another --output"):
        average_run(run, "average", run.path, quiet)
    assert not (tmp_path / "new").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "config.json").write_text("precious")
    with pytest.raises(UserError, match="choose another --output"):
        average_run(run, "average", mine, quiet)
    with pytest.raises(UserError, match=r"config\.json cannot be read: .*; choose another --workdir"):
        train(run_experiment(run), mine, quiet)
    assert (mine / "config.json").read_text() == "precious"


def run_experiment(run):
    return Experiment.from_dict(run.settings())


def test_a_mean_that_is_worse_than_the_last_checkpoint_is_said(run, tmp_path, monkeypatch):
    """The first and last checkpoint of a run that learns fast. No warning for a good average or a single checkpoint."""
    lines = []
    average_run(run, "20,40", tmp_path / "new", lines.append)
    worse = r"warning: the average of 2 checkpoints is worse than the last of them .*--checkpoint last"
    assert len([line for line in lines if re.match(worse, line)]) == 1
    mean, said = Translator.load(run.path, "20,40"), []
    warn_if_worse(mean, said.append)
    assert len(said) == 1 and re.match(worse, said[0])
    for fine in (Translator.load(run.path, "last"), Translator.load(tmp_path / "new")):
        warn_if_worse(fine, said.append)
    mean.meta["dev_loss"] = 100.0
    warn_if_worse(mean, said.append)
    assert len(said) == 1
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "nothing"))
    data = replace(mean.experiment.data, dev_src=str(tmp_path / "gone.en"))
    mean.experiment = replace(mean.experiment, data=data)
    warn_if_worse(mean, said.append)
    assert len(said) == 2 and "is not compared" in said[1] and "gone.en: no such file" in said[1]


def test_there_is_nothing_to_go_on_training_from(run, tmp_path):
    mean = WorkDir(average_run(run, "average", tmp_path / "mean", quiet))
    before = sorted(path for path in mean.path.rglob("*"))
    with pytest.raises(UserError, match="holds a checkpoint average"):
        train(run_experiment(run), mean.path, quiet)
    assert sorted(path for path in mean.path.rglob("*") if path.name != ".lock") == [
        path for path in before if path.name != ".lock"
    ]
    with pytest.raises(UserError, match="is already an average"):
        average_run(mean, "average", tmp_path / "again", quiet)
    mixed = WorkDir(tmp_path / "mixed")
    shutil.copytree(run.path, mixed.path)
    shutil.copytree(mean.checkpoints / "40", mixed.checkpoints / "50")
    with pytest.raises(UserError, match="checkpoint 50 is already an average"):
        Translator.load(mixed.path, "average")


@pytest.mark.parametrize("what", ["vocabulary", "model.dropout"])
def test_a_checkpoint_of_another_experiment_is_refused(run, tmp_path, what):
    mixed = WorkDir(tmp_path / "mixed")
    shutil.copytree(run.path, mixed.path)
    path = mixed.checkpoints / "30" / "meta" / "metadata"
    meta = json.loads(path.read_text())
    if what == "vocabulary":
        meta["vocabulary"] = "another"
    else:
        meta["experiment"]["model"]["dropout"] = 0.5
    path.write_text(json.dumps(signed(meta)))
    with pytest.raises(UserError, match=rf"checkpoint 30 is from a different experiment than checkpoint 40 .*{what}"):
        average_run(mixed, "average", tmp_path / "new", quiet)
    assert Translator.load(mixed.path, "last").steps == [40]
