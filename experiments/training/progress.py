"""What a run says about itself: rows of metrics.jsonl, which every view shows, and lines."""

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Protocol, TypeVar

import jax

from experiments.history import Row, read_metrics
from experiments.workdir import WorkDir, write_whole
from transformer.processes import is_first
from transformer.train import Metrics

T = TypeVar("T")


class View(Protocol):
    """Shows a run while it trains (experiments/training/views.py)."""

    def write(self, row: Row) -> None:
        """Shows one more row."""

    def close(self) -> None:
        """The run has ended, for now."""


class Progress:
    """Writes rows to metrics.jsonl and to every view, and lines to the log.

    After a resume from step n, what an earlier process wrote about later steps is dropped: those steps
    are done again. Of several processes the first one writes.
    """

    def __init__(self, run: WorkDir, step: int, log: Callable[[str], None], views: Sequence[View] = ()):
        self.log, self.writes, self.views = log, is_first(), views
        if not self.writes:
            return
        kept = [json.dumps(row) for row in read_metrics(run.metrics) if row["step"] <= step]
        write_whole(run.metrics, "".join(line + "\n" for line in kept).encode())
        self.file = run.metrics.open("a", encoding="utf-8")

    def write(self, step: int, **values: float | str | None) -> None:
        """One row."""
        if not self.writes:
            return
        # JSON has neither NaN nor infinity.
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
        """Flushes everything."""
        if self.writes:
            self.file.close()
            for view in self.views:
                view.close()


class Meter:
    """Loss and speed since the last reading, and what the whole run has cost so far.

    Args:
        seconds: what earlier processes of this run took.
        target_tokens: what they trained on.
    """

    def __init__(self, seconds: float, target_tokens: int):
        self.before, self.target_tokens = seconds, target_tokens
        self.start = time.monotonic()
        self.running: Metrics | None = None
        self.recent: deque[float] = deque(maxlen=100)
        """Seconds of the latest steps."""
        self.step_since: float | None = None
        """When the device began with the step it is at; None before the first, and while paused."""
        self.at_data = False
        self.reset()

    def reset(self) -> None:
        """Starts a new reading now."""
        self.since, self.tokens, self.steps = time.monotonic(), 0, 0
        self.data_seconds = self.checkpoint_seconds = 0.0
        self.total: Metrics | None = None

    def waiting(self, batches: Iterator[T]) -> Iterator[T]:
        """The same, and the time that the loop waits for them is measured."""
        while True:
            start = time.monotonic()
            self.step_since, self.at_data = start if self.step_since is None else self.step_since, True
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.data_seconds += time.monotonic() - start
            self.at_data = False
            yield batch

    def add(self, metrics: Metrics, tokens: int) -> None:
        """Counts a step in. Waits for the step before it, so that the device always has one more to do, and no more."""
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
        """Loss per token, target tokens per second and skipped steps since the last reading, and where time went."""
        assert self.total is not None, "nothing to read"
        loss, tokens, skipped = (float(value) for value in self.total)  # waits for the device
        if self.running is not None:
            self.running = None
            self._step_done()
        numbers = {
            # Every step of the reading skipped: there is no loss.
            "loss": loss / tokens if tokens else None,
            "tokens_per_second": self.tokens / (time.monotonic() - self.since),
            "skipped": skipped,
            "step_seconds": median(self.recent) if self.recent else None,
            "data_seconds": self.data_seconds / self.steps,
            "checkpoint_seconds": self.checkpoint_seconds,
        }
        self.reset()
        return numbers

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done inside (a validation, say) out of the reading."""
        if self.running is not None:
            jax.block_until_ready(self.running)
            self.running = None
            self._step_done()
        start, self.step_since = time.monotonic(), None
        yield
        self.since += time.monotonic() - start

    @contextmanager
    def saving(self) -> Iterator[None]:
        """The loop stands still for a checkpoint inside; what is written in the background does not count."""
        start = time.monotonic()
        yield
        self.checkpoint_seconds += time.monotonic() - start

    def process_seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self.start

    def seconds(self) -> float:
        """Since the very first start; pauses between processes are not counted."""
        return self.before + self.process_seconds()
