import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.evaluation.metrics import bleu
from experiments.history import read_metrics
from experiments.training.loop import train
from experiments.training.progress import Meter
from experiments.training.stopping import Preempted
from experiments.translator import Translator
from experiments.workdir import WorkDir
from tests.experiments.launching import ROOT, command
from transformer.checkpoint import Checkpoints
from transformer.config import UserError
from transformer.train import Metrics, init_state


def final_state(run: WorkDir, experiment):
    checkpoints = Checkpoints(run.checkpoints, experiment.train.keep)
    state, meta = checkpoints.restore_state(init_state(experiment))
    checkpoints.close()
    return state, meta


def assert_bitwise_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_run_leaves_all_that_was_promised(run, micro):
    assert Checkpoints(run.checkpoints).steps() == [20, 30, 40]
    rows = read_metrics(run.metrics)
    assert [row["step"] for row in rows if "loss" in row] == [5, 10, 15, 20, 25, 30, 35, 40]
    assert [row["step"] for row in rows if "dev_ppl" in row] == [10, 20, 30, 40]
    assert all(row["tokens_per_second"] > 0 for row in rows if "loss" in row)
    assert list(run.path.glob("events.*"))
    assert json.loads(run.config.read_text())["name"] == "micro"
    dev_losses = [row["dev_loss"] for row in rows if "dev_loss" in row]
    assert dev_losses[-1] < dev_losses[0]
    shares = {name: share for name, share in rows[-1].items() if name.endswith("_share")}
    assert shares.keys() == {f"{name}_share" for name in ("steps", "data", "validation", "checkpoints", "translation")}
    assert all(share > 0.0 for share in shares.values()) and sum(shares.values()) == pytest.approx(1.0)


@pytest.mark.slow
def test_compilations_are_announced_and_held(micro, tmp_path):
    lines: list[str] = []
    train(replace(micro, train=replace(micro.train, steps=3)), tmp_path / "run", lines.append)
    (announced,) = [line for line in lines if line.startswith("compilations")]
    assert "1 training step, 1 validation step, 1 sample" in announced
    assert lines.count("compiling") == 1


@pytest.mark.slow
def test_the_programs_of_a_validation_are_compiled_before_the_first_step(micro, tmp_path, caplog):
    """The loss, the checksums, the parameters for the sample, and greedy search."""
    before: list[int] = []

    def log(line: str) -> None:
        if line.startswith("step 5/"):
            before.append(len(caplog.messages))

    new = replace(micro, model=replace(micro.model, d_ff=72), train=replace(micro.train, steps=10))
    with caplog.at_level("WARNING"), jax.log_compiles():
        train(new, tmp_path / "run", log)
    training = [line for line in caplog.messages[before[0] :] if line.startswith("Finished XLA compilation")]
    assert not [line for line in training if re.search(r"jit\((traced|<lambda>|_checksum)\)", line)]


@pytest.mark.slow
def test_two_runs_are_the_same_run(run, micro, tmp_path):
    again = train(micro, tmp_path / "again", lambda line: None)
    assert_bitwise_equal(final_state(run, micro)[0], final_state(again, micro)[0])


def test_stopping_and_going_on_gives_the_same_bits(run, micro, tmp_path):
    path = tmp_path / "run"
    for steps in (7, 33, 40):  # no checkpoint is due at steps 7 and 33
        lines: list[str] = []
        part = train(replace(micro, train=replace(micro.train, steps=steps)), path, lines.append)
    assert "resuming after step 33" in lines
    state, meta = final_state(part, micro)
    expected, expected_meta = final_state(run, micro)
    assert_bitwise_equal(state, expected)
    assert meta["target_tokens"] == expected_meta["target_tokens"]
    assert meta["dev_loss"] == expected_meta["dev_loss"]


@pytest.mark.slow
def test_a_loss_covers_the_steps_before_a_preemption_too(run, micro, tmp_path, monkeypatch):
    """The rows of metrics.jsonl are of five steps, and the run is preempted after the seventh and the twentieth.

    At the twentieth a checkpoint is due. The run ends with the same bits as without a preemption.
    """
    path = tmp_path / "run"
    with monkeypatch.context() as changed:
        changed.setattr("experiments.training.loop.Preemption.after", lambda self, step: step in (7, 20))
        for step in (7, 20):
            with pytest.raises(Preempted, match=f"saved after step {step}"):
                train(micro, path, lambda line: None)
    again = train(micro, path, lambda line: None)
    assert_bitwise_equal(final_state(again, micro)[0], final_state(run, micro)[0])
    ours, theirs = (
        [(row["step"], row["loss"], row["skipped"]) for row in read_metrics(metrics) if "loss" in row]
        for metrics in (path / "metrics.jsonl", run.metrics)
    )
    assert ours == theirs


