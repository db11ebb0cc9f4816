"""Damaged files, full disks, non-finite numbers: each is detected and reported, and no other data is lost."""

import random
import re
import shutil
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from data.dataset import prepare
from experiments.history import read_metrics
from experiments.training.loop import train
from experiments.workdir import WorkDir
from tests.experiments.launching import ROOT, command
from tests.faults.test_kills import assert_ended_the_same
from transformer.checkpoint import Checkpoints, saved_steps
from transformer.config import UserError
from transformer.train import batch_loss, init_state

pytestmark = pytest.mark.faults

FLIPS, CUTS, TOKENS = 60, 20, 30


@pytest.mark.parametrize("kind", ["bit", "cut"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(victim, undisturbed, tmp_path, count, kind):
    chance = random.Random(0)
    template = init_state(victim)
    steps = saved_steps(undisturbed.checkpoints)
    expected, told = Checkpoints(undisturbed.checkpoints).restore_state(template)
    files = [path.relative_to(undisturbed.checkpoints) for path in (undisturbed.checkpoints / "400").rglob("*")]
    files = [path for path in files if (undisturbed.checkpoints / path).is_file()]
    for number in range(FLIPS if kind == "bit" else CUTS):
        copy = tmp_path / str(number)
        shutil.copytree(undisturbed.checkpoints, copy)
        sizes = [(copy / path).stat().st_size for path in files]
        (name,) = chance.choices(files, weights=sizes)  # as with a bad sector
        content = bytearray((copy / name).read_bytes())
        place = chance.randrange(len(content))
        if kind == "bit":
            content[place] ^= 1 << chance.randrange(8)
        else:
            del content[place:]
        (copy / name).write_bytes(content)
        said: list[str] = []
        checkpoints = Checkpoints(copy, log=said.append)
        state, meta = checkpoints.restore_state(template)
        checkpoints.close()
        if int(state.step) == steps[-1]:
            # If the damage does not affect the state, the state must be correct.
            for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
                np.testing.assert_array_equal(a, b)
            assert meta == told
            count(f"checkpoint, {kind}: of no consequence")
        else:
            assert int(state.step) == steps[-2] == meta["step"]
            assert any("checkpoint 400 cannot be read" in line for line in said), said
            count(f"checkpoint, {kind}: detected, the one before used")
        shutil.rmtree(copy)


def test_a_damaged_token_file_is_found_before_training(victim, tmp_path, count):
    chance = random.Random(0)
    data = prepare(victim.data, tmp_path / "data", lambda line: None)
    names = [name for name in data.manifest["files"] if name.endswith(".npy")]
    for _ in range(TOKENS):
        path = data.path / chance.choice(names)
        content = bytearray(path.read_bytes())
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        content[place] ^= bit
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path.name}.* is damaged"):
            data.check()
        content[place] ^= bit
        path.write_bytes(content)
        count("token file: flipped bit detected")
    data.check()


def test_training_does_not_start_on_a_damaged_token_file(victim, tmp_path, monkeypatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    data = prepare(victim.data, log=lambda line: None)
    path = data.path / "train.source.tokens.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train\.source\.tokens\.npy is damaged"):
        train(victim, tmp_path / "run", lambda line: None)
    assert not (tmp_path / "run").exists()


def test_a_gradient_that_is_no_number_is_skipped_and_the_run_goes_on(victim, tmp_path, count, monkeypatch):
    def broken(model, batch, key=None, smoothing=0.0):
        loss, tokens = batch_loss(model, batch, key, smoothing)
        poisoned = (batch["source"].sum() % 5 == 0) & (key is not None)
        return loss * jax.numpy.where(poisoned, jax.numpy.nan, 1.0), tokens

    monkeypatch.setattr("transformer.train.batch_loss", broken)
    short = replace(victim, train=replace(victim.train, steps=60))
    whole = train(short, tmp_path / "whole", lambda line: None)
    skipped = sum(row["skipped"] for row in read_metrics(whole.metrics) if "skipped" in row)
    assert skipped > 3
    for steps in (20, 60):
        parts = train(replace(short, train=replace(short.train, steps=steps)), tmp_path / "parts", lambda line: None)
    assert_ended_the_same(parts, whole, short)
    count("NaN gradients skipped", int(skipped))


# Orbax does not await the tasks of a save that failed.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_clock_that_is_set_costs_at_most_a_start(victim, undisturbed, tmp_path, count, monkeypatch):
    chance, true, behind = random.Random(0), time.time, [0.0, 0]

    def jumping() -> float:
        if chance.random() < 0.001:
            behind[0] += chance.choice((-86400, -60, 60, 3600, 86400))
            behind[1] += 1
        return true() + behind[0]

    monkeypatch.setattr("time.time", jumping)
    ended = None
    while ended is None:
        try:
            ended = train(victim, tmp_path / "run", lambda line: None)
        except UserError as error:
            assert "changed system clock" in str(error)
            count("jumps of the clock inside a save: stopped with one line, gone on")
    monkeypatch.undo()
    assert behind[1]
    assert_ended_the_same(ended, undisturbed, victim)
    count("jumps of the clock", behind[1])


def own_disk(folder: Path, options: str, script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script with a small file system mounted at `folder`. Skips the test if mounting is not allowed."""
    folder.mkdir()
    unshare = ["unshare", "--mount", "--map-root-user", "--user", "sh", "-ec"]
    mount = f"mount -t tmpfs -o {options} none {folder}"
    if subprocess.run([*unshare, mount], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    return subprocess.run([*unshare, f"{mount}\n{script}"], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("kilobytes", [400, 700, 1000])
def test_a_full_disk_stops_with_one_line_and_the_run_goes_on_elsewhere(victim, undisturbed, tmp_path, count, kilobytes):
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    words = " ".join(command(victim, disk / "run"))
    # Move the remaining files to a larger disk.
    done = own_disk(disk, f"size={kilobytes}k", f"{words} || echo code $?\ncp -r {disk}/run {kept} || true")
    assert "code 2" in done.stdout, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and re.search("disk is full|no room|disk space", errors[0]), done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run(command(victim, kept), cwd=ROOT, check=True, capture_output=True)
    assert_ended_the_same(WorkDir(kept), undisturbed, replace(victim, name="small"))
    count("full disk: stopped with one line")


def test_a_directory_that_cannot_be_written_is_named(victim, tmp_path, count):
    disk = tmp_path / "disk"
    words = " ".join(command(victim, disk / "run"))
    done = own_disk(disk, "ro", f"{words} || echo code $?")
    assert "code 2" in done.stdout, done.stdout + done.stderr
    assert done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr and str(disk) in done.stderr
    count("read-only directory: refused with one line")


def test_two_runs_in_one_directory(victim, tmp_path, count):
    first = subprocess.Popen(command(victim, tmp_path / "run"), cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not read_metrics(tmp_path / "run" / "metrics.jsonl"):
            assert first.poll() is None
            time.sleep(0.05)
        second = subprocess.run(command(victim, tmp_path / "run"), cwd=ROOT, capture_output=True, text=True)
        assert second.returncode == 2
        assert f"error: another process is training in {tmp_path / 'run'}" in second.stderr
        count("second run in a directory: refused")
    finally:
        first.kill()
        first.wait()
