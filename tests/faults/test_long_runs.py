"""Disk and memory use stay bounded, the curves survive restarts, and a step that hangs is reported."""

import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from experiments.history import read_metrics
from experiments.training.loop import train
from experiments.training.samples import SAMPLES
from transformer.checkpoint import saved_steps

pytestmark = pytest.mark.faults

STEPS = 20_000


def resident() -> float:
    """Returns the resident memory of this process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_nothing_grows_over_twenty_thousand_steps(victim, tmp_path, count):
    memory: list[tuple[int, float]] = []

    def log(line: str) -> None:
        if line.startswith("step ") and "/" in line:
            memory.append((int(line.split()[1].split("/")[0]), resident()))

    long = replace(
        victim,
        model=replace(victim.model, d_model=16, d_ff=16, num_heads=1),
        data=replace(victim.data, batch_tokens=128),
        train=replace(victim.train, steps=STEPS, log_every=100, eval_every=1000, keep=3),
    )
    run = train(long, tmp_path / "run", log)
    early = [megabytes for step, megabytes in memory if STEPS // 4 <= step < STEPS // 2]
    late = [megabytes for step, megabytes in memory if step >= 3 * STEPS // 4]
    assert sum(late) / len(late) - sum(early) / len(early) < 10, memory[:: len(memory) // 20]
    rows = read_metrics(run.metrics)
    assert len(rows) == STEPS // 100 + STEPS // 1000 * (2 + SAMPLES)  # validation loss, BLEU, samples
    assert all({"step_seconds", "data_seconds", "checkpoint_seconds"} <= set(row) for row in rows if "loss" in row)
    assert 3 <= len(saved_steps(run.checkpoints)) <= 4  # the newest, and the best
    count("steps without growth", STEPS)


def events(folder: Path) -> Iterator[Event]:
    """Yields all events of the TensorBoard files in a folder, in the order of the files."""
    for path in sorted(folder.glob("events.*"), key=lambda path: path.stat().st_mtime_ns):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            yield Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4


def test_tensorboard_shows_one_curve_across_restarts(victim, tmp_path, count):
    short = replace(victim, train=replace(victim.train, steps=60))

    def die_at(step: int):
        def log(line: str) -> None:
            if line.startswith(f"step {step}/"):
                raise KeyboardInterrupt

        return log

    for step in (25, 45, 50):  # at least five steps after a checkpoint: they are repeated, and logged again
        with pytest.raises(KeyboardInterrupt):
            train(short, tmp_path / "run", die_at(step))
        time.sleep(1.1)  # file names contain the time in seconds
    run = train(short, tmp_path / "run", lambda line: None)
    shown: dict[int, float] = {}
    for event in events(run.path):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            shown = {step: value for step, value in shown.items() if step < event.step}
        for value in event.summary.value:
            if value.tag == "loss":
                assert event.step not in shown, "a step is shown twice"
                shown[event.step] = value.simple_value
    rows = {row["step"]: row["loss"] for row in read_metrics(run.metrics) if "loss" in row}
    assert list(shown) == list(rows) == list(range(5, 61, 5))
    assert list(shown.values()) == pytest.approx(list(rows.values()))
    count("restarts that TensorBoard does not show", 3)


def test_a_step_that_hangs_is_reported(victim, tmp_path, count, monkeypatch):
    from experiments.training import loop as module

    def slow(batches, start, steps):
        for number in range(steps):
            if number == 20:
                time.sleep(3)
            yield batches[start + number]

    monkeypatch.setattr(module, "stream", slow)
    lines: list[str] = []
    train(replace(victim, train=replace(victim.train, steps=40)), tmp_path / "run", lines.append)
    (told,) = [line for line in lines if line.startswith("stalled")]
    assert told.endswith("waiting for data")
    count("stalls reported")
