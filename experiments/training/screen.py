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

from experiments.history import SAMPLE, Row, minutes, read_metrics
from experiments.streams import visible
from experiments.workdir import WorkDir
from transformer.config import Experiment, UserError

LINES = 200
"""So many of the latest lines are printed when the screen is left."""

NARROW = 100
"""Columns below which the numbers stand in two rows."""

WORDS = 10
"""Rows of the part for the sample and the latest lines."""


def has_screen() -> bool:
    """Whether standard output is a terminal that can show one screen in place."""
    return sys.stdout.isatty() and not Console().is_dumb_terminal


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
        rows: list[Row] = []
        words = Group()
        try:
            rows = read_metrics(self.run.metrics)
            words = self.words(rows)
        except UserError as error:
            words = Group(Text(str(error)))
        width, height = self.console.size
        numbers = numbers_of(rows, self.steps, width)
        top = 2 + 2 * len(numbers.renderables)
        parts = Layout()
        parts.split_column(
            Layout(Panel(numbers, title=str(self.run.path)), size=top),
            Layout(name="curves"),
            Layout(Panel(words), size=WORDS),
        )
        half, tall = (width // 2) - 4, max(4, height - top - WORDS - 2)
        loss = plot(rows, "loss", "dev_loss", self.steps, half, tall)
        bleu = plot(rows, None, "dev_bleu", self.steps, half, tall)
        parts["curves"].split_row(
            Layout(Panel(loss, title="loss, nats per target token (o validation)")),
            Layout(Panel(bleu, title="BLEU of some validation sentences, greedy")),
        )
        return parts

    def words(self, rows: list[Row]) -> Group:
        """The last sample, and the last lines."""
        sample = newest(rows, "output")
        said = [Text(visible(f"{name:9}  {sample[name]}"), no_wrap=True) for name in SAMPLE if name in sample]
        last = [text for text in self.lines if not text.startswith(" ")][len(said) + 2 - WORDS :]  # samples stand above
        return Group(*said, *(Text(line, style="dim", no_wrap=True) for line in last))


def numbers_of(rows: list[Row], steps: int, width: int) -> Group:
    """How far the run is, how fast, and how good: in one row of a terminal that is wide, or in two."""
    train, dev, bleu = (newest(rows, name) for name in ("loss", "dev_loss", "dev_bleu"))
    skipped = sum(row.get("skipped") or 0 for row in rows)
    cells = [
        ("step", f"{train.get('step', 0):,} of {steps:,}"),
        ("tokens/s", shown(train.get("tokens_per_second"), ",.0f")),
        ("left", minutes(train["seconds_left"]) if train.get("seconds_left") is not None else "-"),
        ("skipped steps", f"{skipped:.0f}"),
        ("loss", shown(train.get("loss"), ".4f")),
        ("validation", shown(dev.get("dev_loss"), ".4f")),
        ("perplexity", shown(dev.get("dev_ppl"), ".2f")),
        ("BLEU", shown(bleu.get("dev_bleu"), ".2f")),
    ]
    tables = []
    for row in (cells[:4], cells[4:]) if width < NARROW else (cells,):
        table = Table.grid(expand=True, padding=(0, 1))
        for _ in row:
            table.add_column(no_wrap=True, ratio=1)
        table.add_row(*(Text(name, style="dim") for name, _ in row))
        table.add_row(*(Text(value, style="bold") for _, value in row))
        tables.append(table)
    return Group(*tables)


def newest(rows: list[Row], name: str) -> Row:
    """The last row that has it; an empty one where none does."""
    return next((row for row in reversed(rows) if name in row), {})


def shown(value: float | None, form: str) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else format(value, form)


def plot(rows: list[Row], line: str | None, points: str, steps: int, width: int, height: int) -> Text:
    """Numbers of the rows over the steps, drawn with characters: one name's as a line, one's as points."""
    plotext.clf()
    plotext.plotsize(width, height)
    plotext.theme("clear")
    # A run may have gone on beyond the steps that it has now.
    plotext.xlim(0, max(steps, *(row["step"] for row in rows)) if rows else steps)
    drawn = False
    for name, draw, marker in ((line, plotext.plot, "braille"), (points, plotext.scatter, "o")):
        found = [(row["step"], row[name]) for row in rows if name and row.get(name) is not None]
        if found:
            drawn = True
            draw(*zip(*found, strict=True), marker=marker)
    return Text.from_ansi(plotext.build()) if drawn else Text("nothing yet", style="dim")


def watch(run: WorkDir) -> None:
    """Shows a run that another process trains, until Ctrl-C. Not in a terminal: its last numbers, once.

    UserError once the run is gone.
    """
    screen = Screen(run, Experiment.from_dict(run.settings()).train.steps)
    if not has_screen():
        screen.console.print(numbers_of(read_metrics(run.metrics), screen.steps, screen.console.width))
        return
    with screen:
        try:
            while run.config.exists():
                time.sleep(1)
        except KeyboardInterrupt:
            return
    raise UserError(f"{run.path} is gone")
