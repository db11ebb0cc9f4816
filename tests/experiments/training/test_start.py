"""A run that starts from another one: its parameters, or its whole state."""

import hashlib
import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from data.dataset import prepare
from experiments.evaluation.validation import validation_loss
from experiments.history import read_metrics
from experiments.training.average import average_run
from experiments.training.loop import train
from experiments.translator import Translator
from experiments.workdir import WorkDir
from tests.experiments.training.test_loop import assert_bitwise_equal, final_state
from transformer.checkpoint import read_meta
from transformer.config import LoraConfig, UserError
from transformer.train import init_state


def quiet(line: str) -> None:
    pass


def short(experiment, **settings):
    """The experiment, for one step that changes nothing: the parameters after it are those that it started from."""
    rate = replace(experiment.optimizer, scale=1e-30)
    return replace(experiment, optimizer=rate, train=replace(experiment.train, steps=1), **settings)


def started(experiment, path, log=quiet) -> Translator:
    return Translator.load(train(experiment, path, log).path, "last", quiet)


@pytest.mark.slow
@pytest.mark.parametrize(
    "checkpoint", ["", *(pytest.param(one, marks=pytest.mark.slow) for one in (":last", ":20,40"))]
)
def test_init_starts_from_the_parameters_of_a_checkpoint(checkpoint, micro, run, tmp_path):
    new = started(short(micro, init=f"{run.path}{checkpoint}"), tmp_path / "new")
    assert_bitwise_equal(new.params, Translator.load(run.path, checkpoint[1:] or "average", quiet).params)
    assert new.meta["step"] == 1 and new.meta["target_tokens"] < 512


@pytest.mark.slow
def test_the_rows_of_shared_pieces_are_carried_over_to_another_vocabulary(micro, run, tmp_path):
    lines: list[str] = []
    other = replace(micro, data=replace(micro.data, vocab_type="unigram", vocab_size=150), init=f"{run.path}:last")
    new, old = started(short(other), tmp_path / "new", lines.append), Translator.load(run.path, "last", quiet)
    rows = {piece: row for row, piece in enumerate(old.tokenizer.pieces(range(200)))}
    mine = new.tokenizer.pieces(range(150))
    shared = [row for row, piece in enumerate(mine) if piece in rows]
    fresh = init_state(other).params["embedding"]
    assert 50 < len(shared) < 150
    for row in range(220):
        if row in shared:
            np.testing.assert_array_equal(new.params["embedding"][row], old.params["embedding"][rows[mine[row]]])
        else:
            np.testing.assert_allclose(new.params["embedding"][row], fresh[row], rtol=1e-6)
    assert f"another vocabulary: of 150 pieces, {len(shared)} are in {run.path}, the others start at random" in lines
    rest = ({name: part for name, part in each.params.items() if name != "embedding"} for each in (new, old))
    assert_bitwise_equal(*rest)


@pytest.mark.slow
def test_the_same_vocabulary_with_more_rows_keeps_its_rows(micro, run, tmp_path):
    new = started(short(micro, init=f"{run.path}:last", model=replace(micro.model, vocab_size=256)), tmp_path / "new")
    old = Translator.load(run.path, "last", quiet).params["embedding"]
    np.testing.assert_array_equal(new.params["embedding"][:200], old[:200])
    assert new.params["embedding"].shape == (256, 32)


