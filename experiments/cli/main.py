"""`python -m experiments VERB [NAME] [--flags]`: the command line.

Exit codes: 0 success, 2 an error that the user can correct (one line on stderr), 130 Ctrl-C, 141 broken pipe (the
reader of the output has closed it), 143 SIGTERM.
"""

import errno
import logging
import os
import signal
import sys
import time
from typing import NoReturn

import jax

from experiments.cli.arguments import HELP, Arguments, UsageError, load_parts_files
from experiments.cli.compilation_cache import keep_compiled
from experiments.cli.help import argument_help, program
from experiments.cli.verbs import VERBS
from experiments.streams import set_up_streams
from experiments.training import stopping
from experiments.training.stopping import EXIT_CODE, Preempted, preempt
from transformer.checkpoint import brief
from transformer.config import UserError
from transformer.processes import HEARTBEAT_SECONDS, coordinator_reachable, leave

BROKEN_PIPE = 128 + 13  # the exit code of a program that SIGPIPE terminates

FULL = "the disk is full; files written earlier are intact"


def usage() -> str:
    """Returns the usage message: one line per command."""
    lines = [
        f"usage: {program()} VERB [NAME] [--flags]        (VERB --help shows its arguments and flags)",
        "",
    ]
    lines += ["  {:18} {}".format(*(verb.__doc__ or "").split(": ", 1)) for verb in VERBS.values()]
    lines += [
        "",
        argument_help("NAME"),
        argument_help("RUN"),
        "--parts FILE, with any verb, first runs a Python file that registers custom components, for use in settings.",
    ]
    return "\n".join(lines)


def print_error(message: str) -> None:
    """Prints one line on stderr, if stderr can be written to."""
    if sys.stderr is not None:  # print would write to stdout instead
        try:
            print(f"error: {message}", file=sys.stderr)
        except OSError:
            discard_output()


def fail(message: str, code: int = 2) -> NoReturn:
    """Prints one line on stderr and exits."""
    print_error(message)
    leave(code)


def discard_output() -> None:
    """Discards output that cannot be written: Python would try again at exit, and fail with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def run(arguments: Arguments) -> None:
    """Runs a command."""
    set_up_streams()
    if not arguments:
        print(usage())
        return
    keep_compiled()
    arguments = load_parts_files(arguments)
    try:
        if not arguments:
            raise UsageError
        if arguments[0] in HELP:
            print(usage())
            return
        if arguments[0] not in VERBS:
            raise UserError(f"unknown verb {arguments[0]!r}; the verbs are: {', '.join(VERBS)}")
        VERBS[arguments[0]](arguments[1:])
    except UsageError:
        print(usage())
        sys.exit(2)
    if stopping.asked.is_set():
        raise Preempted("stopped by SIGTERM")


def main(arguments: Arguments | None = None) -> None:
    """Runs a command, and reports an error in one line."""
    for name in ("absl", "asyncio"):  # Orbax logs every step of a save, and asyncio the tasks of a failed one
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, preempt)
    try:
        try:
            run(sys.argv[1:] if arguments is None else arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, so that a failure is handled below
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except Preempted as stopped:  # all processes stop together, so a regular exit does not wait for a lost one
        print_error(str(stopped))
        sys.exit(EXIT_CODE)
    except BrokenPipeError:  # the reader is gone: there is nothing to report
        discard_output()
        leave(BROKEN_PIPE)
    except OSError as error:
        discard_output()
        if error.errno == errno.ENOSPC:
            fail(FULL)
        fail(": ".join(str(part) for part in (error.strerror, error.filename) if part) or str(error))
    except Exception as error:
        if stopping.asked.is_set():
            fail("stopped by SIGTERM", EXIT_CODE)
        if "No space left on device" in str(error):  # TensorStore raises its own type of error
            fail(FULL)
        if "RESOURCE_EXHAUSTED" in str(error):
            fail(
                "out of memory: train with a lower --data.batch-tokens or a higher --train.accumulate, "
                "or translate with a lower --batch-size, --beam or --max-tokens"
            )
        if (count := jax.process_count()) > 1:
            other = "another process" if coordinator_reachable() else "process 0, which is gone"
            print_error(f"process {jax.process_index()} of {count} lost contact with {other}: {brief(error)}")
            # JAX's runtime terminates this process once it knows which other process failed, and reports it.
            time.sleep(2 * HEARTBEAT_SECONDS)
            leave(1)
        raise
