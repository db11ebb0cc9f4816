"""Where a run can be watched: all show the rows of metrics.jsonl, and nothing else."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import types
from dataclasses import replace

import pytest
from rich.console import Console

from experiments.cli.main import main
from experiments.history import read_metrics
from experiments.training.loop import train
from experiments.training.progress import Progress
from experiments.training.screen import Screen, has_screen, watch
from experiments.training.views import Notebook, TensorBoard, WeightsAndBiases
from experiments.workdir import WorkDir
from tests.experiments.launching import ROOT, command
from transformer.config import UserError


class Rows:
    """A view that remembers."""

    def __init__(self):
        self.rows, self.closed = [], 0

    def write(self, row):
        self.rows.append(row)

    def close(self):
        self.closed += 1


def printed(screen: Screen, width: int, height: int) -> str:
    screen.console = Console(width=width, height=height, record=True, file=io.StringIO())
    screen.console.print(screen.picture())
    return screen.console.export_text()


def test_every_view_gets_the_rows_of_metrics_jsonl(micro, tmp_path):
    view = Rows()
    run = train(replace(micro, train=replace(micro.train, steps=10)), tmp_path / "run", lambda line: None, [view])
    assert view.rows == read_metrics(run.metrics) and view.closed == 1
    names = {name for row in view.rows for name in row}
    assert {"loss", "tokens_per_second", "seconds_left", "skipped", "dev_loss", "dev_bleu", "output"} <= names


def test_tensorboard_has_them(tmp_path):
    run = WorkDir(tmp_path)
    progress = Progress(run, 0, print, [TensorBoard(run, 0)])
    progress.write(3, loss=0.5, skipped=None)
    progress.write(3, source="a", output="b", reference="c")
    progress.close()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("events.*"))
    assert b"loss" in content and b"output" in content and b"skipped" not in content


def test_the_screen_shows_numbers_curves_and_the_last_sample(run):
    screen = Screen(run, steps=40)
    screen.line("something was said")
    text = printed(screen, 140, 40)
    rows = read_metrics(run.metrics)
    last = [row for row in rows if "loss" in row][-1]
    sample = [row for row in rows if "output" in row][-1]
    for expected in ("40 of 40", f"{last['loss']:.4f}", f"{last['tokens_per_second']:,.0f}", sample["source"]):
        assert expected in text
    assert "validation" in text and "BLEU" in text and "something was said" in text


@pytest.mark.parametrize("size", [(20, 8), (80, 24), (400, 100)], ids=str)
def test_the_screen_fits_any_terminal(run, tmp_path, size):
    for shown in (run, WorkDir(tmp_path / "not begun")):
        lines = printed(Screen(shown, steps=40), *size).splitlines()
        assert max(map(len, lines)) <= size[0] and len(lines) <= size[1]


def test_a_damaged_line_is_said_on_the_screen(tmp_path):
    run = WorkDir(tmp_path)
    run.metrics.write_text('{"step": 1, "loss": 2.0}\nnothing\n{"step": 2, "loss": 1.0}\n')
    assert "line 2" in printed(Screen(run, steps=40), 140, 40)


def of_rows(folder, *rows) -> Screen:
    run = WorkDir(folder)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Screen(run, steps=40)


def test_a_row_that_no_run_writes_is_said_too(tmp_path):
    screen = of_rows(tmp_path, {"step": 1, "loss": "high"}, {"step": 2, "loss": 1.0})
    screen.line("it was said before")
    assert "line 1 is damaged" in printed(screen, 80, 24)
    of_rows(tmp_path, {"step": 2, "loss": 1.0})
    assert "it was said before" in printed(screen, 80, 24)  # mended: all is as it was


def test_a_run_may_stand_beyond_the_steps_that_it_has_now(tmp_path):
    screen = of_rows(tmp_path, *({"step": step, "loss": 3.0, "dev_bleu": 1.0} for step in (3000, 4000)))
    assert "4,000 of 40" in printed(screen, 100, 30)


@pytest.mark.parametrize("width", [80, 100, 140])
def test_numbers_stand_apart(tmp_path, width):
    row = {"step": 12_300, "loss": 4.12344, "tokens_per_second": 25_123.4, "seconds_left": 39_642.0}
    dev = {"step": 12_300, "dev_loss": 4.5678, "dev_ppl": 96.254}
    words = printed(of_rows(tmp_path, row, dev, {"step": 12_300, "dev_bleu": 100.0}), width, 30).split()
    for expected in ("perplexity", "BLEU", "skipped", "25,123", "11:00:42", "4.1234", "4.5678", "96.25", "100.00"):
        assert expected in words


def test_a_sample_gives_the_terminal_no_orders(tmp_path):
    sample = {"step": 1, "source": "a\x1b[31mred\x1b[2J", "output": "one\ntwo", "reference": "\u202eturned"}
    text = printed(of_rows(tmp_path, sample), 100, 30)
    assert not set("\x1b\u202e") & set(text)
    assert r"a\x1b[31mred" in text and r"one\ntwo" in text and r"\u202eturned" in text


def test_a_terminal_that_cannot_go_back_gets_lines(run, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for name, shown in (("xterm", True), ("dumb", False)):
        monkeypatch.setenv("TERM", name)
        assert has_screen() is shown
    watch(run)  # once, and not for ever
    assert "40 of 40" in capsys.readouterr().out


def test_a_run_that_is_removed_is_watched_no_longer(run, tmp_path, monkeypatch):
    shutil.copytree(run.path, tmp_path / "run")
    monkeypatch.setattr("experiments.training.screen.has_screen", lambda: True)
    monkeypatch.setattr("time.sleep", lambda seconds: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(UserError, match="is gone"):
        watch(WorkDir(tmp_path / "run"))


@pytest.mark.slow
def test_training_in_a_terminal_shows_the_screen_and_leaves_the_lines(micro, tmp_path):
    short = replace(micro, train=replace(micro.train, steps=10))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command(short, tmp_path / "run"), cwd=ROOT, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    output = b""
    while True:
        try:
            content = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        output += content
    assert process.wait() == 0, output
    text = output.decode()
    shown, after = text.split("\x1b[?1049l")  # the screen is left
    assert "\x1b[?1049h" in shown and "nats per target token" in shown
    assert "step 10/10" in after and "checkpoints" in after


def test_watching_without_a_terminal_prints_the_numbers_once(run, capsys):
    main(["watch", str(run.path)])
    assert "40 of 40" in capsys.readouterr().out


@pytest.mark.parametrize("uptime", [0.0, 60.0, 1e9])
def test_a_notebook_draws_in_one_place(run, monkeypatch, uptime):
    monkeypatch.setattr("time.monotonic", lambda: uptime)  # since the machine was started, where it is so
    display = pytest.importorskip("IPython.display")
    drawn = []
    place = types.SimpleNamespace(update=drawn.append)
    monkeypatch.setattr(display, "display", lambda display_id: place)
    view = Notebook(run, every=3600.0)
    for row in read_metrics(run.metrics):
        view.write(row)
    assert len(drawn) == 1  # at once, and not more often than asked
    view.close()
    assert len(drawn) == 2
    left, middle, right = drawn[-1].axes
    losses = [row["loss"] for row in read_metrics(run.metrics) if "loss" in row]
    assert list(left.lines[0].get_ydata()) == losses and len(middle.lines) == len(right.lines) == 1


def test_weights_and_biases_gets_the_same_rows_and_goes_on_with_the_same_run(micro, tmp_path, monkeypatch):
    begun, logged = [], []
    board = types.SimpleNamespace(log=lambda row, step: logged.append({"step": step, **row}), finish=lambda: None)
    module = types.SimpleNamespace(init=lambda **given: begun.append(given) or board)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run = WorkDir(tmp_path / "run")
    for _ in range(2):
        view = WeightsAndBiases(run, micro, "project")
        view.write({"step": 5, "loss": 1.0, "skipped": None})
        view.close()
    assert logged == [{"step": 5, "loss": 1.0}] * 2
    assert begun[0]["id"] == begun[1]["id"] and begun[0]["resume"] == "allow"
    assert json.loads(json.dumps(begun[0]["config"]))["model"]["d_model"] == 32


def test_weights_and_biases_that_is_not_installed_is_named(micro, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        WeightsAndBiases(WorkDir(tmp_path / "run"), micro, "project")