@pytest.mark.slow
def test_layers_are_copied_by_the_map(micro, run, tmp_path):
    deep = replace(micro, model=replace(micro.model, num_layers=2), init=f"{run.path}:last")
    with pytest.raises(UserError, match=r"encoder of .* has 1 layer, this model's 2: .* --init-layers encoder=0,0$"):
        train(deep, tmp_path / "refused", quiet)
    for wrong in ("encoder=0,1 decoder=0,0", "encoder=0 decoder=0,0"):
        with pytest.raises(UserError, match="--init-layers encoder: 2 numbers from 0 to 0 are needed"):
            train(replace(deep, init_layers=wrong), tmp_path / "refused", quiet)
    for wrong in ("0,0", "encoder=", "encoder:0,0", "both=0,0"):
        with pytest.raises(UserError, match="is not of the form"):
            train(replace(deep, init_layers=wrong), tmp_path / "refused", quiet)
    two = train(short(deep, init_layers="encoder=0,0 decoder=0,0"), tmp_path / "two", quiet)
    old = Translator.load(run.path, "last", quiet).params
    params = Translator.load(two.path, "last", quiet).params
    for stack in ("encoder", "decoder"):
        for layer in (0, 1):
            assert_bitwise_equal(params[stack][layer], old[stack][0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_ff": 72}, r"feed_forward\.inner\.\w+ of \[.*64\], this model of \[.*72\]: --init can change the vocab"),
        ({"norm": "pre"}, r"has no decoder_norm\.\w+, which this model has"),
    ],
)
def test_another_kind_of_model_is_refused(changes, message, micro, run, tmp_path):
    other = replace(micro, model=replace(micro.model, **changes), init=str(run.path))
    with pytest.raises(UserError, match=message):
        train(other, tmp_path / "new", quiet)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nowhere", "no run at nowhere"),
        ("{run}:60", "no checkpoint '60'"),
        ("{run}:first", "no run at"),
        ("", "no run at"),
    ],
)
def test_a_parent_that_does_not_exist_is_refused(given, message, micro, run, tmp_path):
    with pytest.raises(UserError, match=message):
        train(replace(micro, init=given.format(run=run.path)), tmp_path / "new", quiet)
    assert not (tmp_path / "new" / "checkpoints").exists() or not list((tmp_path / "new" / "checkpoints").iterdir())


@pytest.mark.slow
def test_a_branch_without_changes_is_the_same_run(micro, run, tmp_path):
    half = train(replace(micro, train=replace(micro.train, steps=20)), tmp_path / "half", quiet)
    lines: list[str] = []
    branch = train(replace(micro, branch=str(half.path)), tmp_path / "branch", lines.append)
    assert f"continuing {half.path}:last after step 20" in lines
    (state, meta), (expected, expected_meta) = final_state(branch, micro), final_state(run, micro)
    assert_bitwise_equal(state, expected)
    assert meta["target_tokens"] == expected_meta["target_tokens"]
    assert [row["step"] for row in read_metrics(branch.metrics) if "dev_loss" in row] == [30, 40]


@pytest.mark.slow
def test_a_branch_changes_what_a_run_may_not_change(micro, run, tmp_path):
    changed = replace(
        micro,
        optimizer=replace(micro.optimizer, scale=0.5),
        model=replace(micro.model, dropout=0.3),
        train=replace(micro.train, steps=44, accumulate=2),
    )
    with pytest.raises(UserError, match=r"it differs in model\.dropout, optimizer\.scale, train\.accumulate"):
        train(changed, run.path, quiet)
    lines: list[str] = []
    train(replace(changed, branch=f"{run.path}:30"), tmp_path / "new", lines.append)
    assert any(line.startswith("warning: the learning rate jumps") for line in lines)
    resumed = train(replace(changed, branch=f"{run.path}:30"), tmp_path / "new", lines.append)
    assert read_meta(resumed.checkpoints, "last")["step"] == 44


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "scale"}, None),
        ({"model": "d_ff"}, "cannot be continued: its decoder.0.feed_forward.inner.bias is"),
        ({"data": "vocab_size"}, "has another vocabulary: use --init"),
        ({"optimizer": "clip_norm"}, "cannot be continued"),
    ],
)
def test_a_branch_needs_the_same_model_and_optimizer(changes, message, micro, run, tmp_path):
    values = {"scale": 0.5, "d_ff": 72, "vocab_size": 150, "clip_norm": 1.0}
    ((section, name),) = changes.items()
    changed = replace(
        micro, **{section: replace(getattr(micro, section), **{name: values[name]})}, branch=str(run.path)
    )
    changed = replace(changed, train=replace(micro.train, steps=41))
    if message is None:
        train(changed, tmp_path / "new", quiet)
    else:
        with pytest.raises(UserError, match=message):
            train(changed, tmp_path / "new", quiet)


