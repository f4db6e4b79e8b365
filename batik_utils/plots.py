"""Figures: data in, a matplotlib ``Figure`` out, all in one style.

A new figure is one function with ``@style()``; titles and captions are the notebook's. One accent
colour for what matters, labels beside the marks, nothing shown by colour alone.
"""

import io
from collections.abc import Sequence
from contextlib import AbstractContextManager
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image, ImageOps
from torch import nn

from batik_utils.data import Dataset
from batik_utils.images import files

#: Sogan brown for what matters, indigo for the second, ochre for a third.
ACCENT, SECOND, THIRD = "#8a4b20", "#27406b", "#d3a03f"
PAPER, INK, DIM, GREY, LIGHT = "#fffdf7", "#26221d", "#6b645b", "#9b9187", "#e6dfd3"
_STYLE = {
    **dict.fromkeys(("figure.dpi", "savefig.dpi"), 100),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), PAPER),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), DIM),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    **{"axes.edgecolor": GREY, "grid.color": LIGHT, "text.color": INK},
    **{"axes.titlelocation": "left", "axes.titlesize": 10, "axes.axisbelow": True},
    **{"font.family": "DejaVu Sans", "font.size": 10, "legend.frameon": False},
    **{"figure.constrained_layout.use": True, "lines.solid_capstyle": "round"},
    "axes.prop_cycle": plt.cycler(color=[ACCENT, SECOND, THIRD, GREY]),
}


def style() -> AbstractContextManager:
    """The project's matplotlib style, as a context manager or as a decorator of a figure."""
    return plt.rc_context(_STYLE)


def show(figure: Figure, alt: str) -> None:
    """Display a figure in a notebook with a text for readers who do not see it."""
    from IPython import display

    drawn, small = io.BytesIO(), io.BytesIO()
    # sharp on a telephone; photographs, which compress badly, less so
    photographs = sum(len(axes.images) for axes in figure.axes) > 1
    figure.savefig(drawn, dpi=(1.4 if photographs else 2) * figure.dpi)
    picture = Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    picture.save(small, "PNG", optimize=True)
    width = round(figure.get_figwidth() * figure.dpi)
    display.display(display.Image(small.getvalue(), width=width, alt=alt))


def new(
    title: str, width: float = 7, height: float = 3.6, rows: int = 1, columns: int = 1, **settings
) -> tuple[Figure, np.ndarray]:
    """An empty figure with its title at the upper left, and its axes (rows, columns)."""
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **settings)
    if title:
        wrapped = fill(title, int(width * 11))
        figure.suptitle(wrapped, x=0.008, ha="left", fontsize=12, fontweight="bold")
    plt.close(figure)  # a figure that pyplot still holds would be shown twice in a notebook
    return figure, axes


def percent(axis) -> None:
    """Label an axis of shares in percent, with a faint grid."""
    axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axis.grid(True)


