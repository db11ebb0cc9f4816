"""Logs steps that take far longer than usual: a file system hangs, a process is lost, or a device is slow."""

import threading
import time
from collections.abc import Callable
from statistics import median

from experiments.training.progress import Meter

TIMES = 10
"""A step stalls if it takes this many times the median."""
LEAST_SECONDS = 1.0
"""A step that takes less time than this never stalls."""
POLL_SECONDS = 0.25
STEPS = 5
"""Number of steps needed before the median is used."""


class Watchdog:
    """Context manager that logs one line for each step that takes TIMES the median of the latest steps."""

    def __init__(self, meter: Meter, log: Callable[[str], None]):
        self.meter, self.log = meter, log
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        reported = None
        while not self.over.wait(POLL_SECONDS):
            since, recent = self.meter.step_since, list(self.meter.recent)
            if since is None or since == reported or len(recent) < STEPS:
                continue
            seconds, usual = time.monotonic() - since, median(recent)
            if seconds > max(TIMES * usual, LEAST_SECONDS):
                where = "data" if self.meter.at_data else "the device"
                self.log(f"stalled: a step has taken {seconds:.1f} s, the median is {usual:.3g} s; waiting for {where}")
                reported = since
