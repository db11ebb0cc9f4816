"""Shows a run on one terminal screen: curves of loss and score, speed, remaining time, the latest sample."""

import math
import sys
import time
from collections import deque
from types import TracebackType

import plotext
from rich.cells import cell_len
from rich.console import Console, Group
from rich.layout import Layout
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from experiments.history import SAMPLE, Row, minutes, read_metrics
from experiments.streams import visible
from experiments.task import score_in
from experiments.workdir import WorkDir
from transformer.config import Experiment, UserError
from transformer.loss import least_loss

Titles = tuple[str, ...]
"""Possible titles of a panel, longest first."""

LINES = 200
"""Number of the latest log lines that are printed when the screen closes."""

WORDS = 8
"""Maximum number of rows for the sample and the latest log lines."""

CURVES = 5
"""Minimum height, in rows, of a panel with a curve: its frame, an axis, and two rows for the curve."""


LOSSES = ("loss", "dev_loss")
"""Metrics whose curve does not begin at 0."""


def has_screen() -> bool:
    """Returns whether standard output is a terminal that can redraw a screen in place."""
    return sys.stdout.isatty() and not Console().is_dumb_terminal


class Screen:
    """Context manager that shows the run in the terminal; on exit it prints the latest log lines."""

    def __init__(self, run: WorkDir, experiment: Experiment):
        self.run, self.experiment = run, experiment
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
        """Adds a log line, shown below the curves."""
        self.lines.append(text)

    def picture(self) -> Layout:
        """Lays out the whole screen from the current contents of metrics.jsonl."""
        width, height = self.console.size
        rows: list[Row] | None = None
        try:
            rows = read_metrics(self.run.metrics)
            words = self.words(rows, max(2, min(WORDS, height // 4 - 2)))
        except UserError as error:
            words = [Text(str(error))]
        numbers = numbers_of(rows or [], self.experiment, width - 4)
        top, below = 2 + 2 * len(numbers.renderables), 2 + len(words)
        tall = height - top - below if rows is not None else 0  # metrics that cannot be read have no curves
        parts = Layout()
        parts.split_column(
            Layout(Panel(numbers, title=fitting((visible(str(self.run.path)), self.run.path.name), width)), size=top),
            Layout(name="curves", visible=tall >= CURVES),
            Layout(Panel(Group(*words)), size=below if tall >= CURVES else None, visible=height - top >= 3),
        )
        wide = [width // 3, width // 3, width - 2 * (width // 3)]
        parts["curves"].split_row(
            *(
                Layout(Panel(plot, title=fitting(titles, size), padding=0), size=size)
                for size, (titles, plot) in zip(wide, self.plots(rows or [], wide[0] - 2, tall - 2), strict=True)
            )
        )
        return parts

    def plots(self, rows: list[Row], width: int, height: int) -> list[tuple[Titles, Text]]:
        """Returns three plots with their possible titles.

        Training and validation loss are not comparable, since only one is smoothed, so no plot shows both.
        """
        train = self.experiment.train
        first, valid = (min(every, train.steps) for every in (train.log_every, train.eval_every))
        loss: Titles = ("training loss", "training")
        if train.label_smoothing and train.loss == "cross_entropy":
            at_best = least_loss(train.label_smoothing, self.experiment.model.vocab_size)
            loss = (
                f"training loss, label-smoothed ({at_best:.2f} at best), nats per target token",
                f"training loss, smoothed ({at_best:.2f} at best)",
                "training loss, smoothed",
                "train loss, smoothed",
                *loss,
            )
        dev = ("validation loss, not smoothed, nats per target token", "validation loss, not smoothed")
        name, metric = score_in(rows, self.experiment.data)
        of_score = (
            f"{metric} of some validation sentences, greedy",
            f"validation {metric}, greedy",
            f"{metric}, greedy",
            metric,
        )
        return [
            (loss, plot(rows, "loss", train.steps, first, width, height)),
            ((*dev, "validation loss", "validation"), plot(rows, "dev_loss", train.steps, valid, width, height)),
            (of_score, plot(rows, name, train.steps, valid, width, height)),
        ]

    def words(self, rows: list[Row], most: int) -> list[Text]:
        """Returns the latest sample and the latest log lines: between 1 and `most` lines of text."""
        sample = newest(rows, "output")
        said = [Text(visible(f"{name:9}  {sample[name]}"), no_wrap=True) for name in SAMPLE if name in sample]
        if not said:
            train = self.experiment.train
            when = min(train.eval_every, train.steps)
            said = [Text(f"no sample yet: first after step {when:,}", style="dim", no_wrap=True)]
        last = [text for text in self.lines if not text.startswith(" ")]  # without the samples, which are shown above
        room = max(0, most - len(said))
        return [*said[:most], *(Text(line, style="dim", no_wrap=True) for line in last[len(last) - room :])]


def fitting(titles: Titles, width: int) -> str:
    """Returns the first title that fits on a panel of this width, or "" if none does."""
    return next((title for title in titles if cell_len(title) <= width - 6), "")


def numbers_of(rows: list[Row], experiment: Experiment, width: int) -> Group:
    """Returns the progress, speed and quality of a run, in as many rows as the width requires."""
    of_score, metric = score_in(rows, experiment.data)
    train, dev, scored = (newest(rows, name) for name in ("loss", "dev_loss", of_score))
    skipped = sum(row.get("skipped") or 0 for row in rows)
    cells = [
        ("step", f"{train.get('step', 0):,} of {experiment.train.steps:,}"),
        ("tokens/s", shown(train.get("tokens_per_second"), ",.0f")),
        ("left", minutes(train["seconds_left"]) if train.get("seconds_left") is not None else "-"),
        ("skipped steps", f"{skipped:.0f}"),
        ("training loss", shown(train.get("loss"), ".4f")),
        ("validation loss", shown(dev.get("dev_loss"), ".4f")),
        ("perplexity", shown(dev.get("dev_ppl"), ".2f")),
        (metric, shown(scored.get(of_score), ".2f")),
    ]
    tables = []
    for row in broken(cells, width):
        table = Table.grid(expand=True, padding=(0, 1))
        for cell in row:
            table.add_column(no_wrap=True, min_width=max(map(len, cell)))
        table.add_row(*(Text(name, style="dim") for name, _ in row))
        table.add_row(*(Text(value, style="bold") for _, value in row))
        tables.append(table)
    return Group(*tables)


def broken(cells: list[tuple[str, str]], width: int) -> list[list[tuple[str, str]]]:
    """Splits cells into the fewest rows of equal length that fit the width."""
    for count in (8, 4, 2):
        rows = [cells[start : start + count] for start in range(0, len(cells), count)]
        if all(sum(1 + max(map(len, cell)) for cell in row) <= width for row in rows):
            return rows
    return [[cell] for cell in cells]


def newest(rows: list[Row], name: str) -> Row:
    """Returns the last row that has a value of this name, or an empty row."""
    return next((row for row in reversed(rows) if name in row), {})


def shown(value: float | None, form: str) -> str:
    """Formats a number, or returns a dash for None."""
    return "-" if value is None else format(value, form)


def plot(rows: list[Row], name: str, steps: int, first: int, width: int, height: int) -> Text:
    """Plots one metric over the steps, with characters. Its first value is expected after step `first`."""
    found = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if not found:
        return Text(f"none yet: first after step {first:,}", style="dim")
    if width < 10 or height < 3:
        return Text("too small", style="dim")
    # An earlier process may have trained beyond the current number of steps.
    end = max(steps, *(row["step"] for row in rows))
    values = [value for _, value in found]
    low, high, marks = ticks(min(values if name in LOSSES else [0.0, *values]), max(values), height - 2)
    across = round_step(end / max(2, width // 10))
    while across % 1:
        across = round_step(across * 1.01)
    plotext.clf()
    plotext.limit_size(False, False)  # the panel's size is given; plotext only knows that of the terminal
    plotext.plotsize(width, height)
    plotext.theme("clear")
    plotext.xaxes(True, False)  # the box has a frame
    plotext.yaxes(True, False)
    plotext.xlim(0, end)
    plotext.ylim(low, high)
    plotext.yticks(marks, list(marks.values()))
    steps_shown = [int(across * i) for i in range(int(end / across) + 1)]
    plotext.xticks(steps_shown, [f"{step:,}" for step in steps_shown])
    if name == "loss":
        plotext.plot(*zip(*found, strict=True), marker="braille")
    else:  # few values: show each as a point
        plotext.scatter(*zip(*found, strict=True), marker="o")
    return Text.from_ansi(plotext.build())


def ticks(low: float, high: float, rows: int) -> tuple[float, float, dict[float, str]]:
    """Returns the limits of an axis with this many rows of characters, and its labels by value.

    plotext puts a label next to the row nearest to its value. Here the distance of two labels is a whole number of
    rows, so that each label is the exact value of its row. Among the possible scales, the largest that shows all values
    is chosen.
    """
    if high <= low:
        high = low + (abs(low) / 2 or 1.0)
    found = []
    for every in range(math.ceil(rows / 8), max(1, rows // 2) + 1):
        label = round_step((high - low) / max(1, rows - 1) * every)
        while math.floor(low / label * every) + rows - 1 < high / label * every - 1e-9:
            label = round_step(label * 1.01)
        found.append((label / every, every, label))
    step, every, label = min(found)
    first = math.floor(low / step)
    decimals = next(n for n in range(12) if math.isclose(round(label, n), label) or n == 11)
    marked = {i * step: i // every * label for i in range(first, first + rows) if i % every == 0}
    return first * step, (first + rows - 1) * step, {at: f"{value:.{decimals}f}" for at, value in marked.items()}


def round_step(least: float) -> float:
    """Returns the smallest round number (1, 2, 2.5 or 5 times a power of ten) that is at least `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in (1, 2, 2.5, 5, 10) if power * digit >= least * (1 - 1e-9))


def watch(run: WorkDir) -> None:
    """Shows a run that another process trains, until Ctrl-C. Outside a terminal, prints its latest numbers once.

    UserError when the run is deleted.
    """
    screen = Screen(run, run.experiment())
    if not has_screen():
        screen.console.print(numbers_of(read_metrics(run.metrics), screen.experiment, screen.console.width))
        return
    with screen:
        try:
            while run.config.exists():
                time.sleep(1)
        except KeyboardInterrupt:
            return
    raise UserError(f"{run.path} is gone")
