"""A run on one screen of a terminal: curves of loss and BLEU, speed, the time that is left, the last sample."""

import sys
import time
from collections import deque
from types import TracebackType

import plotext
from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from experiments.progress import Row, minutes, read_metrics
from experiments.workdir import WorkDir
from transformer.config import UserError

LINES = 200
"""So many of the latest lines are printed when the screen is left."""


class Screen:
    """While it is entered, the terminal shows the run; afterwards, the lines that were said meanwhile."""

    def __init__(self, run: WorkDir, steps: int):
        self.run, self.steps = run, steps
        self.lines: deque[str] = deque(maxlen=LINES)
        self.console = Console()
        self.live = Live(console=self.console, screen=True, refresh_per_second=1, get_renderable=self.picture)

    def __enter__(self) -> "Screen":
        self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.live.stop()
        for line in self.lines:
            print(line)

    def line(self, text: str) -> None:
        """Says something: it is the newest line below the curves."""
        self.lines.append(text)

    def picture(self) -> Layout:
        """All of it, from what metrics.jsonl holds now."""
        try:
            rows = read_metrics(self.run.metrics)
        except UserError as error:
            rows, self.lines = [], deque([str(error)], LINES)
        width, height = self.console.size
        parts = Layout()
        bottom = 10
        parts.split_column(
            Layout(Panel(numbers_of(rows, self.steps, width - 4), title=str(self.run.path)), name="numbers", size=4),
            Layout(name="curves"),
            Layout(Panel(self.words(rows)), name="words", size=bottom),
        )
        half, tall = (width // 2) - 4, max(4, height - 4 - bottom - 2)
        loss = plot(rows, {"loss": "training", "dev_loss": "o validation"}, self.steps, half, tall)
        bleu = plot(rows, {"dev_bleu": "o BLEU"}, self.steps, half, tall)
        parts["curves"].split_row(
            Layout(Panel(loss, title="loss, nats per target token")),
            Layout(Panel(bleu, title="BLEU of some validation sentences, greedy")),
        )
        return parts

    def words(self, rows: list[Row]) -> Group:
        """The last sample, and the last lines."""
        sample = next((row for row in reversed(rows) if "output" in row), {})
        said = [Text(f"{name:9}  {sample[name]}", no_wrap=True) for name in ("source", "output", "reference") if sample]
        last = [text for text in self.lines if not text.startswith(" ")][len(said) - 8 :]  # samples stand above
        return Group(*said, *(Text(line, style="dim", no_wrap=True) for line in last))


def numbers_of(rows: list[Row], steps: int, width: int) -> Table:
    """How far the run is, how fast, and how good."""
    train = next((row for row in reversed(rows) if "loss" in row), {})
    dev = next((row for row in reversed(rows) if "dev_loss" in row), {})
    bleu = next((row for row in reversed(rows) if "dev_bleu" in row), {})
    skipped = sum(row.get("skipped") or 0 for row in rows)
    cells = {
        "step": f"{train.get('step', 0):,} of {steps:,}",
        "tokens/s": shown(train.get("tokens_per_second"), ",.0f"),
        "left": minutes(train["seconds_left"]) if train.get("seconds_left") is not None else "-",
        "loss": shown(train.get("loss"), ".4f"),
        "validation": shown(dev.get("dev_loss"), ".4f"),
        "perplexity": shown(dev.get("dev_ppl"), ".2f"),
        "BLEU": shown(bleu.get("dev_bleu"), ".2f"),
        "skipped steps": f"{skipped:.0f}",
    }
    table = Table.grid(expand=True)
    for _ in cells:
        table.add_column(no_wrap=True)
    table.add_row(*(Text(name, style="dim") for name in cells))
    table.add_row(*(Text(value, style="bold") for value in cells.values()))
    return table


def shown(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def plot(rows: list[Row], names: dict[str, str], steps: int, width: int, height: int) -> Text:
    """Curves over the steps, drawn with characters: a line, or points where the label begins with what marks one."""
    plotext.clf()
    plotext.plotsize(width, height)
    plotext.theme("clear")
    plotext.xlim(0, steps)
    drawn = False
    for name, label in names.items():
        points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
        if not points:
            continue
        drawn = True
        if label.startswith("o "):
            plotext.scatter(*zip(*points, strict=True), label=label[2:], marker="o")
        else:
            plotext.plot(*zip(*points, strict=True), label=label, marker="braille")
    return Text.from_ansi(plotext.build()) if drawn else Text("nothing yet", style="dim")


def watch(run: WorkDir) -> None:
    """Shows a run that another process trains, until Ctrl-C. Not in a terminal: its last numbers, once."""
    screen = Screen(run, run.settings()["train"]["steps"])
    if not sys.stdout.isatty():
        screen.console.print(numbers_of(read_metrics(run.metrics), screen.steps, screen.console.width))
        return
    with screen:
        while True:
            time.sleep(1)
