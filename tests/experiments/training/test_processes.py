"""Tests of multi-process runs, on this machine."""

import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from data.batching import Batches, batch_plan
from data.dataset import prepare
from experiments.history import read_metrics
from experiments.training.loop import train
from experiments.translator import Translator
from tests.experiments.launching import command, finish, start, start_each
from transformer.checkpoint import saved_steps
from transformer.config import MeshConfig, UserError
from transformer.processes import join


@pytest.fixture(scope="module")
def short(micro):
    """An experiment with fewer steps: the communication of the processes takes time."""
    return replace(micro, train=replace(micro.train, steps=16, log_every=2, eval_every=4))


@pytest.fixture(scope="module")
def alone(short, tmp_path_factory):
    """The same run with one process."""
    return train(short, tmp_path_factory.mktemp("runs") / "alone", lambda line: None)


def curve(workdir, name: str) -> dict[int, float]:
    return {row["step"]: row[name] for row in read_metrics(workdir / "metrics.jsonl") if name in row}


def assert_same_run(workdir, expected) -> None:
    for name in ("loss", "dev_loss", "target_tokens"):
        ours, theirs = curve(workdir, name), curve(expected.path, name)
        assert list(ours) == list(theirs)
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_processes_train_what_one_trains(alone, short, tmp_path, count):
    outputs = finish(start(command(short, tmp_path / "run"), count))
    assert "step 16/16" in outputs[0]
    assert not any("step " in output for output in outputs[1:]), "one process logs"
    assert_same_run(tmp_path / "run", alone)
    assert saved_steps(tmp_path / "run" / "checkpoints") == saved_steps(alone.checkpoints)


def test_each_process_reads_its_rows_and_no_others(micro):
    data = prepare(micro.data, log=lambda line: None)
    plan = batch_plan(data.train, micro.data, seed=0)
    rows = -(-plan.shape.rows // 4) * 4
    whole = Batches(data.train, plan)
    parts = [Batches(data.train, plan, range(first, first + rows // 4)) for first in range(0, rows, rows // 4)]
    for step in range(2 * len(plan)):
        for side in ("source", "target"):
            together = np.concatenate([part[step][side] for part in parts])
            np.testing.assert_array_equal(together[: plan.shape.rows], whole[step][side])
            assert not together[plan.shape.rows :].any()
        assert all(part.target_tokens(step) == np.count_nonzero(whole[step]["target"]) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize("flag", [["--train.seed", "7"], ["--train.steps", "12"]], ids=str)
def test_processes_that_were_told_different_things_do_not_begin(short, tmp_path, flag):
    words = command(short, tmp_path / "run")
    commands = words, [*words, *flag]
    running = start_each(commands)
    outputs = [process.communicate(timeout=100)[0] for process in running]
    assert [process.returncode for process in running] == [2, 2], outputs
    for output in outputs:
        assert "error: all processes of a run need the same settings, but process 1 differs from process 0" in output
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_goes_on_with_more_and_fewer_devices(alone, short, tmp_path):
    """8 devices, then 2, then 8 in another mesh, then two processes of 2: batches and losses as on one device."""
    layouts = [
        (4, 8, 1, MeshConfig()),
        (8, 2, 1, MeshConfig()),
        (12, 8, 1, MeshConfig(data=2, fsdp=2, tensor=2)),
        (16, 2, 2, MeshConfig(fsdp=2)),
    ]
    for steps, devices, count, mesh in layouts:
        part = replace(short, mesh=mesh, train=replace(short.train, steps=steps))
        outputs = finish(start(command(part, tmp_path / "run"), count, devices))
        assert (
            f"{devices * count} cpu as {mesh.data or devices * count // (mesh.fsdp * mesh.tensor)} data" in outputs[0]
        )
    assert_same_run(tmp_path / "run", alone)
    # One device can translate with the checkpoint that two processes saved.
    both, one = (Translator.load(run, "last") for run in (tmp_path / "run", alone.path))
    np.testing.assert_allclose(both.params["embedding"], one.params["embedding"], atol=1e-4)
    assert len(both.translate(["the old man sees the dog"])) == 1


@pytest.mark.slow
def test_a_preempted_run_of_two_processes_goes_on(alone, short, tmp_path):
    slow_start = start(command(short, tmp_path / "run"), 2)
    while not (tmp_path / "run" / "metrics.jsonl").exists() or not curve(tmp_path / "run", "loss"):
        assert slow_start[0].poll() is None
        time.sleep(0.01)
    slow_start[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=100)[0] for process in slow_start]
    assert [process.returncode for process in slow_start] == [143, 143], outputs
    assert "preempted: saved after step" in outputs[0]
    finish(start(command(short, tmp_path / "run"), 2))
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.parametrize(
    "variables, message",
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID is not set"),
        ({"JAX_PROCESS_ID": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES is not set"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"}, "must be less than"),
        ({"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"}, "must be a number"),
        ({"JAX_COORDINATOR_ADDRESS": "a", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "must be host:port"),
    ],
)
def test_variables_that_make_no_sense_are_named(variables, message):
    with pytest.raises(UserError, match=message):
        join(variables)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"},  # in a batch script, without srun
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"TPU_WORKER_HOSTNAMES": "localhost"},
        {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    ],
)
def test_one_process_waits_for_nobody(variables, monkeypatch):
    monkeypatch.setattr("jax.distributed.initialize", lambda *_, **__: pytest.fail("it would wait"))
    join(variables)


@pytest.mark.parametrize(
    "variables", [{"SLURM_STEP_NUM_TASKS": "8"}, {"OMPI_COMM_WORLD_SIZE": "2"}, {"TPU_WORKER_HOSTNAMES": "a,b"}]
)
def test_a_scheduler_that_jax_knows_is_left_to_jax(variables, monkeypatch):
    called = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given, **_: called.append(given))
    join(variables)
    assert called == [()]
