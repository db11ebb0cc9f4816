"""The numbers of `plan` are those of `train`."""

from dataclasses import replace

import pytest

from data.batching import batch_plan
from data.dataset import find_prepared, prepare
from experiments import EXPERIMENTS
from experiments.planning.accelerators import MACHINES, PAPER
from experiments.planning.plan import TREES, assumed_lengths, plan, text_of
from experiments.presets.deviations import deviations
from experiments.training.loop import train
from transformer.config import UserError
from transformer.flops import train_flops
from transformer.model import count_parameters


@pytest.mark.slow
def test_a_plan_of_the_paper_s_base_needs_no_data(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    preset = EXPERIMENTS["wmt14-en-de-base"]
    text = "\n".join(plan(preset, measure=False))
    assert f"{count_parameters(preset.model):,}" in text and "assumed" in text
    assert "6.99e-04 at step 4,000" in text and "model.dtype: bfloat16" in text
    assert not list(tmp_path.iterdir())


def test_the_paper_s_machine_takes_the_paper_s_time():
    model = replace(EXPERIMENTS["wmt14-en-de-base"].model, vocab_size=37_000)
    flops = 100_000 * 25_000 * train_flops(model, 28, 28) / 28
    assert PAPER.hours(flops) == pytest.approx(12, rel=0.1)


def test_eight_devices_that_share_a_batch_are_faster_than_one_but_not_eight_times():
    hours = {machine.name: machine.hours(1e18) for machine in MACHINES}
    for name in ("NVIDIA A100 SXM 80 GB", "NVIDIA H100 SXM 80 GB"):
        assert hours[f"1 x {name}"] / 8 < hours[f"8 x {name}"] < hours[f"1 x {name}"] / 2


def test_assumed_lengths_have_the_paper_s_mean():
    for side in assumed_lengths(100_000, 128):
        assert side.mean() == pytest.approx(28, rel=0.03) and side.min() >= 2 and side.max() <= 128


def test_the_penn_treebank_need_not_be_there_for_a_plan(tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    text = text_of(EXPERIMENTS["wsj"].data, 0)
    assert "40,000 pairs of 28 and 63 tokens on average, assumed" in text.description
    some = text_of(replace(EXPERIMENTS["wsj"].data, train_pairs=1000), 0)
    assert "1,000 pairs of 28" in some.description
    source, target = assumed_lengths(40_000, 512, TREES)
    assert source.mean() == pytest.approx(28, rel=0.03) and target.mean() == pytest.approx(63, rel=0.03)
    assert not list(tmp_path.iterdir())


def test_the_plan_of_prepared_text_is_that_of_the_run(micro, run, tmp_path):
    data = prepare(micro.data)
    assert find_prepared(micro.data) == data.path
    assert find_prepared(replace(micro.data, max_length=39)) is None
    assert find_prepared(replace(micro.data, train_src="elsewhere")) is None
    text = text_of(micro.data, 0)
    assert text.plan.shape == batch_plan(data.train, micro.data, 0).shape
    lines = list(plan(micro, measure=True))
    rows, source, target = text.plan.shape
    assert any(f"{rows} rows of {source} source and {target} target tokens" in line for line in lines)
    measured = next(line for line in lines if "measured" in line)
    assert "hours for the run" in measured


def test_what_cannot_fit_is_refused_before_it_starts(micro, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.training.memory.device_memory", lambda: 1e6)
    monkeypatch.setattr("experiments.planning.plan.device_memory", lambda: 1e6)
    with pytest.raises(UserError, match=r"a batch of .* needs .* GB, and a device has 0\.0 GB: lower --data\.batch"):
        train(micro, tmp_path / "run", log=lambda line: None)
    assert not list((tmp_path / "run" / "checkpoints").glob("[0-9]*"))
    lines = list(plan(micro, measure=True))
    assert any("IT DOES NOT FIT" in line for line in lines) and not any("measured" in line for line in lines)


def test_every_setting_that_differs_is_named(micro):
    base = EXPERIMENTS["wmt14-en-de-base"]
    paper = replace(base, model=replace(base.model, dtype="float32"))
    same = deviations(paper)
    assert not any(line.startswith(("model.", "train.", "optimizer.", "decode.")) for line in same)
    rounded = replace(paper, model=replace(paper.model, kernels=False), mesh=replace(paper.mesh, fsdp=2))
    assert deviations(rounded) == same
    other = replace(paper, model=replace(paper.model, num_heads=4), optimizer=replace(paper.optimizer, b2=0.99))
    told = deviations(other, {"train": {"kept": 450_000, "too_long": 12}})
    assert "model.num_heads: 4; the paper's en-de-base: 8 (3.2.2)" in told
    assert "optimizer.b2: 0.99; the paper's en-de-base: 0.98 (5.3)" in told
    assert "450,000 training pairs, 0.1 times the paper's 4,500,000 (5.1)" in told
    french = EXPERIMENTS["wmt14-en-fr-big"]
    assert not any(line.startswith(("model.dropout", "data.")) for line in deviations(french))
    small = EXPERIMENTS["europarl-en-fr-small"]
    files = {f"{split}_{side}": "text" for split in ("train", "dev") for side in ("src", "tgt")}
    europarl = deviations(
        replace(small, data=replace(small.data, **files)), {"train": {"kept": 2_000_507, "too_long": 0}}
    )
    assert "model.num_layers: 3; the paper's en-fr-base: 6 (3.1)" in europarl
    assert not any(line.startswith("languages") for line in europarl)
    czech = deviations(replace(small, data=replace(small.data, **files, languages="en-cs")))
    assert "languages: en-cs; the paper's: en-de and en-fr (5.1)" in czech
    assert "2,000,507 training pairs, 0.0556 times the paper's 36,000,000 (5.1)" in europarl
