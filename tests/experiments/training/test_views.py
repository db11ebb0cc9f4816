"""Views of a run: all of them show exactly the rows of metrics.jsonl."""

import io
import json
import os
import pty
import shutil
import subprocess
import sys
import types
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from rich.console import Console

from experiments import find
from experiments.cli.main import main
from experiments.history import read_metrics
from experiments.inspection.figures import curves
from experiments.training.loop import train
from experiments.training.progress import Progress
from experiments.training.screen import Screen, has_screen, watch
from experiments.training.views import Notebook, TensorBoard, WeightsAndBiases
from experiments.workdir import WorkDir
from tests.experiments.launching import ROOT, command
from transformer.config import UserError
from transformer.loss import least_loss

FORTY = replace(find("demo"), train=replace(find("demo").train, steps=40, log_every=20))


class Rows:
    """A view that records its calls."""

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


@pytest.mark.slow
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
    screen = Screen(run, FORTY)
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
        lines = printed(Screen(shown, FORTY), *size).splitlines()
        assert max(map(len, lines)) <= size[0] and len(lines) <= size[1]


def test_a_damaged_line_is_said_on_the_screen(tmp_path):
    run = WorkDir(tmp_path)
    run.metrics.write_text('{"step": 1, "loss": 2.0}\nnothing\n{"step": 2, "loss": 1.0}\n')
    assert "line 2" in printed(Screen(run, FORTY), 140, 40)


def of_rows(folder, *rows) -> Screen:
    run = WorkDir(folder)
    folder.mkdir(exist_ok=True)
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Screen(run, FORTY)


def test_a_row_that_no_run_writes_is_said_too(tmp_path):
    screen = of_rows(tmp_path, {"step": 1, "loss": "high"}, {"step": 2, "loss": 1.0})
    screen.line("it was said before")
    assert "line 1 is damaged" in printed(screen, 80, 24)
    of_rows(tmp_path, {"step": 2, "loss": 1.0})
    assert "it was said before" in printed(screen, 80, 24)  # after the repair, everything is shown again


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


def test_the_score_of_another_task_has_its_name(tmp_path):
    dev = {"step": 20, "dev_loss": 1.5, "dev_ppl": 4.48}
    for row, metric in (({"dev_f1": 91.25}, "F1"), ({"dev_accuracy": 91.25}, "accuracy")):
        rows = [dev, {"step": 20} | row]
        text = printed(of_rows(tmp_path, *rows), 200, 30)
        assert "91.25" in text and f"{metric} of some validation" in text and "BLEU" not in text
        figure = curves(rows, FORTY)
        (axis,) = (axis for axis in figure.axes if axis.get_ylabel() == metric)
        assert axis.lines[0].get_ydata().tolist() == [91.25]
        plt.close(figure)
    parsing = replace(FORTY, data=replace(FORTY.data, task="parsing"))
    assert [axis.get_ylabel() for axis in curves([], parsing).axes].count("F1") == 1


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
    watch(run)  # only once
    assert "40 of 40" in capsys.readouterr().out


