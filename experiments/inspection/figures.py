"""Pictures: the curves of a run, the attention of a sentence pair, and what goes with the tables."""

import math
import os
import textwrap
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np

if "MPLBACKEND" not in os.environ:  # a notebook sets it, and could not show a figure of another backend
    matplotlib.use("Agg")  # files only: no window, no display needed
import matplotlib.pyplot as plt
from matplotlib.colors import PowerNorm

from experiments.history import Row, read_metrics
from experiments.inspection.attention import AXES, pieces_of
from experiments.streams import written
from experiments.task import score_in
from experiments.translator import Attention
from experiments.workdir import WorkDir
from transformer.config import Experiment, UserError
from transformer.loss import least_loss

DPI = 120
CELL = 0.17  # inches per weight, so that each row and column can have a label of 9 points
WORDS = {
    "encoder": ("Encoder self-", "source: what looks (query)", "source: what is looked at (key)"),
    "decoder": (
        "Decoder self-",
        "target: what is predicted (query)",
        "target, shifted right: what is looked at (key)",
    ),
    "cross": ("Cross-", "target: what is predicted (query)", "source: what is looked at (key)"),
}
"""Title and axis labels of the figure of each kind of attention."""
MAX_PIXELS = 16_000  # of the longer side: matplotlib keeps several copies of the image, with 4 bytes per pixel


def draw_curves(run: WorkDir) -> Path:
    """Writes the `curves` of a run as a PNG, and returns its path."""
    return save(curves(read_metrics(run.metrics), run.experiment()), run.figures / "curves.png")


def curves(rows: list[Row], experiment: Experiment | None = None) -> plt.Figure:
    """Plots training loss, validation loss, the score of some validation sentences, and speed over the steps.

    The losses have separate axes, since they are not comparable: the training loss is label-smoothed, so that even a
    perfect model has a positive loss. The experiment gives this minimum (None: it is not shown).
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), layout="constrained", sharex=True)
    of_training, of_validation, of_score, speed = axes.flat
    score, metric = score_in(rows, experiment.data if experiment else None)
    smoothing = experiment.train.label_smoothing if experiment and experiment.train.loss == "cross_entropy" else 0.0
    of_training.set(title="Training loss" + (f", label-smoothed by {smoothing}" if smoothing else ""))
    if experiment and smoothing and any("loss" in row for row in rows):
        at_best = least_loss(smoothing, experiment.model.vocab_size)
        of_training.axhline(at_best, color="gray", linestyle="--", label=f"no model is below {at_best:.2f}")
        of_training.legend()
    of_validation.set(title="Validation loss, not smoothed")
    of_score.set(title=f"{metric} of some validation sentences, greedy", xlabel="step")
    speed.set(title="Speed", xlabel="step")
    for axis, name, style, colour, unit in (
        (of_training, "loss", "-", "tab:blue", "nats per target token"),
        (of_validation, "dev_loss", "o-", "tab:orange", "nats per target token"),
        (of_score, score, "o-", "tab:purple", metric),
        (speed, "tokens_per_second", "-", "tab:green", "target tokens per second"),
    ):
        found = [row for row in rows if row.get(name) is not None]
        values = [row[name] for row in found]
        axis.plot([row["step"] for row in found], values, style, color=colour)
        axis.set(ylabel=unit, xlim=(0, None))
        if not found:
            axis.set(xticks=[], yticks=[])
            axis.text(0.5, 0.5, "none yet", transform=axis.transAxes, ha="center", color="gray")
        elif axis in (of_score, speed):
            axis.set_ylim(min(0, *values), 1.08 * max(values) or None)
    return figure


def draw_attention(attention: Attention, path: Path, of: str = "cross") -> Path:
    """Writes the `attention_maps` of a sentence pair as a PNG, and returns its path."""
    return save(attention_maps(attention, of), path)


def attention_maps(attention: Attention, of: str = "cross") -> plt.Figure:
    """Plots encoder, decoder or cross attention: a map for every layer (rows) and head (columns).

    In cross attention, large weights off the diagonal show where the word order of the two languages differs. UserError
    if the figure would be too large.
    """
    weights = getattr(attention.weights, of)
    rows, columns = (pieces_of(attention)[axis] for axis in AXES[of])
    layers, heads = weights.shape[:2]
    most = max(len(columns) * heads, len(rows) * layers) * CELL * DPI
    if most > MAX_PIXELS:
        fit = int(MAX_PIXELS / DPI / CELL / max(layers, heads))
        longer = max(len(rows), len(columns))
        raise UserError(f"{longer} tokens are too many for a PNG of this model's heads ({fit} at most): use --html")
    width, height = (max(1.5, CELL * count) for count in (len(columns), len(rows)))
    label = 0.085 * max(map(len, rows)), 0.085 * max(map(len, columns))  # length of the longest label, in inches
    figure, axes = plt.subplots(
        layers,
        heads,
        figsize=(width * heads + label[0] + 2.2, (height + 0.3) * layers + label[1] + 1.2),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    text: dict[str, Any] = {"fontsize": 9, "parse_math": False}  # a "$" in a sentence is not math
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # square root scale, as on the page: small weights can be distinguished
    for (layer, head), axis in np.ndenumerate(axes):
        image = axis.imshow(weights[layer, head], norm=norm, cmap="viridis")
        axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=10)
        axis.set_xticks(range(len(columns)), columns, rotation=90, **text)
        axis.set_yticks(range(len(rows)), rows, **text)
        axis.label_outer(remove_inner_ticks=True)  # all maps have the same pieces
    title, queries, keys = WORDS[of]
    figure.suptitle(f"{title}attention of every head: each row sums to 1")
    figure.supylabel(queries)
    figure.supxlabel(keys)
    figure.colorbar(image, ax=axes, aspect=30, label="weight", ticks=[0, 0.05, 0.25, 0.5, 1])
    return figure


class Beside(NamedTuple):
    """The data of a figure of a table: for each row the paper's value, and ours for each seed."""

    title: str
    unit: str
    """The label of the value axis."""
    names: tuple[str, str]
    """The legend: the names of the paper's points and of ours."""
    rows: dict[str, tuple[float, list[float]]]
    base: float | None = None
    """The reference value, if there is one, drawn as a line."""


