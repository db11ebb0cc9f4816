"""Several processes as one run. Schedulers start them; JAX's runtime makes their devices one machine.

`join` finds the others by what the scheduler put into the environment:

    any         JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES, JAX_PROCESS_ID
    SLURM       srun with more than one task
    Open MPI    mpirun with more than one process
    TPU pod     a slice of more than one host

On Kubernetes the first three variables are a few lines of the manifest (experiments/launch/jobset.yaml).
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

# A process that has not been heard of for so long is lost, and the others stop.
HEARTBEAT_SECONDS = 30

_EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_LONGEST = 1000


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the other processes of this run, where there are any. To be called before anything is computed.

    UserError for variables that contradict each other. When the others do not come within five minutes, JAX's runtime
    says so and ends this process; until then SIGTERM ends it at once.
    """
    if jax.distributed.is_initialized():
        return
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # one in Python would not be called while C++ waits
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
        # Of several processes JAX's runtime listens from now on: it has a thread put in a handler of its own, at some
        # moment after this. One put in here may come later, and only this process would hear of the signal.
        if not jax.distributed.is_initialized():
            signal.signal(signal.SIGTERM, handler)


def _explicit(environment: Mapping[str, str]) -> tuple[str, int, int]:
    """Address, number of processes, number of this one."""
    if missing := [name for name in _EXPLICIT if name not in environment]:
        raise UserError(f"{', '.join(missing)} is not set, and {', '.join(_EXPLICIT)} go together")
    address, *numbers = (environment[name] for name in _EXPLICIT)
    for name, value in zip(_EXPLICIT[1:], numbers, strict=True):
        if not value.isdecimal():
            raise UserError(f"{name} must be a number, not {value!r}")
    count, number = map(int, numbers)
    if number >= count:
        raise UserError(f"JAX_PROCESS_ID = {number} is not below JAX_NUM_PROCESSES = {count}")
    port = address.rpartition(":")[2]
    if not port.isdecimal() or int(port) >= 2**16:
        raise UserError(f"JAX_COORDINATOR_ADDRESS must be host:port, not {address!r}")
    return address, count, number


def _several(environment: Mapping[str, str]) -> bool:
    """Whether a scheduler that JAX knows by itself started more than one process."""
    # SLURM_STEP_... is set by srun alone: a plain command in a batch script of many tasks is one process.
    counts = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return any(int(environment.get(name) or 1) > 1 for name in counts) or len(hosts) > 1


def is_first() -> bool:
    """Whether this process is the one that logs, and writes what is written once."""
    return jax.process_index() == 0


def check_same(**facts: Any) -> None:
    """UserError in all processes if one of them was given something else than the first; by name, in JSON."""
    for name, fact in facts.items() if jax.process_count() > 1 else ():
        digest = hashlib.sha256(json.dumps(fact, sort_keys=True).encode()).digest()
        every = multihost_utils.process_allgather(np.frombuffer(digest, np.uint8))
        if differing := [number for number, other in enumerate(every) if (other != every[0]).any()]:
            numbers = ", ".join(map(str, differing))
            raise UserError(
                f"the processes of one run need the same {name}: of process {numbers} it is not process 0's"
            )


def by_first(action: Callable[[], T]) -> T | None:
    """Done by the first process, while the others wait for it. Its UserError or OSError is one of all.

    The others return None.
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
    told = bytes(multihost_utils.broadcast_one_to_all(message)).rstrip(b"\0").decode(errors="ignore")
    if told:
        raise UserError(told)
    return result


def first_listens(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether process 0 still listens; True where its address is the scheduler's secret."""
    host, _, port = environment.get(_EXPLICIT[0], "").rpartition(":")
    try:
        if host:
            socket.create_connection((host, int(port)), timeout=5).close()
    except OSError:
        return False
    return True


def leave(code: int) -> NoReturn:
    """Ends this process. Of several, at once: an orderly end would wait for the others, who may wait for this one."""
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def everyone(fine: bool) -> bool:
    """Whether it is so in all processes."""
    if jax.process_count() == 1:
        return fine
    return bool(multihost_utils.process_allgather(jnp.array(fine)).all())
