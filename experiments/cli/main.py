"""`python -m experiments VERB [NAME] [--flags]`: the command line.

Exit codes: 0 done, 2 for anything that the user can put right (one line on stderr), 130 for Ctrl-C, 141 where
the reader of the output went away, 143 for SIGTERM.
"""

import errno
import logging
import os
import signal
import sys
import time
from typing import NoReturn

import jax

from experiments.cli.arguments import Arguments, UsageError
from experiments.cli.compilation_cache import keep_compiled
from experiments.cli.verbs import VERBS
from experiments.presets import EXPERIMENTS
from experiments.registry import load_parts_files
from experiments.streams import set_up_streams
from experiments.training import preemption
from experiments.training.preemption import EXIT_CODE, Preempted, preempt
from transformer.checkpoint import brief
from transformer.config import UserError
from transformer.processes import HEARTBEAT_SECONDS, coordinator_reachable, leave

BROKEN_PIPE = 128 + 13  # as of a program that SIGPIPE ends

FULL = "the disk is full; what was written before is whole"


def usage() -> str:
    """The verbs, a line each."""
    lines = [
        "usage: python -m experiments VERB [NAME] [--flags]        (VERB NAME --help shows the flags)",
        "",
    ]
    lines += ["  {:18} {}".format(*(verb.__doc__ or "").split(": ", 1)) for verb in VERBS.values()]
    lines += [
        "",
        f"NAME is one of: {', '.join(EXPERIMENTS)};",
        "or a RUN, whose settings are meant; or none, where --config FILE has the settings.",
        "RUN is a work directory, or its name under runs/.",
        "--parts FILE, with any verb, runs a Python file first: parts of your own, by which settings may then go.",
    ]
    return "\n".join(lines)


def say(message: str) -> None:
    """One line on stderr, if that can be written to."""
    if sys.stderr is not None:  # where print would take stdout
        try:
            print(f"error: {message}", file=sys.stderr)
        except OSError:
            discard_output()


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, and out."""
    say(message)
    leave(code)


def discard_output() -> None:
    """What cannot be written is forgotten: Python would try again as it ends, and fail with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


def run(arguments: Arguments) -> None:
    """Runs a verb."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    set_up_streams()
    keep_compiled()
    try:
        arguments = load_parts_files(arguments)
        if not arguments or arguments[0] in ("-h", "--help"):
            raise UsageError(asked=bool(arguments))
        if arguments[0] not in VERBS:
            raise UserError(f"unknown verb {arguments[0]!r}; there are: {', '.join(VERBS)}")
        VERBS[arguments[0]](arguments[1:])
    except UsageError as wanted:
        print(usage())
        sys.exit(0 if wanted.asked else 2)
    if preemption.asked.is_set():
        raise Preempted("stopped by SIGTERM")


def main(arguments: Arguments | None = None) -> None:
    """Runs a verb, and says in one line what went wrong."""
    for name in ("absl", "asyncio"):  # Orbax reports every step of a save, and asyncio what a failed one leaves
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, preempt)
    try:
        try:
            run(sys.argv[1:] if arguments is None else arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # where it fails, while there is someone to say so
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except Preempted as stopped:  # all processes at once
        say(str(stopped))
        sys.exit(EXIT_CODE)
    except BrokenPipeError:  # nothing to say, and no one to say it to
        discard_output()
        leave(BROKEN_PIPE)
    except OSError as error:
        discard_output()
        if error.errno == errno.ENOSPC:
            fail(FULL)
        fail(": ".join(str(part) for part in (error.strerror, error.filename) if part) or str(error))
    except Exception as error:
        if preemption.asked.is_set():
            fail("stopped by SIGTERM", EXIT_CODE)
        if "No space left on device" in str(error):  # TensorStore wraps it in an error of its own
            fail(FULL)
        if "RESOURCE_EXHAUSTED" in str(error):
            fail(
                "out of memory: train with a lower --data.batch-tokens or a higher --train.accumulate, "
                "translate with a lower --batch-size, --beam or --max-tokens"
            )
        if (count := jax.process_count()) > 1:
            me, other = jax.process_index(), "another one" if coordinator_reachable() else "process 0, which is gone"
            say(f"process {me} of {count} lost touch with {other}: {brief(error)}")
            # JAX's runtime ends this process when it knows which other one that is, and says so.
            time.sleep(2 * HEARTBEAT_SECONDS)
            leave(1)
        raise
