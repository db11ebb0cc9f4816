"""Progress of a run: rows of metrics.jsonl, which every view shows, and log lines."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Protocol, TypeVar

import jax
import numpy as np

from experiments.history import Row, read_metrics
from experiments.workdir import WorkDir, write_whole
from transformer.processes import is_first
from transformer.train import Metrics

T = TypeVar("T")


class View(Protocol):
    """Shows a run while it trains (experiments/training/views.py)."""

    def write(self, row: Row) -> None:
        """Shows a new row."""

    def close(self) -> None:
        """Ends the view, when training ends or is interrupted."""


class Progress:
    """Writes rows to metrics.jsonl and to every view, and lines to the log.

    When a run resumes from step n, rows of later steps are dropped, since those steps run again. If there are several
    processes, only the first one writes.
    """

    def __init__(self, run: WorkDir, step: int, log: Callable[[str], None], views: Sequence[View] = ()):
        self.log, self.writes, self.views = log, is_first(), views
        if not self.writes:
            return
        kept = [json.dumps(row) for row in read_metrics(run.metrics) if row["step"] <= step]
        write_whole(run.metrics, "".join(line + "\n" for line in kept).encode())
        self.file = run.metrics.open("a", encoding="utf-8")

    def write(self, step: int, **values: float | str | None) -> None:
        """Writes a row with these values."""
        if not self.writes:
            return
        # JSON has no NaN and no infinity.
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in values.items()
        }
        row: Row = {"step": step, **finite}
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for view in self.views:
            view.write(row)

    def close(self) -> None:
        """Closes the file and all views."""
        if self.writes:
            self.file.close()
            for view in self.views:
                view.close()


class Meter:
    """Measures loss and speed since the last reading, and the time and tokens of the whole run.

    Args:
        seconds: training time of earlier processes of this run.
        target_tokens: number of target tokens that they trained on.
        unread: the metrics of their steps since the last reading (`unread()`), None if there is none.
    """

    def __init__(self, seconds: float, target_tokens: int, unread: Sequence[float] | None = None):
        self.before, self.target_tokens = seconds, target_tokens
        self.start = time.monotonic()
        self.running: Metrics | None = None
        self.total: Metrics | None = None
        """Sums over the steps since the last reading."""
        self.recent: deque[float] = deque(maxlen=100)
        """Durations of the latest steps, in seconds."""
        self.step_since: float | None = None
        """When the device started its current step; None before the first step, and while paused."""
        self.at_data = False
        self.spent = dict.fromkeys(("data", "validation", "checkpoints", "translation"), 0.0)
        """Seconds since the start during which the loop did not wait for its steps, but for these."""
        self.reset()
        if unread:
            self.total = Metrics(*np.asarray(unread, np.float32))

    def reset(self) -> None:
        """Starts a new reading."""
        self.since, self.tokens, self.steps = time.monotonic(), 0, 0
        self.spent_before = dict(self.spent)
        self.total = None

    def unread(self) -> list[float] | None:
        """Returns the metrics since the last reading, for the process that continues from here."""
        return None if self.total is None else [float(value) for value in self.total]

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """Yields the same batches, and measures how long the loop waits for them."""
        while True:
            start = time.monotonic()
            self.step_since, self.at_data = start if self.step_since is None else self.step_since, True
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.spent["data"] += time.monotonic() - start
            self.at_data = False
            yield batch

    def add(self, metrics: Metrics, tokens: int) -> None:
        """Adds a step, and waits for the previous one, so that the device always has exactly one more step queued."""
        self.total = metrics if self.total is None else self.total + metrics
        self.tokens += tokens
        self.target_tokens += tokens
        self.steps += 1
        if self.running is not None:
            jax.block_until_ready(self.running)
            self._step_done()
        self.running = metrics

    def _step_done(self) -> None:
        now = time.monotonic()
        if self.step_since is not None:
            self.recent.append(now - self.step_since)
        self.step_since = now

    def read(self) -> dict[str, float | None]:
        """Returns the metrics since the last reading, and starts a new one.

        These are the loss per token, target tokens per second, the number of skipped steps, and times in seconds: of
        the median step, of waiting for data per step, and of saving checkpoints.
        """
        assert self.total is not None, "nothing to read"
        loss, tokens, skipped = (float(value) for value in self.total)  # waits for the device
        if self.running is not None:
            self.running = None
            self._step_done()
        numbers = {
            # There is no loss if every step was skipped.
            "loss": loss / tokens if tokens else None,
            "tokens_per_second": self.tokens / (time.monotonic() - self.since),
            "skipped": skipped,
            "step_seconds": self.step_seconds(),
            "data_seconds": (self.spent["data"] - self.spent_before["data"]) / self.steps,
            "checkpoint_seconds": self.spent["checkpoints"] - self.spent_before["checkpoints"],
        }
        self.reset()
        return numbers

    @contextmanager
    def paused(self, what: str) -> Iterator[None]:
        """Excludes the time spent inside from the reading, and counts it as spent on `what` (a key of `spent`)."""
        if self.running is not None:
            jax.block_until_ready(self.running)
            self.running = None
            self._step_done()
        start, self.step_since = time.monotonic(), None
        yield
        seconds = time.monotonic() - start
        self.since += seconds
        self.spent[what] += seconds

    def shares(self) -> dict[str, float]:
        """Returns the fraction of this process's training time spent in steps, and on everything in `spent`.

        A checkpoint counts for as long as it blocks the loop, without its writing in the background.
        """
        whole = self.process_seconds()
        rest = {name: seconds / whole for name, seconds in self.spent.items()}
        return {"steps": 1.0 - sum(rest.values()), **rest}

    def step_seconds(self) -> float | None:
        """Returns the median duration of the latest steps in seconds; None before the first one."""
        return median(self.recent) if self.recent else None

    def process_seconds(self) -> float:
        """Returns the seconds since this process started to train."""
        return time.monotonic() - self.start

    def seconds(self) -> float:
        """Returns the training time of the whole run in seconds, without pauses between processes."""
        return self.before + self.process_seconds()
