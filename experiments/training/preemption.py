"""A scheduler that takes the machine back sends SIGTERM: a run saves where it is, and ends with a code that says so."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(BaseException):
    """SIGTERM came. Not an Exception, as KeyboardInterrupt is none: nothing that handles errors may swallow it."""


asked = threading.Event()
"""Set when SIGTERM came where there is nothing to save."""


def preempt(number: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM, wherever there is nothing to save."""
    asked.set()  # a library that the signal finds at work may swallow what is raised in it
    raise Preempted("stopped by SIGTERM")


class Preemption:
    """Inside of it SIGTERM interrupts nothing: it is asked for after each step."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Preemption":
        # With several processes JAX's runtime listens, and has all of them stop after the same step.
        if self.listens():
            self.before = signal.signal(signal.SIGTERM, self._remember), signal.getsignal(signal.SIGINT)
        return self

    def __exit__(self, *_: object) -> None:
        if self.listens():
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), self.before, strict=True):
                signal.signal(number, handler)

    def listens(self) -> bool:
        """Whether the signal comes here. (A notebook may train in another thread, which gets none.)"""
        return jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the state is about to be saved

    def after(self, step: int) -> bool:
        """Whether to stop after this step. All processes have to ask after each."""
        return multihost_utils.reached_preemption_sync_point(step) if jax.process_count() > 1 else self.asked
