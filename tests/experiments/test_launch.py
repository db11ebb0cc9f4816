"""Tests the files in experiments/launch/: their syntax, and their commands with fake schedulers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from experiments.history import read_metrics
from tests.experiments.launching import ROOT, command, free_port
from transformer.processes import join

LAUNCH = ROOT / "experiments" / "launch"

# Starts the tasks of a job step on this machine; srun does so on many.
SRUN = """#!/usr/bin/env bash
while [[ "$1" == --* ]]; do shift; done
for task in 0 1; do
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NODELIST=localhost "$@" &
    started+=($!)
done
worst=0
for task in "${started[@]}"; do
    wait "$task" || { code=$?; [ $code -le $worst ] || worst=$code; }
done
exit $worst
"""
SCONTROL = '#!/usr/bin/env bash\necho "scontrol $*"\n'
# Runs the command on each host of a slice; here it has only this one.
GCLOUD = '#!/usr/bin/env bash\necho "gcloud $*" >&2\nHOME="$FAKE_HOME" exec bash -c "${@: -1}"\n'


def stand_in(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def environment(folder: Path, **more: str) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        **more,
    }


@pytest.mark.parametrize("path", sorted(LAUNCH.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_well_formed(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK)


@pytest.mark.slow
def test_slurm_trains_as_one_run(micro, tmp_path):
    stand_in(tmp_path / "bin", "srun", SRUN)
    # JAX derives its port from the job number: 61440 + number % 4096.
    job = str(free_port())
    arguments = command(micro, tmp_path / "run")[4:]
    arguments[arguments.index("--train.steps") + 1] = "4"
    done = subprocess.run(
        [LAUNCH / "slurm.sh", *arguments],
        env=environment(tmp_path / "bin", SLURM_JOB_ID=job, SLURM_SUBMIT_DIR=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 cpu as 2 data" in done.stdout
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [4]


@pytest.mark.parametrize("code, requeued", [(143, True), (2, False), (0, False)])
def test_slurm_queues_a_preempted_run_again_and_no_other(tmp_path, code, requeued):
    stand_in(tmp_path / "bin", "srun", f"#!/bin/sh\nexit {code}\n")
    stand_in(tmp_path / "bin", "scontrol", SCONTROL)
    done = subprocess.run(
        [LAUNCH / "slurm.sh", "demo"],
        env=environment(tmp_path / "bin", SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == code
    assert ("scontrol requeue 7" in done.stdout) == requeued


def test_the_jobset_gives_what_join_wants(monkeypatch):
    manifest = yaml.safe_load((LAUNCH / "jobset.yaml").read_text())
    (job,) = manifest["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    values = {variable["name"]: variable.get("value") for variable in container["env"]}
    name = manifest["metadata"]["name"]
    # A pod's host name is <jobset>-<job>-<replica>-<index>, in the subdomain of the JobSet's name.
    assert values["JAX_COORDINATOR_ADDRESS"].startswith(f"{name}-{job['name']}-0-0.{name}:")
    assert int(values["JAX_NUM_PROCESSES"]) == spec["parallelism"] == spec["completions"]
    assert spec["completionMode"] == "Indexed"
    assert container["command"][1:4] == ["-m", "experiments", "train"]
    called = []
    monkeypatch.setattr("jax.distributed.initialize", lambda *given, **_: called.append(given))
    join(values | {"JAX_PROCESS_ID": "3"})  # the index of the pod
    assert called == [(values["JAX_COORDINATOR_ADDRESS"], 4, 3)]
    subprocess.run([sys.executable, *container["command"][1:], "--help"], cwd=ROOT, check=True, capture_output=True)


def test_the_tpu_script_quotes_what_it_passes_on(tmp_path):
    home = tmp_path / "home"
    (home / "transformer" / ".venv" / "bin").mkdir(parents=True)
    stand_in(home / "transformer" / ".venv" / "bin", "python", '#!/bin/sh\nprintf "%s|" "$@"\n')
    stand_in(tmp_path / "bin", "gcloud", GCLOUD)
    names = environment(tmp_path / "bin", FAKE_HOME=str(home), TPU="slice", ZONE="zone")
    script = [LAUNCH / "tpu_pod.sh", "demo", "--workdir", "a folder/with 'quotes'"]
    done = subprocess.run(script, env=names, capture_output=True, text=True, check=True)
    assert done.stdout == "-m|experiments|train|demo|--workdir|a folder/with 'quotes'|"
    assert "ssh slice --zone zone --worker=all" in done.stderr
    refused = subprocess.run(script[:1], env=names, capture_output=True, text=True)
    assert refused.returncode == 2 and "usage" in refused.stderr
