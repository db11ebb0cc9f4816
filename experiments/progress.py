"""What a run says about itself: a line on the screen, a line in metrics.jsonl, a point in TensorBoard."""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.workdir import WorkDir, write_whole
from transformer.config import UserError
from transformer.train import Metrics


class Progress:
    """Writes numbers to metrics.jsonl and TensorBoard, and lines to the screen.

    After a resume from step n, what an earlier process wrote about later steps is dropped: those steps
    are done again.
    """

    def __init__(self, run: WorkDir, step: int, log: Callable[[str], None]):
        from tensorboardX import SummaryWriter  # here, so that plans and benchmarks do without it

        self.log = log
        kept = [json.dumps(row) for row in read_metrics(run.metrics) if row["step"] <= step]
        write_whole(run.metrics, "".join(line + "\n" for line in kept).encode())
        self.file = run.metrics.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(run.path), purge_step=step + 1)

    def write(self, step: int, **numbers: float | None) -> None:
        """One row of metrics.jsonl, and one point per number in TensorBoard."""
        numbers = {
            name: None if value is None or not math.isfinite(value) else value for name, value in numbers.items()
        }
        self.file.write(json.dumps({"step": step, **numbers}) + "\n")  # JSON has neither NaN nor infinity
        self.file.flush()
        for name, value in numbers.items():
            if value is not None:
                self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes both."""
        self.file.close()
        self.board.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl; a last line that a killed process left unfinished is left out.

    UserError names any other line that is damaged.
    """
    if not path.exists():
        return []
    lines, rows = path.read_bytes().splitlines(), []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if not (isinstance(row, dict) and isinstance(row.get("step"), int)):
                raise ValueError("no row of a run")
        except ValueError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number} is damaged ({error}): remove the line") from error
        rows.append(row)
    return rows


def perplexity(loss: float) -> float:
    """exp(loss); infinite where no float can hold it."""
    return math.exp(loss) if loss < 700 else math.inf


class Meter:
    """Loss and speed since the last reading, and what the whole run has cost so far.

    Args:
        seconds: what earlier processes of this run took.
        target_tokens: what they trained on.
    """

    def __init__(self, seconds: float, target_tokens: int):
        self.before, self.target_tokens = seconds, target_tokens
        self.start = time.monotonic()
        self.reset()

    def reset(self) -> None:
        """Starts a new reading now."""
        self.since, self.tokens = time.monotonic(), 0
        self.total: Metrics | None = None

    def add(self, metrics: Metrics, tokens: int) -> None:
        """Counts a step in, without waiting for the device to finish it."""
        self.total = metrics if self.total is None else self.total + metrics
        self.tokens += tokens
        self.target_tokens += tokens

    def read(self) -> dict[str, float | None]:
        """Loss per token, target tokens per second and skipped steps since the last reading."""
        assert self.total is not None, "nothing to read"
        loss, tokens, skipped = (float(value) for value in self.total)  # waits for the device
        # Every step of the reading skipped: there is no loss.
        per_token = loss / tokens if tokens else None
        speed = self.tokens / (time.monotonic() - self.since)
        self.reset()
        return {"loss": per_token, "tokens_per_second": speed, "skipped": skipped}

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is done inside (a validation, say) out of the reading."""
        start = time.monotonic()
        yield
        self.since += time.monotonic() - start

    def process_seconds(self) -> float:
        """Since this process began to train."""
        return time.monotonic() - self.start

    def seconds(self) -> float:
        """Since the very first start; pauses between processes are not counted."""
        return self.before + self.process_seconds()


def minutes(seconds: float) -> str:
    """1:05:09 or 5:09"""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
