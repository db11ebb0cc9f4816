"""Starts the processes of one multi-process run on this machine."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def command(experiment, workdir) -> list[str]:
    """Returns the flags that change `small` into this experiment."""
    flags = ["--workdir", str(workdir)]
    for part in ("model", "data", "optimizer", "train", "mesh"):
        for name, value in vars(getattr(experiment, part)).items():
            if isinstance(value, bool):
                flags += [f"--{part}.{'' if value else 'no-'}{name.replace('_', '-')}"]
            elif value is not None:
                flags += [f"--{part}.{name.replace('_', '-')}", str(value)]
    return [sys.executable, "-m", "experiments", "train", "small", *flags]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def start(command: list[str], count: int, devices: int = 1, **environment: str) -> list[subprocess.Popen[str]]:
    """Starts this many processes with this many devices each; several processes form one run."""
    return start_each([command] * count, devices, **environment)


def start_each(commands: Sequence[list[str]], devices: int = 1, **environment: str) -> list[subprocess.Popen[str]]:
    """Starts one process for each command."""
    address, started = f"localhost:{free_port()}", []
    for number, command in enumerate(commands):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        own = {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        if len(commands) > 1:
            own |= {
                "JAX_COORDINATOR_ADDRESS": address,
                "JAX_NUM_PROCESSES": str(len(commands)),
                "JAX_PROCESS_ID": str(number),
            }
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | own | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    return started


def finish(processes: list[subprocess.Popen[str]], seconds: float = 300) -> list[str]:
    """Returns the output of each process. AssertionError if one fails."""
    outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return outputs
