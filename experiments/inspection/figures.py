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
from experiments.translator import Attention
from experiments.workdir import WorkDir
from transformer.config import UserError

DPI = 120
MAX_PIXELS = 16_000  # along the longer side: matplotlib holds the picture as 4 bytes a pixel, several times over


def draw_curves(run: WorkDir) -> Path:
    """`curves` of a run -> the PNG's path."""
    return save(curves(read_metrics(run.metrics)), run.figures / "curves.png")


def curves(rows: list[Row]) -> plt.Figure:
    """Over the steps: training and validation loss, BLEU of some validation sentences, and the speed."""
    train, dev, bleu = ([row for row in rows if name in row] for name in ("loss", "dev_loss", "dev_bleu"))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
    left.plot([r["step"] for r in train], [r["loss"] for r in train], label="training, label-smoothed")
    left.plot([r["step"] for r in dev], [r["dev_loss"] for r in dev], "o-", label="validation, not smoothed")
    left.set(xlabel="step", ylabel="nats per target token", title="Loss")
    left.legend()
    middle.plot([r["step"] for r in bleu], [r["dev_bleu"] for r in bleu], "o-", color="tab:purple")
    middle.set(xlabel="step", ylabel="greedy BLEU of some validation sentences", title="BLEU", ylim=(0, None))
    right.plot([r["step"] for r in train], [r["tokens_per_second"] for r in train], color="tab:green")
    right.set(xlabel="step", ylabel="target tokens per second", title="Speed", ylim=(0, None))
    return figure


def draw_attention(attention: Attention, path: Path, of: str = "cross") -> Path:
    """`attention_maps` of a sentence pair -> the PNG's path."""
    return save(attention_maps(attention, of), path)


def attention_maps(attention: Attention, of: str = "cross") -> plt.Figure:
    """The encoder's, the decoder's or the cross attention: every layer (rows) and head (columns).

    Cross attention that is bright off the diagonal is where the word order of the two languages differs. UserError if
    the picture would be too large.
    """
    weights = getattr(attention.weights, of)
    rows, columns = (pieces_of(attention)[axis] for axis in AXES[of])
    layers, heads = weights.shape[:2]
    longer = max(len(rows), len(columns))
    size = 0.25 * longer + 0.8
    if size * max(layers, heads) * DPI > MAX_PIXELS:
        most = int((MAX_PIXELS / DPI / max(layers, heads) - 0.8) / 0.25)
        raise UserError(f"{longer} tokens are too many for a PNG of this model's heads ({most} at most): use --html")
    figure, axes = plt.subplots(
        layers, heads, figsize=(size * heads + 0.8, size * layers), squeeze=False, layout="constrained"
    )
    text: dict[str, Any] = {"fontsize": 7, "parse_math": False}  # a "$" in a sentence is a dollar
    norm = PowerNorm(0.5, vmin=0, vmax=1)  # the square root, as on the page: small weights can be told apart
    for (layer, head), axis in np.ndenumerate(axes):
        image = axis.imshow(weights[layer, head], norm=norm, cmap="viridis")
        axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        axis.set_xticks(range(len(columns)), columns, rotation=90, **text)
        axis.set_yticks(range(len(rows)), rows, **text)
    figure.colorbar(image, ax=axes, aspect=30, label="weight")
    return figure


class Beside(NamedTuple):
    """A picture of a table: for each row the paper's value, and ours of each seed."""

    title: str
    unit: str
    """What the values are: the name of their axis."""
    names: tuple[str, str]
    """Of the paper's points and of ours."""
    rows: dict[str, tuple[float, list[float]]]
    base: float | None = None
    """The value that all others are compared with, if there is one: a line."""


def draw_beside(picture: Beside, path: Path) -> Path:
    """One point a value -> the PNG's path."""
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
    axis.grid(axis="x", alpha=0.3)  # from a point down to the name of its row
    axis.set(title=picture.title, ylabel=picture.unit)
    return save(figure, path)


def draw_growth(
    lengths: list[int],
    curves: dict[str, list[float | None]],
    title: str,
    path: Path,
    unit: str = "seconds",
    note: str = "",
) -> Path:
    """What a sequence costs over its length (None: not known), both logarithmic -> the PNG's path."""
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
    """Writes a figure as PNG, whatever the path ends with, and lets go of it."""
    path.parent.mkdir(exist_ok=True)
    picture = BytesIO()
    figure.savefig(picture, dpi=DPI, format="png")
    plt.close(figure)
    with written(path) as output:
        output.buffer.write(picture.getvalue())
    return path
