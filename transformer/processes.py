"""Multi-process (multi-host) runs: a scheduler starts the processes, and the JAX runtime connects their devices.

`join` finds the other processes through environment variables that the scheduler sets:

    any         JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID
    SLURM       srun with more than one task
    Open MPI    mpirun with more than one process
    TPU pod     a slice of more than one host

On Kubernetes, the manifest sets the first three variables (experiments/launch/jobset.yaml).
"""

import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from transformer.config import UserError

T = TypeVar("T")

# A process without a heartbeat for this long is considered lost, and the others stop.
HEARTBEAT_SECONDS = 30

_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LONGEST = 1000


def join(environment: Mapping[str, str] | None = None) -> None:
    """Joins the other processes of this run, if there are any. Must be called before any JAX computation.

    UserError for inconsistent variables. If the other processes do not join within five minutes, the JAX runtime
    reports this and ends the process. Until then SIGTERM ends it immediately.
    """
    if jax.distributed.is_initialized():
        return
    environment = os.environ if environment is None else environment
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a Python handler would not run while C++ code waits
    try:
        if any(name in environment for name in _EXPLICIT[1:]):
            address, count, number = _explicit(environment)
            if count > 1:
                jax.distributed.initialize(address, count, number, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
        elif _several(environment):
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"cannot join the other processes: {str(error).splitlines()[0]}") from error
    finally:
        # With several processes, a thread of the JAX runtime installs its own SIGTERM handler shortly after this. Do
        # not restore ours: it could replace that handler, and only this process would learn of the signal.
        if not jax.distributed.is_initialized():
            signal.signal(signal.SIGTERM, handler)


def _explicit(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """Returns the coordinator address, the number of processes and the index of this one."""
    if missing := [name for name in _EXPLICIT if name not in environment]:
        raise UserError(f"{', '.join(missing)} is not set: set all of {', '.join(_EXPLICIT)}")
    address, *numbers = (environment[name] for name in _EXPLICIT)
    for name, value in zip(_EXPLICIT[1:], numbers, strict=True):
        if not value.isdecimal():
            raise UserError(f"{name} must be a number, not {value!r}")
    count, number = map(int, numbers)
    if number >= count:
        raise UserError(f"JAX_PROCESS_ID = {number} must be less than JAX_NUM_PROCESSES = {count}")
    port = address.rpartition(":")[2]
    if not port.isdecimal() or int(port) >= 2**16:
        raise UserError(f"JAX_COORDINATOR_ADDRESS must be host:port, not {address!r}")
    return address, count, number


def _several(environment: Mapping[str, str]) -> bool:
    """Whether a scheduler that JAX detects by itself started more than one process."""
    # Only srun sets SLURM_STEP_...: a plain command in a batch script with many tasks is a single process.
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return any(int(environment.get(name) or 1) > 1 for name in counts) or len(hosts) > 1


def is_first() -> bool:
    """Whether this is process 0, which logs and writes the files."""
    return jax.process_index() == 0


def check_same(**facts: Any) -> None:
    """UserError in all processes if one of them has a different value of a fact than process 0. Facts must be JSON."""
    for name, fact in facts.items() if jax.process_count() > 1 else ():
        digest = hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).digest()
        every = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
        if differing := [number for number, other in enumerate(every) if (other != every[0]).any()]:
            numbers = ", ".join(map(str, differing))
            raise UserError(
                f"all processes of a run need the same {name}, but process {numbers} differs from process 0"
            )


def of_first_process(value: float) -> float:
    """Returns the value that process 0 has, in all processes."""
    return value if jax.process_count() == 1 else float(multihost_utils.broadcast_one_to_all(jnp.float32(value)))


def on_first_process(action: Callable[[], T]) -> T | None:
    """Runs `action` on process 0 while the other processes wait; they return None.

    A UserError or OSError of process 0 is raised in all processes, as a UserError.
    """
    if jax.process_count() == 1:
        return action()
    result, problem = None, ""
    if is_first():
        try:
            result = action()
        except (UserError, OSError) as error:
            problem = str(error)
    message = jnp.array(list(problem.encode(errors="replace")[:_LONGEST].ljust(_LONGEST, b"\0")), jnp.uint8)
    problem = bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0").decode(errors="ignore")
    if problem:
        raise UserError(problem)
    return result


def coordinator_reachable(environment: Mapping[str, str] | None = None) -> bool:
    """Whether process 0 still accepts connections. True if only the scheduler knows its address."""
    host, _, port = (os.environ if environment is None else environment).get(_EXPLICIT[0], "").rpartition(":")
    try:
        if host:
            socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def leave(code: int) -> NoReturn:
    """Exits. With several processes, skips the cleanup, which would wait for others that may wait for this one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def all_processes(condition: bool) -> bool:
    """Whether `condition` is True in all processes. All of them must call it."""
    if jax.process_count() == 1:
        return condition
    return bool(multihost_utils.process_allgather(jnp.array(condition)).all())
