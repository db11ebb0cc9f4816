"""Where a run can be watched: TensorBoard, a notebook, Weights & Biases. In a terminal: experiments/training/screen.py.

All show the rows of metrics.jsonl, so all show the same numbers.
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
    """Event files in the work directory, one curve however often the run is started again."""

    def __init__(self, run: WorkDir, step: int):
        if is_first():
            from tensorboardX import SummaryWriter  # here, so that plans and benchmarks do without it

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
    """A run of a project there, the same one after each start. UserError unless `wandb` is installed."""

    def __init__(self, run: WorkDir, experiment: Experiment, project: str):
        try:
            import wandb
        except ImportError as error:
            raise UserError("--wandb needs the package wandb: pip install wandb") from error
        run.path.mkdir(parents=True, exist_ok=True)
        name = run.path / "wandb.id"
        if not name.exists():
            write_whole(name, uuid.uuid4().hex.encode())
        self.board: Any = wandb.init(
            project=project,
            dir=run.path,
            id=name.read_text(),
            name=run.path.name,
            config=asdict(experiment),
            resume="allow",
        )

    def write(self, row: Row) -> None:
        shown = {name: value for name, value in row.items() if name != "step" and value is not None}
        self.board.log(shown, step=row["step"])

    def close(self) -> None:
        self.board.finish()


class Notebook:
    """Curves and the last sample below the cell that trains, drawn anew in their place.

    Args:
        every: seconds between two drawings.
    """

    def __init__(self, run: WorkDir, every: float = 2.0):
        from IPython.display import display

        self.run, self.every = run, every
        self.drawn = -math.inf  # never; a monotonic clock may be near 0, on a machine that has just been started
        self.place = display(display_id=True)

    def write(self, row: Row) -> None:
        if time.monotonic() - self.drawn > self.every:
            self.draw()

    def close(self) -> None:
        self.draw()

    def draw(self) -> None:
        """Draws what there is."""
        import matplotlib.pyplot as plt

        from experiments.inspection.figures import curves  # here: training alone needs no pictures

        figure = curves(read_metrics(self.run.metrics), self.run.experiment())
        self.place.update(figure)
        plt.close(figure)
        self.drawn = time.monotonic()


def table(columns: Sequence[Any], rows: Iterable[Sequence[Any]]) -> "Markdown":
    """Cells as a table below a notebook's cell."""
    from IPython.display import Markdown

    lines = [columns, ["---"] * len(columns), *rows]
    return Markdown(
        "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
    )