@pytest.mark.slow
def test_a_run_goes_on_in_its_languages_and_says_what_changes(micro, tmp_path, monkeypatch):
    asked: list[str | None] = []
    monkeypatch.setattr("experiments.evaluation.task.bleu", lambda language: asked.append(language) or bleu(language))

    def go_on(steps, languages):
        lines: list[str] = []
        data, settings = replace(micro.data, languages=languages), replace(micro.train, steps=steps)
        run = train(replace(micro, data=data, train=settings), tmp_path / "run", lines.append)
        trained = Translator.load(run.path, "last").meta["experiment"]["data"]
        assert trained["languages"] == run.settings()["data"]["languages"]
        return asked[-1], [line for line in lines if line.startswith("changed settings")]

    assert go_on(1, "en-fr") == ("fr", [])
    assert go_on(2, None) == ("fr", ["changed settings: train.steps 2 (was 1)"])
    changed = "changed settings: data.languages en-zh (was en-fr), train.steps 3 (was 2)"
    assert go_on(3, "en-zh") == ("zh", [changed])
    assert go_on(4, None) == ("zh", ["changed settings: train.steps 4 (was 3)"])


def checkpoint_in_the_making(workdir: Path) -> bool:
    return any("orbax-checkpoint-tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


def rows_written(workdir: Path, count: int) -> bool:
    return len(read_metrics(workdir / "metrics.jsonl")) >= count


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_never_been_killed(run, micro, tmp_path):
    """SIGKILL while compiling, between checkpoints, and while a checkpoint is written; then trains to the end."""
    workdir = tmp_path / "killed"
    log = (tmp_path / "log").open("w")
    moments = [
        lambda: (workdir / "config.json").exists(),
        lambda: rows_written(workdir, 3),
        lambda: checkpoint_in_the_making(workdir),
    ]
    killed = 0
    for moment in moments:
        process = subprocess.Popen(command(micro, workdir), cwd=ROOT, stdout=log, stderr=log)
        while process.poll() is None and not moment():
            time.sleep(0.001)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
    subprocess.run(command(micro, workdir), cwd=ROOT, check=True, stdout=log, stderr=log)
    assert killed >= 2
    same = replace(micro, name="small")
    assert_bitwise_equal(final_state(WorkDir(workdir), same)[0], final_state(run, micro)[0])
    steps = [row["step"] for row in read_metrics(workdir / "metrics.jsonl") if "loss" in row]
    assert steps == sorted(set(steps)), "a step occurs twice in metrics.jsonl"


def test_a_work_directory_belongs_to_one_experiment(run, micro):
    other = replace(micro, model=replace(micro.model, d_ff=128))
    before = run.config.read_text()
    with pytest.raises(UserError, match=r"another experiment.*model\.d_ff"):
        train(other, run.path, lambda line: None)
    assert run.config.read_text() == before


def test_a_run_goes_on_with_other_kernels(run, micro, tmp_path):
    copy = WorkDir(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    lines: list[str] = []
    train(replace(micro, model=replace(micro.model, kernels=False)), copy.path, lines.append)
    assert any("model.kernels False (was True)" in line for line in lines)
    assert not copy.experiment().model.kernels


def test_a_finished_run_is_left_alone(run, micro):
    lines: list[str] = []
    before = sorted(run.checkpoints.iterdir())
    train(micro, run.path, lines.append)
    assert sorted(run.checkpoints.iterdir()) == before


def test_the_vocabulary_of_a_run_is_its_own(run, micro, tmp_path):
    copy = WorkDir(tmp_path / "copy")
    shutil.copytree(run.path, copy.path)
    from data.tokenizer import train_tokenizer

    train_tokenizer(["other text entirely", "of a few words"], copy.vocabulary, "bpe", 30)
    with pytest.raises(UserError, match=r"vocab\.model is not the vocabulary"):
        train(micro, copy.path, lambda line: None)


@pytest.mark.slow
def test_a_run_without_an_end_to_bad_steps_stops_and_keeps_its_checkpoints(micro, tmp_path):
    # An extreme learning rate overflows within a few steps.
    broken = replace(
        micro,
        optimizer=replace(micro.optimizer, scale=1e38),
        train=replace(micro.train, steps=40, log_every=5, eval_every=40, max_bad_steps=5),
    )
    lines: list[str] = []
    train(replace(broken, train=replace(broken.train, steps=1)), tmp_path / "run", lines.append)
    with pytest.raises(UserError, match=r"stopped at step \d+.*last good checkpoint is of step 1$"):
        train(broken, tmp_path / "run", lines.append)
    assert any("non-finite steps skipped" in line for line in lines)
    assert Checkpoints(tmp_path / "run" / "checkpoints").steps() == [1]


def test_too_small_a_disk_is_noticed_before_training(micro, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(UserError, match=r"not enough disk space in .* for \d+ checkpoints: .* MB are needed"):
        train(micro, tmp_path / "run", lambda line: None)


@pytest.mark.slow
def test_a_start_that_failed_leaves_the_directory_free(micro, tmp_path, monkeypatch):
    quick = replace(micro, train=replace(micro.train, steps=1))
    with monkeypatch.context() as small_disk, pytest.raises(UserError, match="not enough disk space"):
        small_disk.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
        train(quick, tmp_path / "run", lambda line: None)
    smaller = replace(quick, data=replace(quick.data, batch_tokens=256))
    train(smaller, tmp_path / "run", lambda line: None)
    assert WorkDir(tmp_path / "run").settings()["data"]["batch_tokens"] == 256


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_text_from_anywhere_and_not_with_other_text(micro, text, tmp_path, monkeypatch):
    """Other paths, another folder, a moved work directory, no test files: only the hash of the text matters."""
    names = [f"{split}.{language}" for split in ("train", "dev", "test") for language in ("en", "de")]
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        for name in names:
            shutil.copy(text / name, folder / name)
    files = {f"{name.split('.')[0]}_{'src' if name.endswith('en') else 'tgt'}": name for name in names}

    def own(steps, **changes):
        return replace(micro, data=replace(micro.data, **files | changes), train=replace(micro.train, steps=steps))

    monkeypatch.chdir(first)
    monkeypatch.setenv("DATA_DIR", "prepared")
    train(own(1), Path("run"), lambda line: None)
    shutil.move(first / "run", second / "moved")
    shutil.rmtree(first)
    monkeypatch.chdir(second)
    lines: list[str] = []
    without_test = {"train_src": "./train.en", "test_src": None, "test_tgt": None}
    run = train(own(2, **without_test), Path("moved"), lines.append)
    assert "resuming after step 1" in lines
    assert run.settings()["data"]["train_src"] == str(second / "train.en")  # at the latest path, absolute
    for name in names:  # the prepared data is sufficient
        Path(name).rename(Path("kept-" + name))
    train(own(3, **without_test), Path("moved"), lines.append)
    assert "resuming after step 2" in lines and any("train.en does not exist" in line for line in lines)
    assert run.settings()["data"]["train_src"] == "./train.en"  # it is not known where it is
    for name in names:
        Path("kept-" + name).rename(Path(name))
    for name in ("train.en", "train.de"):  # the same lines in another order, so the vocabulary is the same
        reverse = Path(name).read_text(encoding="utf-8").splitlines(keepends=True)[::-1]
        Path(name).write_text("".join(reverse), encoding="utf-8")
    with pytest.raises(UserError, match=r"not the one that moved was trained on \(.*/train\.en differs, the train"):
        train(own(4), Path("moved"), lambda line: None)


@pytest.mark.slow
def test_only_one_process_trains_in_a_directory(run, micro):
    from data.tokenizer import Tokenizer

    with run.claim(micro, Tokenizer.load(run.vocabulary)):
        other = subprocess.run(command(micro, run.path), cwd=ROOT, capture_output=True, text=True)
    assert other.returncode == 2
    assert f"error: another process is training in {run.path}" in other.stderr


@pytest.mark.slow
def test_a_validation_loss_that_is_no_number_stops_the_run(micro, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.training.loop.Validation.__call__", lambda *_: float("nan"))
    with pytest.raises(UserError, match=r"stopped at step 10: the validation loss is nan; there is no checkpoint yet"):
        train(micro, tmp_path / "run", lambda line: None)
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1] == {"step": 10, "dev_loss": None, "dev_ppl": None}


def test_meter_counts_over_processes():
    meter = Meter(seconds=100.0, target_tokens=50)
    meter.add(Metrics(*map(np.float32, (6.0, 3.0, 0.0))), tokens=3)
    meter.add(Metrics(*map(np.float32, (0.0, 0.0, 1.0))), tokens=3)
    numbers = meter.read()
    assert numbers["loss"] == 2.0 and numbers["skipped"] == 1.0
    assert meter.target_tokens == 56 and 100 <= meter.seconds() < 160


def test_meter_divides_the_time_among_what_it_was_spent_on():
    meter = Meter(seconds=100.0, target_tokens=0)
    assert list(meter.waiting(iter([1, 2]))) == [1, 2]
    meter.add(Metrics(*map(np.float32, (6.0, 3.0, 0.0))), tokens=3)
    with meter.paused("validation"):
        time.sleep(0.02)
    with meter.paused("checkpoints"):
        time.sleep(0.01)
    assert meter.read()["checkpoint_seconds"] >= 0.01 and meter.spent["validation"] >= 0.02
    shares = meter.shares()
    assert sum(shares.values()) == pytest.approx(1.0) and min(shares.values()) >= 0.0
    assert shares["translation"] == 0.0 and shares["validation"] > 0.0 and shares["checkpoints"] > 0.0


def test_a_half_written_last_line_of_metrics_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize("line", [b"5", b"{}", b"\xff", b'{"step": "one"}', b"half"])
def test_a_damaged_line_among_the_metrics_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2 is damaged"):
        read_metrics(path)