def test_only_one_way_to_start(micro, run):
    with pytest.raises(UserError, match="two ways to start"):
        replace(micro, init=str(run.path), branch=str(run.path))
    with pytest.raises(UserError, match="the run of --init, which is missing"):
        replace(micro, init_layers="encoder=0")


@pytest.mark.slow
def test_checkpoints_and_records_have_the_lineage(micro, run, tmp_path, monkeypatch):
    parent = shutil.copytree(run.path, tmp_path / "runs" / "parent")
    shutil.rmtree(parent / "evaluation", ignore_errors=True)  # of other tests
    (parent / "evaluation").mkdir()
    (parent / "evaluation" / "test.json").write_text('{"scores": []}')
    monkeypatch.chdir(tmp_path)
    child = train(short(micro, init="parent:20"), tmp_path / "runs" / "child", quiet)
    two = replace(short(micro, branch="child"), train=replace(micro.train, steps=2))
    grandchild = train(two, tmp_path / "runs" / "grandchild", quiet)
    near, far = read_meta(grandchild.checkpoints, "last")["lineage"]
    assert (near["how"], near["run"], near["checkpoints"]) == ("branch", "child", [1])
    assert (far["how"], far["run"], far["checkpoints"]) == ("init", "parent", [20])
    assert far["sha256"] == {"20": json.loads((parent / "checkpoints/20/meta/metadata").read_text())["sha256"]}
    assert far["records"] == {"test.json": hashlib.sha256(b'{"scores": []}').hexdigest()}
    assert child.experiment().init == f"{parent}:20"


@pytest.mark.slow
def test_a_run_resumes_without_its_parent(micro, run, tmp_path, monkeypatch):
    parent = shutil.copytree(run.path, tmp_path / "runs" / "parent")
    monkeypatch.chdir(tmp_path)
    child = replace(micro, init="parent:last", train=replace(micro.train, steps=20))
    whole = train(child, tmp_path / "whole", quiet)
    train(replace(child, train=replace(child.train, steps=10)), tmp_path / "part", quiet)
    shutil.rmtree(parent)
    resumed = train(child, tmp_path / "part", quiet)
    assert_bitwise_equal(final_state(resumed, child)[0], final_state(whole, child)[0])
    with pytest.raises(UserError, match="it differs in init"):
        train(replace(child, init=None, train=replace(child.train, steps=30)), tmp_path / "part", quiet)
    with pytest.raises(UserError, match="no run at other"):
        train(replace(child, init="other"), tmp_path / "part", quiet)


@pytest.mark.slow
def test_low_rank_adaptation_is_merged_when_a_run_is_loaded(micro, run, tmp_path):
    adapted = replace(
        micro, init=f"{run.path}:last", lora=LoraConfig(rank=2), train=replace(micro.train, steps=20, eval_every=10)
    )
    new = train(adapted, tmp_path / "new", quiet)
    losses = [row["dev_loss"] for row in read_metrics(new.metrics) if "dev_loss" in row]
    translator = Translator.load(new.path, "last", quiet)
    base = Translator.load(run.path, "last", quiet)
    jax.tree.map(lambda a, b: None, translator.params, base.params)  # the same structure
    moved = [
        (translator.params[stack][0][part][name]["kernel"] != base.params[stack][0][part][name]["kernel"]).any()
        for stack, part in (("encoder", "self_attention"), ("decoder", "cross_attention"))
        for name in ("query", "key", "value", "output")
    ]
    assert moved == [True, False, True, False] * 2
    assert validation_loss(translator, prepare(micro.data).dev) == pytest.approx(losses[-1], abs=1e-5)
    average = average_run(new, "last", tmp_path / "average", quiet)
    assert read_meta(WorkDir(average).checkpoints, "last")["experiment"]["lora"]["rank"] == 0
    assert_bitwise_equal(Translator.load(average, "last", quiet).params, translator.params)
    assert Translator.load(average, "last", quiet).translate(["a b"]) == translator.translate(["a b"])