@style()
def picture_sizes(dataset: Dataset) -> Figure:
    """Width against height of every picture as stored."""
    figure, [[axes]] = new("", 6.5, 4.6)
    colours = [ACCENT, SECOND, THIRD] if len(dataset.classes) == 3 else "cividis"
    sns.scatterplot(
        dataset.manifest, x="width", y="height", hue="motif", style="motif", palette=colours,
        s=30, alpha=0.75, linewidth=0, ax=axes,
    )  # fmt: skip
    sides = dataset.manifest[["width", "height"]].to_numpy()
    ends = (0.9 * sides.min(), 1.05 * sides.max())
    axes.plot(ends, ends, color=GREY, linewidth=0.8, zorder=0)
    axes.text(ends[1], ends[1], "square", color=DIM, ha="right", va="bottom")
    axes.set(xlabel="width (px)", ylabel="height (px)", xlim=ends, ylim=ends)
    axes.legend(loc="upper left", ncols=1 + len(dataset.classes) // 8)
    return figure


def sample_sheet(dataset: Dataset, per_motif: int = 6, seed: int = 0, title: str = "") -> Figure:
    """A row of random pictures of each motif, cut to squares; never commit it for photographs."""
    rng, squares, captions = np.random.default_rng(seed), [], []
    for motif, paths in dataset.manifest.groupby("motif")["path"]:
        for path in paths.iloc[sorted(rng.permutation(len(paths))[:per_motif])]:
            picture = files.open_image(dataset.root / path, at_least=256)
            squares.append(np.asarray(ImageOps.fit(picture, (256, 256))))
            captions.append(f"{motif}\n{path.rsplit('/', 1)[-1]}")
    return picture_grid(np.stack(squares).transpose(0, 3, 1, 2), captions, title, per_motif)


@style()
def colour_histograms(pixels: np.ndarray, dataset: Dataset) -> Figure:
    """Distribution of each colour channel by motif, from uint8 pixels (N, 3, S, S)."""
    labels, n = np.asarray(dataset.labels), len(dataset.classes)
    figure, [row] = new("", 3 * n, 2.9, 1, n, sharey=True)
    edges = np.linspace(0, 256, 33)
    channels = (("red", "#b03a2e", "-"), ("green", "#2e7d46", "--"), ("blue", "#27406b", ":"))
    for k, (axes, motif) in enumerate(zip(row, dataset.classes, strict=True)):
        chosen = np.asarray(pixels)[labels == k]
        for c, (name, colour, line) in enumerate(channels):
            share = np.histogram(chosen[:, c], edges)[0] / chosen[:, c].size
            axes.plot(edges[:-1], share, color=colour, linestyle=line, label=name)
        axes.set(title=motif, xlabel="channel value (0-255)", xlim=(0, 255), ylim=(0, None))
    row[0].set_ylabel("share of pixels")
    row[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    row[-1].legend(loc="upper right")
    return figure


@style()
def picture_grid(
    pixels: np.ndarray, captions: Sequence[str], title: str = "", columns: int = 6
) -> Figure:
    """Square pictures, uint8 (N, 3, S, S), side by side, with a caption each."""
    columns = min(columns, len(captions))
    rows, bare = -(-len(captions) // columns), {"frame_on": False, "xticks": [], "yticks": []}
    height = 1.75 * rows + (0.4 if title else 0)
    figure, grid = new(title, 1.55 * columns, height, rows, columns, subplot_kw=bare)
    for axes, picture, caption in zip(grid.flat, np.asarray(pixels), captions, strict=False):
        axes.imshow(picture.transpose(1, 2, 0))
        axes.set_title(caption, fontsize=8, loc="center")
    return figure


@style()
def overlays(pixels: np.ndarray, maps: np.ndarray, captions: Sequence[str]) -> Figure:
    """Pictures, uint8 (N, 3, S, S), each above itself in grey under its heat map (N, S, S).

    Never commit this figure for photographs whose licence is unclear.
    """
    n = len(captions)
    # the picture in grey: its own colours would be taken for heat
    grey = np.asarray(pixels).mean(1, keepdims=True).repeat(3, 1).astype(np.uint8)
    figure = picture_grid(np.concatenate([pixels, grey]), [*captions, *[""] * n], columns=n)
    for axes, one in zip(figure.axes[n:], maps, strict=True):
        axes.imshow(one, cmap="inferno", alpha=0.25 + 0.5 * one, vmin=0, vmax=1)
        if one.max() > 0.5:
            axes.contour(one, levels=[0.5], colors="white", linewidths=1.2)
    return figure


@style()
def architecture(model: nn.Module, size: int) -> Figure:
    """Outputs of layers as boxes: side high, channels wide (logarithm); filled: those learn."""
    import torchinfo

    boxes = [("picture", [1, 3, size, size], 0)]
    for layer in torchinfo.summary(model, boxes[0][1], verbose=0).summary_list:
        if layer.is_leaf_layer and layer.output_size != boxes[-1][1]:
            boxes.append((layer.class_name, layer.output_size, layer.num_params))
    figure, [[axes]] = new("", 1.2 * len(boxes) + 0.4, 3.4)
    left = 0.0
    for name, shape, parameters in boxes:
        # a vector is drawn as a thin, high line of units
        height, width = 0.15 + 0.1 * np.log10(shape[1]), 0.12
        if len(shape) == 4:
            height, width = shape[2] / size, 0.16 * np.log2(shape[1])
        colour = ACCENT if parameters else LIGHT
        axes.bar(left, height, width, -height / 2, align="edge", color=colour)
        text = f"{name}\n" + "×".join(f"{n:,}" for n in shape[1:])
        text += f"\n{parameters:,}\nparameters" if parameters else ""
        axes.text(left + width / 2, -0.56, text, ha="center", va="top", fontsize=8)
        left += max(width, 0.5) + 0.75
    axes.set(xlim=(-0.4, left - 0.4), ylim=(-1.0, 0.56))
    axes.axis("off")
    return figure


@style()
def learning_curves(history: pd.DataFrame) -> Figure:
    """Loss and accuracy over epochs, training and validation; see `training.fit`."""
    figure, [panels] = new("", 9, 3.2, 1, 2)
    names = (("loss", "mean cross-entropy (nats)"), ("accuracy", "accuracy"))
    for axes, (name, label) in zip(panels, names, strict=True):
        shown = history.set_index("epoch")[[f"train_{name}", f"validation_{name}"]]
        # first epochs that are far off would flatten the gap that matters
        top = np.nanmax(shown.iloc[len(shown) // 3 :].to_numpy())
        gap = shown.iloc[-1, 0] - shown.iloc[-1, 1]
        apart = np.copysign(6, gap) if abs(gap) < 0.06 * top else 0
        styles = ((GREY, "--", apart), (ACCENT, "-", -apart))
        for column, (colour, line, up) in zip(shown, styles, strict=True):
            known = shown[column].dropna()
            axes.plot(known, line, color=colour, marker="o", markersize=3)
            for end in known[-1:].items():  # none without validation pictures
                beside(axes, column.split("_")[0], end, (6, up), color=colour, va="center")
        axes.set(xlabel="epoch", title=label, ylim=(0, 1.02 if name == "accuracy" else 1.15 * top))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.margins(x=0.02)
        axes.grid(axis="y")
    panels[1].yaxis.set_major_formatter(PercentFormatter(1))
    return figure


@style()
def confusion_matrix(counts: pd.DataFrame, title: str = "") -> Figure:
    """Counts of `metrics.confusion`, shaded by share of the true motif."""
    side = 0.6 * len(counts) + 1.7
    figure, [[axes]] = new(title, side + 1.2, side)
    shares = counts.div(counts.sum(axis=1).clip(lower=1), axis=0)
    shades = sns.light_palette(ACCENT, as_cmap=True)
    sns.heatmap(shares, annot=counts, fmt="d", cmap=shades, vmin=0, vmax=1, cbar=False, ax=axes)
    axes.set(xlabel="predicted motif", ylabel="true motif")
    axes.tick_params(axis="x", rotation=60 if len(counts) > 6 else 0)
    axes.tick_params(axis="y", rotation=0)
    return figure


@style()
def repetitions(runs: pd.DataFrame, published: dict[str, float], title: str = "") -> Figure:
    """Accuracy of every single run by ``label`` (or ``recipe``); hollow: the published run."""
    names = runs["label"] if "label" in runs else runs["recipe"]
    order = list(dict.fromkeys(names))
    figure, [[axes]] = new(title, 6.4, 0.42 * len(order) + 1.1)
    hollow = {"markersize": 9, "markerfacecolor": "none", "markeredgewidth": 1.8, "zorder": 5}
    for y, name in enumerate(order):
        dots(axes, runs.loc[names == name, "accuracy"], y)
        axes.plot(published.get(name, np.nan), y, "D", color=ACCENT, **hollow)
    axes.set_yticks(range(len(order)), order, color=INK)
    axes.set(ylim=(len(order) - 0.4, -0.6), xlabel="test accuracy")
    percent(axes.xaxis)
    return figure


@style()
def intervals(
    table: pd.DataFrame, chance: float = np.nan, title: str = "", label: str = "accuracy"
) -> Figure:
    """A share with its 95 % interval for each row of a table with ``accuracy, lower, upper``."""
    figure, [[axes]] = new(title, 7, 0.42 * len(table) + (1.3 if title else 1.0))
    axes.hlines(table.index, table["lower"], table["upper"], color=GREY, linewidth=3, alpha=0.6)
    axes.plot(table["accuracy"], table.index, "o", color=ACCENT, markersize=8)
    for y, share in enumerate(table["accuracy"]):
        above = {"ha": "center", "color": ACCENT, "fontweight": "bold"}
        beside(axes, f"{share:.0%}", (share, y), (0, 7), **above)
    axes.axvline(chance, color=DIM, linestyle=":", linewidth=1)
    if chance == chance:
        axes.text(chance, -0.75, "guessing", color=DIM, fontsize=8.5, ha="center", va="bottom")
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set(xlim=(0, 1.02), ylim=(len(table) - 0.5, -0.75), xlabel=f"{label}, 95 % interval")
    percent(axes.xaxis)
    return figure


def dots(axes: Axes, values: Sequence[float], y: float) -> None:
    """Draw one dot a value at height y; equal values are stacked above each other."""
    for value, count in pd.Series(values).round(4).value_counts().items():
        heights = y + 0.1 * (np.arange(count) - (count - 1) / 2) * min(1, 5 / count)
        axes.plot([value] * count, heights, "o", color=GREY, markersize=4.5)


def beside(axes: Axes, text: str, point: tuple, by: tuple, **settings) -> None:
    """Write a text so many points right of and above a point."""
    axes.annotate(text, point, xytext=by, textcoords="offset points", **settings)
