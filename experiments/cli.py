"""`python -m experiments VERB [NAME] [--flags]`: the command line.

Exit codes: 0 done, 2 for anything that the user can put right (one line on stderr), 130 for Ctrl-C, 143 for SIGTERM.
"""

import errno
import logging
import signal
import sys
import time
from typing import NoReturn

import jax

from experiments import EXPERIMENTS, preemption
from experiments.arguments import Arguments, UsageError
from experiments.compiled import keep_compiled
from experiments.parts import take_parts
from experiments.preemption import EXIT_CODE, Preempted, preempt
from experiments.streams import set_up_streams
from experiments.verbs import VERBS
from transformer.checkpoint import brief
from transformer.config import UserError
from transformer.processes import HEARTBEAT_SECONDS, first_listens, leave

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
        f"NAME is one of: {', '.join(EXPERIMENTS)}.",
        "RUN is a work directory, or its name under runs/.",
        "--parts FILE, with any verb, runs a Python file first: parts of your own, by which settings may then go.",
    ]
    return "\n".join(lines)


def fail(message: str, code: int = 2) -> NoReturn:
    """One line on stderr, and out."""
    print(f"error: {message}", file=sys.stderr)
    leave(code)


def main(arguments: Arguments | None = None) -> None:
    """Runs a verb."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for name in ("absl", "asyncio"):  # Orbax reports every step of a save, and asyncio what a failed one leaves
        logging.getLogger(name).setLevel(logging.CRITICAL)
    signal.signal(signal.SIGTERM, preempt)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    try:
        set_up_streams()
        keep_compiled()
        arguments = take_parts(arguments)
        if not arguments or arguments[0] in ("-h", "--help"):
            raise UsageError(asked=bool(arguments))
        if arguments[0] not in VERBS:
            raise UserError(f"unknown verb {arguments[0]!r}; there are: {', '.join(VERBS)}")
        VERBS[arguments[0]](arguments[1:])
        if preemption.asked.is_set():
            raise Preempted("stopped by SIGTERM")
    except UsageError as wanted:
        print(usage())
        sys.exit(0 if wanted.asked else 2)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except Preempted as stopped:  # all processes at once
        print(f"error: {stopped}", file=sys.stderr)
        sys.exit(EXIT_CODE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing to say, and no one to say it to
    except OSError as error:
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
                "translate with a lower --batch-size or --beam"
            )
        if (count := jax.process_count()) > 1:
            me, other = jax.process_index(), "another one" if first_listens() else "process 0, which is gone"
            print(f"error: process {me} of {count} lost touch with {other}: {brief(error)}", file=sys.stderr)
            # JAX's runtime ends this process when it knows which other one that is, and says so.
            time.sleep(2 * HEARTBEAT_SECONDS)
            leave(1)
        raise
