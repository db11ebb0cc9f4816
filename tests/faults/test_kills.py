"""A hundred SIGKILLs at random moments, and SIGTERM. A killed run resumes and ends with the same result."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from data.dataset import find_prepared, open_prepared, prepare
from experiments.history import read_metrics
from experiments.workdir import WorkDir
from tests.experiments.launching import ROOT, command, start
from transformer.checkpoint import Checkpoints, saved_steps
from transformer.train import init_state

pytestmark = pytest.mark.faults

TRAIN, PREPARE, AVERAGE = 70, 15, 15
GRACE = 30  # seconds from SIGTERM to SIGKILL that Kubernetes and SLURM give by default


def assert_ended_the_same(run: WorkDir, undisturbed: WorkDir, experiment, losses: bool = True) -> None:
    """Checks that parameters, optimizer state, counters and curves are identical, and that no file is incomplete.

    Without `losses`, training losses are not compared: after a stop between two log lines, a mean covers fewer steps.
    """
    states = []
    for each in (run, undisturbed):
        checkpoints = Checkpoints(each.checkpoints, experiment.train.keep)
        states.append(checkpoints.restore_state(init_state(experiment)))
        checkpoints.close()
    (ours, meta), (theirs, expected) = states
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("step", "dev_loss", "target_tokens", "checksum", "vocabulary", "data"):
        assert meta[name] == expected[name], name
    assert saved_steps(run.checkpoints)[-3:] == saved_steps(undisturbed.checkpoints)[-3:]
    curves = [
        [(row["step"], losses and row.get("loss"), row.get("dev_loss")) for row in read_metrics(each.metrics)]
        for each in (run, undisturbed)
    ]
    assert curves[0] == curves[1]
    left = [path for path in run.path.rglob("*") if ".part" in path.name or "orbax-checkpoint-tmp" in path.name]
    assert not left, left


def kill_at(process: subprocess.Popen, ready, delay: float) -> bool:
    """Sends SIGKILL this many seconds after `ready()`. Returns False if the process ended before."""
    while process.poll() is None and not ready():
        time.sleep(0.002)
    end = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.002)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


@pytest.mark.parametrize("seed", [0, 1])
def test_training_survives(victim, undisturbed, tmp_path, count, seed):
    chance = random.Random(seed)
    same = replace(victim, name="small")
    survived, runs, path = 0, 0, tmp_path / "run-0"
    log = (tmp_path / "log").open("w")
    while survived < TRAIN // 2:
        process = subprocess.Popen(command(victim, path), cwd=ROOT, stdout=log, stderr=log)
        before = len(read_metrics(path / "metrics.jsonl"))
        moment = chance.choice(("start", "training", "training", "checkpoint"))

        def ready(moment=moment, path=path, before=before) -> bool:
            if moment == "checkpoint":
                return any("orbax-checkpoint-tmp" in p.name for p in (path / "checkpoints").glob("*"))
            return moment == "start" or len(read_metrics(path / "metrics.jsonl")) > before

        longest = {"start": 6.0, "training": 5.0, "checkpoint": 0.05}[moment]
        if kill_at(process, ready, chance.uniform(0, longest)):
            survived += 1
            where = {"start": "at any moment of a start", "training": "while training"}.get(
                moment, "inside a checkpoint"
            )
            count(f"SIGKILL survived, {where}")
        else:
            assert process.returncode == 0, (tmp_path / "log").read_text()[-2000:]
            assert_ended_the_same(WorkDir(path), undisturbed, same)
            runs += 1
            path = tmp_path / f"run-{runs}"
    subprocess.run(command(victim, path), cwd=ROOT, check=True, stdout=log, stderr=log)
    assert_ended_the_same(WorkDir(path), undisturbed, same)
    count("runs that ended bitwise where the undisturbed one did", runs + 1)


def test_preparing_survives(victim, tmp_path, count, monkeypatch):
    chance = random.Random(2)
    text = {"train_src": tmp_path / "train.src", "train_tgt": tmp_path / "train.tgt"}
    for name, path in text.items():  # long enough to be killed while it runs
        path.write_bytes(Path(getattr(victim.data, name)).read_bytes() * 100)
    config = replace(victim.data, **{name: str(path) for name, path in text.items()})
    expected = prepare(config, tmp_path / "undisturbed", lambda line: None)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "prepared"))
    experiment = replace(victim, data=config)
    arguments = [word for word in command(experiment, "unused") if word not in ("--workdir", "unused")]
    arguments[arguments.index("train")] = "prepare"
    killed = 0
    while killed < PREPARE:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        started = time.monotonic()
        delay = chance.uniform(1.0, 4.0)
        if kill_at(process, lambda start=started: time.monotonic() - start > 0, delay):
            killed += 1
            count("SIGKILL survived, while preparing")
        if found := find_prepared(config):
            open_prepared(found).check()  # complete, if it exists
            for file in found.iterdir():
                file.unlink()
            found.rmdir()
    subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    made = open_prepared(find_prepared(config))
    assert made.hash == expected.hash and made.manifest["files"] == expected.manifest["files"]
    assert [path.name for path in (tmp_path / "prepared").iterdir() if path.name != "downloads"] == [made.path.name]


def test_averaging_survives(undisturbed, tmp_path, count):
    chance = random.Random(3)
    average = [sys.executable, "-m", "experiments", "average", str(undisturbed.path), "--output"]
    whole = tmp_path / "undisturbed"
    start = time.monotonic()
    subprocess.run([*average, str(whole)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    usual, killed = time.monotonic() - start, 0
    output = tmp_path / "killed"
    while killed < AVERAGE:
        process = subprocess.Popen([*average, str(output)], cwd=ROOT, stdout=subprocess.DEVNULL)
        if kill_at(process, lambda: True, chance.uniform(usual / 2, usual)):
            killed += 1
            count("SIGKILL survived, while averaging")
        if output.exists():  # then it is complete
            assert (output / "checkpoints" / "400" / "meta" / "metadata").exists()
            shutil.rmtree(output)
    subprocess.run([*average, str(output)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    metas = [(path / "checkpoints" / "400" / "meta" / "metadata").read_text() for path in (output, whole)]
    assert metas[0] == metas[1], "the means differ, by their checksum"


@pytest.mark.parametrize("delay", [0.5, 2.0])
def test_preemption_saves_and_says_so(victim, undisturbed, tmp_path, count, delay):
    path, preempted = tmp_path / "run", 0
    while True:
        process = subprocess.Popen(
            command(victim, path), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        before = len(read_metrics(path / "metrics.jsonl"))
        while process.poll() is None and len(read_metrics(path / "metrics.jsonl")) <= before:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        output = process.communicate(timeout=GRACE)[0]
        if saved_steps(path / "checkpoints")[-1:] == [victim.train.steps]:
            break  # the signal came after the end of training
        assert process.returncode == 143, output
        assert "error: preempted: saved after step" in output
        preempted += 1
        count("SIGTERM: saved, and said so by the exit code")
    assert preempted
    assert_ended_the_same(WorkDir(path), undisturbed, replace(victim, name="small"), losses=False)


@pytest.mark.parametrize("processes, lost", [(2, 1), (4, 2), (2, 0)])
def test_when_one_process_is_killed_the_others_stop_and_say_who(victim, tmp_path, count, processes, lost):
    endless = replace(victim, train=replace(victim.train, steps=100_000, eval_every=1000))
    running = start(command(endless, tmp_path / "run"), processes)
    while not read_metrics(tmp_path / "run" / "metrics.jsonl"):
        assert running[0].poll() is None, running[0].communicate()[0]
        time.sleep(0.1)
    running[lost].kill()
    killed = time.monotonic()
    others = [process for number, process in enumerate(running) if number != lost]
    outputs = [process.communicate(timeout=60)[0] for process in others]
    assert time.monotonic() - killed < 60
    assert all(process.returncode for process in others)
    # The first process runs JAX's coordinator; without it the others can only report that it is gone.
    who = (
        rf"stopped sending heartbeats\):\s+{lost}\n|Task {lost} heartbeat timeout"
        if lost
        else "lost contact|coordination"
    )
    assert all(re.search(who, output) for output in outputs), outputs
    count(f"one of {processes} processes killed: the others stopped, and said who")