def test_a_run_that_is_removed_is_watched_no_longer(run, tmp_path, monkeypatch):
    shutil.copytree(run.path, tmp_path / "run")
    monkeypatch.setattr("experiments.training.screen.has_screen", lambda: True)
    monkeypatch.setattr("time.sleep", lambda seconds: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(UserError, match="is gone"):
        watch(WorkDir(tmp_path / "run"))


def axes_of(lines):
    """Returns the lines of each panel with a curve, without its frame."""
    top = next(i for i, line in enumerate(lines) if line.count("╭") == 3)
    bottom = next(i for i, line in enumerate(lines) if i > top and line.count("╰") == 3)
    return list(zip(*(line[1:-1].split("││") for line in lines[top + 1 : bottom]), strict=True))


def labels_of(box):
    """Returns the labels of rows and of columns, by their position."""
    marked = {row: float(line.split("┤")[0]) for row, line in enumerate(box) if "┤" in line}
    frame, words = box[-2], [word.replace(",", "") for word in box[-1].split()]
    return marked, dict(zip((column for column, c in enumerate(frame) if c == "┬"), map(int, words), strict=True))


def along(labels):
    """Returns the function from position to value that the first and last label define, and its step."""
    (first, low), (last, high) = min(labels.items()), max(labels.items())
    each = (high - low) / (last - first)
    return lambda place: low + (place - first) * each, abs(each)


SIZES = [(60, 16), (60, 50), (80, 24), (100, 16), (100, 24), (120, 24), (120, 50), (200, 16), (200, 24), (200, 50)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "values", [(4.41, 0.19, 0.53), (0.0, 100.0, 42.7), (312.0, 311.5, 309.0), (7e-4, 2e-4)], ids=str
)
def test_labels_stand_where_the_values_are(tmp_path, size, values):
    steps = [10 * (i + 1) for i in range(len(values))]
    rows = [{"step": s, "loss": v, "dev_loss": v, "dev_bleu": v} for s, v in zip(steps, values, strict=True)]
    for name, box in zip(
        ("loss", "dev", "bleu"), axes_of(printed(of_rows(tmp_path, *rows), *size).splitlines()), strict=True
    ):
        down, across = labels_of(box)
        value_of, row = along(down)
        assert len(down) >= 2 and max(values) > 0.4 * value_of(0)  # the values fill the panel
        for place, label in down.items():
            assert label == pytest.approx(value_of(place), abs=1e-9)
        step_of, column = along(across)
        found = [(r, c) for r, line in enumerate(box[:-2]) for c, mark in enumerate(line) if mark == "o"]
        assert name == "loss" or found
        for r, c in found:
            assert any(
                abs(value_of(r) - v) <= 0.51 * row and abs(step_of(c) - s) <= 1.01 * column
                for s, v in zip(steps, values, strict=True)
            ), (r, c)
        ink = [r for r, line in enumerate(box[:-2]) if any("⠀" < mark <= "⣿" for mark in line)]
        if name == "loss":  # with four dots per row, the curve stays in the rows of its values
            assert value_of(min(ink)) >= max(values) - 1.01 * row and value_of(max(ink)) <= min(values) + 1.01 * row


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_title_and_no_number_is_cut(tmp_path, width):
    row = {"step": 100_000, "loss": 4.12344, "tokens_per_second": 1_025_123.4, "seconds_left": 39_642.0}
    screen = of_rows(tmp_path / ("a" * 40), row, {"step": 100_000, "dev_loss": 4.5678, "dev_ppl": 96.254})
    screen.experiment = replace(FORTY, train=replace(FORTY.train, steps=100_000))
    text = printed(screen, width, 50)
    assert "…" not in text and "100,000 of 100,000" in text and "validation loss" in text
    titles = [line.strip("╭╮") for line in text.splitlines() if "╭" in line]
    known = {title for titles, _ in screen.plots([], 100, 20) for title in titles} | {screen.run.path.name, ""}
    for title in (part.strip("─╭╮ ") for line in titles for part in line.split("╮╭")):
        assert title in known or title == str(screen.run.path)


def test_no_box_is_empty_before_the_first_validation(tmp_path):
    for rows in ([], [{"step": 10, "loss": 3.0}]):
        text = printed(of_rows(tmp_path, *rows), 120, 24)
        assert text.count("none yet: first after step 40") == 2  # eval_every exceeds the number of steps
        assert "no sample yet: first after step 40" in text
        assert ("none yet: first after step 20" in text) == (not rows)


def test_the_latest_lines_stand_below_the_sample_where_there_is_room(tmp_path):
    sample = {"step": 1, "source": "a cat", "output": "eine Katze", "reference": "die Katze"}
    screen = of_rows(tmp_path, sample)
    for number in range(20):
        screen.line(f"line {number}")
    text = printed(screen, 80, 24)
    assert "a cat" in text and "line 19" in text and "line 18" not in text
    text = printed(screen, 80, 50)
    assert "a cat" in text and "line 15" in text and "line 14" not in text


def curve_of(figure, title):
    (axis,) = (axis for axis in figure.axes if axis.get_title().startswith(title))
    return list(axis.lines[-1].get_ydata())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_axis_has_a_smoothed_loss_beside_one_that_is_not(run, smoothing):
    experiment = replace(FORTY, train=replace(FORTY.train, label_smoothing=smoothing))
    rows = read_metrics(run.metrics)
    figure = curves(rows, experiment)
    training, validation = (axis for axis in figure.axes if "loss" in axis.get_title())
    assert curve_of(figure, "Training") == [row["loss"] for row in rows if "loss" in row]
    assert curve_of(figure, "Validation") == [row["dev_loss"] for row in rows if "dev_loss" in row]
    assert ("label-smoothed" in training.get_title()) == (len(training.lines) == 2) == bool(smoothing)
    assert len(validation.lines) == 1 and "not smoothed" in validation.get_title()
    if smoothing:
        assert training.lines[0].get_ydata()[0] == least_loss(smoothing, experiment.model.vocab_size)
    plt.close(figure)
    titles = [title for titles, _ in Screen(run, experiment).plots(rows, 60, 20) for title in titles]
    assert any("smoothed (" in title for title in titles) == bool(smoothing)


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
    assert "\x1b[?1049h" in shown and "validation loss" in shown
    assert "step 10/10" in after and "checkpoints" in after


def test_watching_without_a_terminal_prints_the_numbers_once(run, capsys):
    main(["watch", str(run.path)])
    assert "40 of 40" in capsys.readouterr().out


@pytest.mark.parametrize("uptime", [0.0, 60.0, 1e9])
def test_a_notebook_draws_in_one_place(run, monkeypatch, uptime):
    monkeypatch.setattr("time.monotonic", lambda: uptime)  # time since boot, if the clock counts that
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
    assert curve_of(drawn[-1], "Training") == [row["loss"] for row in read_metrics(run.metrics) if "loss" in row]


def test_weights_and_biases_gets_the_same_rows_and_goes_on_with_the_same_run(micro, tmp_path, monkeypatch):
    begun, logged = [], []
    board = types.SimpleNamespace(log=lambda row, step: logged.append({"step": step, **row}), finish=lambda: None)
    module = types.SimpleNamespace(init=lambda **given: begun.append(given) or board)
    monkeypatch.setitem(sys.modules, "wandb", module)
    run = WorkDir(tmp_path / "run")
    WeightsAndBiases(run, micro, "project").close()
    assert not begun and not run.path.exists()  # a run that is refused before its first row leaves nothing
    run.path.mkdir()
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
