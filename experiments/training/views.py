"""Views of a run: TensorBoard, a notebook, Weights & Biases. For the terminal, see experiments/training/screen.py.

All of them show the rows of metrics.jsonl, and therefore the same numbers.
"""

import math
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from experiments.history import Row, read_metrics
from experiments.workdir import WorkDir, write_whole
from transformer.config import Experiment, UserError
from transformer.processes import is_first

if TYPE_CHECKING:
    from IPython.display import Markdown


class TensorBoard:
    """Event files in the work directory. A run that is resumed continues its curves."""

    def __init__(self, run: WorkDir, step: int):
        if is_first():
            from tensorboardX import SummaryWriter  # here, since plans and benchmarks do not need it

            self.writer = SummaryWriter(str(run.path), purge_step=step + 1)

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if isinstance(value, str):
                self.writer.add_text(name, value, row["step"])
            elif value is not None and name != "step":
                self.writer.add_scalar(name, value, row["step"])

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run in a project of Weights & Biases; a resumed run continues it. UserError unless `wandb` is installed.

    It begins with the first row: a run that is refused before, for its text or settings, leaves nothing there or here.
    """

    def __init__(self, run: WorkDir, experiment: Experiment, project: str):
        try:
            import wandb
        except ImportError as error:
            raise UserError("--wandb needs the package wandb: pip install wandb") from error
        self.run, self.experiment, self.project = run, experiment, project
        self.begin: Any = wandb.init
        self.board: Any = None

    def write(self, row: Row) -> None:
        if self.board is None:
            name = self.run.path / "wandb.id"
            if not name.exists():
                write_whole(name, uuid.uuid4().hex.encode())
            self.board = self.begin(
                project=self.project,
                dir=self.run.path,
                id=name.read_text(),
                name=self.run.path.name,
                config=asdict(self.experiment),
                resume="allow",
            )
        shown = {name: value for name, value in row.items() if name != "step" and value is not None}
        self.board.log(shown, step=row["step"])

    def close(self) -> None:
        if self.board is not None:
            self.board.finish()


class Notebook:
    """Curves below the cell that trains, redrawn in place.

    Args:
        every: seconds between two updates.
    """

    def __init__(self, run: WorkDir, every: float = 2.0):
        from IPython.display import display

        self.run, self.every = run, every
        self.drawn = -math.inf  # never: a monotonic clock may be near 0 on a machine that has just started
        self.place = display(display_id=True)

    def write(self, row: Row) -> None:
        if time.monotonic() - self.drawn > self.every:
            self.draw()

    def close(self) -> None:
        self.draw()

    def draw(self) -> None:
        """Draws the current curves."""
        import matplotlib.pyplot as plt

        from experiments.inspection.figures import curves  # here, since training itself needs no figures

        figure = curves(read_metrics(self.run.metrics), self.run.experiment())
        self.place.update(figure)
        plt.close(figure)
        self.drawn = time.monotonic()


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]]) -> "Markdown":
    """Returns a table to display below a notebook cell."""
    from IPython.display import Markdown

    lines = [columns, ["---"] * len(columns), *rows]
    return Markdown(
        "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    )
