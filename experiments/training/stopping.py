"""Why a run stops before its last step: preemption, validations that no longer improve, or one that is good enough.

A scheduler that reclaims the machine sends SIGTERM; the run saves its state and exits with code 143.
"""

import signal
import threading
from types import FrameType
from typing import NamedTuple

import jax
from jax.experimental import multihost_utils

from experiments.task import task_of
from transformer.config import Experiment, counted

EXIT_CODE = 128 + signal.SIGTERM


class Preempted(BaseException):
    """Raised after SIGTERM. Like KeyboardInterrupt it is not an Exception, so that no error handler swallows it."""


asked = threading.Event()
"""Set when SIGTERM was received while there was nothing to save."""


def preempt(number: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM while there is nothing to save."""
    asked.set()  # if the signal arrives inside a library, the library may swallow the exception
    raise Preempted("stopped by SIGTERM")


class Preemption:
    """Context manager in which SIGTERM interrupts nothing; the loop checks for it after each step."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> "Preemption":
        # With several processes, JAX's runtime handles the signal and makes all of them stop after the same step.
        if self.listens():
            self.before = signal.signal(signal.SIGTERM, self._remember), signal.getsignal(signal.SIGINT)
        return self

    def __exit__(self, *_: object) -> None:
        if self.listens():
            for number, handler in zip((signal.SIGTERM, signal.SIGINT), self.before, strict=True):
                signal.signal(number, handler)

    def listens(self) -> bool:
        """Returns whether this process handles the signal. A thread (of a notebook, say) cannot receive signals."""
        return jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the state is about to be saved

    def after(self, step: int) -> bool:
        """Returns whether to stop after this step. All processes must call this after every step."""
        return multihost_utils.reached_preemption_sync_point(step) if jax.process_count() > 1 else self.asked


class Best(NamedTuple):
    """The best validation so far. Lower is better."""

    value: float | None = None
    since: int = 0
    """Number of validations after it."""
    newest: float | None = None
    """The value of the last validation."""

    def after(self, value: float) -> "Best":
        """After another validation."""
        is_better = self.value is None or value < self.value
        return Best(value, 0, value) if is_better else Best(self.value, self.since + 1, value)

    def is_over(self, experiment: Experiment) -> bool:
        """Whether training stops, by train.patience or train.stop_at."""
        return self.is_enough(experiment) or 0 < experiment.train.patience <= self.since

    def is_enough(self, experiment: Experiment) -> bool:
        """Whether a validation has reached the score train.stop_at."""
        return self.value is not None and 0 < experiment.train.stop_at <= -self.value

    def reason(self, experiment: Experiment) -> str:
        """Why training has stopped."""
        what = task_of(experiment.data).metric if experiment.train.best == "score" else "validation loss"
        if self.is_enough(experiment):
            return f"{what} has reached {experiment.train.stop_at:g} (--train.stop-at)"
        return f"no better {what} in {counted(self.since, 'validation')} (--train.patience)"
