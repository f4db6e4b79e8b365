"""Figures: data in, a matplotlib ``Figure`` out, all in one style.

    >>> plots.show(plots.class_counts(dataset), alt="Bar chart: 50 pictures of each motif.")

A new figure is one function with ``@style()``; titles and captions are the notebook's. One accent
colour for what matters, labels beside the marks, nothing told by colour alone.
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
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_STYLE = {
    **dict.fromkeys(("figure.dpi", "savefig.dpi"), 100),
    **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), PAPER),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), DIM),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "xtick.minor.size"), 0),
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

    # sharp on a telephone; photographs, which compress badly, less so
    photographs = sum(len(axes.images) for axes in figure.axes) > 1
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=(1.4 if photographs else 2) * figure.dpi)
    picture = Image.open(drawn).convert("RGB").quantize(96, dither=Image.Dither.NONE)
    small = io.BytesIO()
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
def picture_sizes(dataset: Dataset, title: str = "") -> Figure:
    """Width against height of every picture as stored."""
    figure, [[axes]] = new(title, 6.5, 4.6)
    colours = dict(zip(dataset.classes, _colours(len(dataset.classes)), strict=True))
    markers = {motif: _MARKERS[k % 8] for k, motif in enumerate(dataset.classes)}
    sns.scatterplot(
        dataset.manifest, x="width", y="height", hue="motif", style="motif", palette=colours,
        markers=markers, hue_order=dataset.classes, s=30, alpha=0.75, linewidth=0, ax=axes,
    )  # fmt: skip
    top = max(dataset.manifest["width"].max(), dataset.manifest["height"].max()) * 1.05
    axes.plot([0, top], [0, top], color=GREY, linewidth=0.8, zorder=0)
    axes.text(top, top, "square", color=DIM, ha="right", va="bottom")
    axes.set(xlabel="width (px)", ylabel="height (px)", xlim=(0, top), ylim=(0, top))
    axes.legend(loc="upper left", ncols=1 + len(dataset.classes) // 8)
    return figure


def sample_sheet(dataset: Dataset, per_motif: int = 6, seed: int = 0, title: str = "") -> Figure:
    """A row of randomly chosen pictures for each motif, each cut to a centred square.

    Never commit this figure for the real photographs: their licence is unclear.
    """
    rng, squares, captions = np.random.default_rng(seed), [], []
    for motif in dataset.classes:
        paths = dataset.manifest.loc[dataset.manifest["motif"] == motif, "path"].tolist()
        for k in sorted(rng.permutation(len(paths))[:per_motif]):
            picture = files.open_image(dataset.root / paths[k], at_least=256)
            squares.append(np.asarray(ImageOps.fit(picture, (256, 256))))
            captions.append(f"{motif}\n{paths[k].rsplit('/', 1)[-1]}")
    return picture_grid(np.stack(squares).transpose(0, 3, 1, 2), captions, title, per_motif)


@style()
def colour_histograms(
    pixels: np.ndarray, dataset: Dataset, title: str = "", bins: int = 32
) -> Figure:
    """Distribution of each colour channel by motif, from uint8 pixels (N, 3, S, S)."""
    labels, n = np.asarray(dataset.labels), len(dataset.classes)
    figure, [row] = new(title, 3 * n, 2.9, 1, n, sharey=True)
    edges = np.linspace(0, 256, bins + 1)
    channels = (("red", "#b03a2e", "-"), ("green", "#2e7d46", "--"), ("blue", "#27406b", ":"))
    for k, (axes, motif) in enumerate(zip(row, dataset.classes, strict=True)):
        chosen = np.asarray(pixels)[labels == k]
        for c, (name, colour, line) in enumerate(channels):
            share = np.histogram(chosen[:, c], edges)[0] / chosen[:, c].size
            axes.plot(edges[:-1], share, color=colour, linestyle=line, label=name)
        axes.set(title=motif, xlabel="channel value (0-255)", xlim=(0, 255), ylim=(0, None))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    row[0].set_ylabel("share of pixels")
    row[-1].legend(loc="upper right")
    return figure


@style()
def picture_grid(
    pixels: np.ndarray, captions: Sequence[str], title: str = "", columns: int = 6
) -> Figure:
    """Square pictures, uint8 (N, 3, S, S), side by side, with a caption each."""
    columns = min(columns, len(captions))
    rows = -(-len(captions) // columns)
    figure, grid = new(title, 1.55 * columns, 1.75 * rows + (0.4 if title else 0), rows, columns)
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, caption in zip(grid.flat, np.asarray(pixels), captions, strict=False):
        axes.imshow(picture.transpose(1, 2, 0))
        axes.set_title(caption, fontsize=8, loc="center")
    return figure


@style()
def overlays(
    pixels: np.ndarray, maps: np.ndarray, captions: Sequence[str], title: str = ""
) -> Figure:
    """Pictures, uint8 (N, 3, S, S), each above itself in grey under its heat map (N, S, S).

    A white line surrounds what is hotter than half of the hottest place. Never commit this figure
    for the real photographs: their licence is unclear.
    """
    pixels, n = np.asarray(pixels), len(captions)
    # the picture in grey: its own colours would be taken for heat
    grey, heat = pixels.mean(1, keepdims=True), plt.get_cmap("inferno")(maps)[..., :3]
    alpha = 0.25 + 0.5 * maps[:, None]
    mixed = (1 - alpha) * grey + alpha * 255 * heat.transpose(0, 3, 1, 2)
    both = np.concatenate([pixels, mixed.astype(np.uint8)])
    figure = picture_grid(both, [*captions, *[""] * n], title, n)
    for axes, one in zip(figure.axes[n:], maps, strict=True):
        if one.max() > 0.5:
            axes.contour(one, levels=[0.5], colors="white", linewidths=1.2)
    return figure


@style()
def architecture(model: nn.Module, input_size: int, title: str = "") -> Figure:
    """What becomes of a picture on its way through a network of plain layers.

    Each box is the output of a layer that changes its shape: as high as the feature map's side, as
    wide as its number of channels (logarithm). Filled: layers that learn.
    """
    import torchinfo

    summary = torchinfo.summary(model, (1, 3, input_size, input_size), verbose=0)
    boxes = [("picture", [1, 3, input_size, input_size], 0)]
    for layer in summary.summary_list:
        if layer.is_leaf_layer and layer.output_size != boxes[-1][1]:
            boxes.append((layer.class_name, layer.output_size, layer.num_params))
    figure, [[axes]] = new(title, 1.2 * len(boxes) + 0.4, 3.4)
    left = 0.0
    for name, shape, parameters in boxes:
        # a vector is drawn as a thin, high line of units
        height = shape[2] / input_size if len(shape) == 4 else 0.15 + 0.1 * np.log10(shape[1])
        width = 0.16 * np.log2(shape[1]) if len(shape) == 4 else 0.12
        colour = ACCENT if parameters else LIGHT
        axes.add_patch(plt.Rectangle((left, -height / 2), width, height, facecolor=colour))
        size = "×".join(f"{n:,}" for n in shape[1:])
        text = f"{name}\n{size}" + (f"\n{parameters:,}\nparameters" if parameters else "")
        axes.text(left + width / 2, -0.56, text, ha="center", va="top", fontsize=8)
        left += max(width, 0.5) + 0.75
    axes.set(xlim=(-0.4, left - 0.4), ylim=(-1.0, 0.56))
    axes.axis("off")
    return figure


@style()
def learning_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """Loss and accuracy over epochs, training and validation; see `training.fit`."""
    figure, [panels] = new(title, 9, 3.2, 1, 2)
    names = (("loss", "mean cross-entropy (nats)"), ("accuracy", "accuracy"))
    for axes, (name, label) in zip(panels, names, strict=True):
        shown = history[[f"train_{name}", f"validation_{name}"]]
        for column, colour, line in zip(shown, (GREY, ACCENT), ("--", "-"), strict=True):
            axes.plot(history["epoch"], shown[column], line, color=colour, marker="o", markersize=3)
            last = shown[column].dropna()
            if len(last):
                axes.annotate(
                    column.split("_")[0], (history["epoch"][last.index[-1]], last.iloc[-1]),
                    xytext=(6, 0), textcoords="offset points", va="center", color=colour,
                )  # fmt: skip
        # first epochs that are far off would flatten the gap that matters
        top = np.nanmax(shown.iloc[len(shown) // 3 :].to_numpy())
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
    """Accuracy of every single run by recipe, equal ones stacked; hollow: the published run.

    ``runs`` has ``label`` (or ``recipe``) and ``accuracy``, in the order to draw them;
    ``published`` gives the accuracy by that name.
    """
    names = runs["label"] if "label" in runs else runs["recipe"]
    order = list(dict.fromkeys(names))
    figure, [[axes]] = new(title, 6.4, 0.42 * len(order) + 1.1)
    for y, name in enumerate(order):
        dots(axes, runs.loc[names == name, "accuracy"], y)
        axes.plot(
            published.get(name, np.nan), y, "D", markersize=9, markerfacecolor="none",
            markeredgecolor=ACCENT, markeredgewidth=1.8, zorder=5,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), order, color=INK)
    axes.set(ylim=(len(order) - 0.4, -0.6), xlabel="test accuracy")
    percent(axes.xaxis)
    return figure


@style()
def intervals(table: pd.DataFrame, title: str = "", chance: float | None = None) -> Figure:
    """Accuracy with its interval for each row of a table with ``accuracy, lower, upper``."""
    figure, [[axes]] = new(title, 7, 0.42 * len(table) + 1.0)
    heights = np.arange(len(table))
    axes.hlines(heights, table["lower"], table["upper"], color=GREY, linewidth=3, alpha=0.6)
    axes.plot(table["accuracy"], heights, "o", color=ACCENT, markersize=8)
    for y, share in zip(heights, table["accuracy"], strict=True):
        axes.annotate(
            f"{share:.0%}", (share, y), xytext=(0, 7), textcoords="offset points", ha="center",
            color=ACCENT, fontweight="bold",
        )  # fmt: skip
    if chance is not None:
        axes.axvline(chance, color=DIM, linestyle=":", linewidth=1)
        axes.text(chance, -0.75, "guessing", color=DIM, fontsize=8.5, ha="center", va="bottom")
    axes.set_yticks(heights, table.index, color=INK)
    axes.set(xlim=(0, 1.02), ylim=(len(table) - 0.5, -0.75), xlabel="accuracy, 95 % interval")
    percent(axes.xaxis)
    return figure


@style()
def probabilities(values: Sequence[float], classes: Sequence[str], title: str = "") -> Figure:
    """Class probabilities of one picture."""
    figure, [[axes]] = new(title, 5.6, 0.36 * len(classes) + 0.6)
    colours = [ACCENT if value == max(values) else GREY for value in values]
    bars = axes.barh(list(classes), list(values), color=colours, height=0.6)
    axes.bar_label(bars, labels=[f"{value:.1%}" for value in values], padding=4)
    axes.set(xlim=(0, 1.12), xticks=[])
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    return figure


def dots(axes: Axes, values: Sequence[float], y: float, colour: str = GREY) -> None:
    """Draw one dot a value at height y; equal values are stacked above each other."""
    known = pd.Series(values).round(4).value_counts()
    for value, count in known.items():
        heights = y + 0.1 * (np.arange(count) - (count - 1) / 2) * min(1, 5 / count)
        axes.plot([value] * count, heights, "o", color=colour, markersize=4.5)


def _colours(n: int) -> list:
    few = [ACCENT, SECOND, THIRD, GREY]
    return few[:n] if n <= len(few) else list(plt.get_cmap("cividis")(np.linspace(0, 1, n)))