def draw_beside(picture: Beside, path: Path) -> Path:
    """Draws one point per value, and returns the path of the PNG."""
    rows = picture.rows
    figure, axis = plt.subplots(figsize=(max(6.5, 0.55 * len(rows)), 4.5), layout="constrained")
    if picture.base is not None:
        axis.axhline(picture.base, color="gray", linewidth=0.8, label="base")
    axis.plot([paper for paper, _ in rows.values()], "o", label=picture.names[0])
    points = [(place, value) for place, (_, ours) in enumerate(rows.values()) for value in ours]
    axis.plot([place for place, _ in points], [value for _, value in points], "x", label=picture.names[1])
    axis.legend()
    tilted: dict[str, Any] = {"rotation": 50, "ha": "right", "rotation_mode": "anchor"} if len(rows) > 8 else {}
    axis.set_xticks(range(len(rows)), list(rows), fontsize=9, **tilted)
    axis.grid(axis="x", alpha=0.3)  # guides the eye from a point to the name of its row
    axis.set(title=picture.title, ylabel=picture.unit)
    return save(figure, path)


class Trained(NamedTuple):
    """What a training run cost, its score, and its validations, each after a share of the run."""

    flops: float
    seconds: float
    score: float
    shares: list[float]
    scores: list[float]
    losses: list[float]


def draw_costs(runs: dict[str, list[Trained]], title: str, path: Path, target: float | None = None) -> Path:
    """Draws scores and validation losses of runs against FLOPs and seconds, a color for each name.

    Args:
        target: the score of a validation that is to be reached, if there is one.

    Returns the path of the PNG.
    """
    size = 12, 8 + 0.12 * len(runs)  # with two names in each line of the legend
    figure, axes = plt.subplots(2, 2, figsize=size, layout="constrained", sharex="col", sharey="row")
    markers = "os^vDPX*"
    for number, (name, made) in enumerate(runs.items()):
        color, marker = f"C{number % 10}", markers[number // 10 % len(markers)]
        for column, costs in enumerate(zip(*((run.flops, run.seconds) for run in made), strict=True)):
            axes[0, column].plot(
                costs, [run.score for run in made], color=color, marker=marker, linestyle="none", label=name
            )
            for cost, run in zip(costs, made, strict=True):
                for axis, values in zip(axes[:, column], (run.scores, run.losses), strict=True):
                    axis.plot(
                        [cost * share for share in run.shares],
                        values,
                        color=color,
                        marker=marker if number > 9 else "",  # a color for more than one name
                        markersize=3,
                        linewidth=1,
                    )
    if target is not None:
        for axis in axes[0]:
            axis.axhline(target, color="gray", linestyle="--", linewidth=0.8)
    axes[0, 0].set(ylabel="BLEU")
    axes[1, 0].set(xlabel="FLOPs of training", ylabel="validation loss per token, in nats")
    axes[1, 1].set(xlabel="seconds of training")
    for axis in axes.flat:
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    if runs:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, ncols=2, loc="outside lower center")
    return save(figure, path)


def draw_growth(
    lengths: list[int],
    curves: dict[str, list[float | None]],
    title: str,
    path: Path,
    unit: str = "seconds",
    note: str = "",
) -> Path:
    """Plots cost over sequence length, both logarithmic (None: unknown cost). Returns the path of the PNG."""
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, costs in curves.items():
        axis.loglog(lengths, [math.nan if cost is None else cost for cost in costs], "o-", label=name)
    axis.set(title=title, xlabel="length of the sequence, n", ylabel=unit)
    figure.supxlabel(textwrap.fill(note, 110), fontsize=8)
    axis.set_xticks(lengths, [str(n) for n in lengths])
    axis.minorticks_off()
    axis.legend()
    return save(figure, path)


def save(figure: plt.Figure, path: Path) -> Path:
    """Writes a figure as PNG, whatever the suffix of the path, and closes it."""
    path.parent.mkdir(exist_ok=True)
    picture = BytesIO()
    figure.savefig(picture, dpi=DPI, format="png")
    plt.close(figure)
    with written(path) as output:
        output.buffer.write(picture.getvalue())
    return path
