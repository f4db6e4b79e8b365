"""Every figure of the notebooks: data in, a matplotlib ``Figure`` out.

Nothing is told by colour alone: motifs differ in hatch, marker and line too, and matrices carry
their numbers, so that a greyscale print is enough. Each title ends with the data's title.
Introduced in notebook 01, section "The data set".
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torchinfo
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter
from PIL import Image
from torch import nn

from batik_utils.data import Dataset
from batik_utils.images import files

_HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "++", "--")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_LINES = ("-", "--", ":", "-.")
# dark, middle and light in a greyscale print (subset of cividis)
_SHADES = ("#00224e", "#7d7c78", "#d9c55f")
_CHANNELS = (("red", "#c0392b", "-"), ("green", "#1e8449", "--"), ("blue", "#1f4e9c", ":"))


def class_counts(dataset: Dataset) -> Figure:
    """Draw the number of usable pictures of each motif."""
    counts = dataset.manifest["motif"].value_counts().reindex(list(dataset.classes))
    figure, axes = _axes(dataset.title, "Pictures of each motif", width=1.2 * len(counts) + 3)
    bars = axes.bar(counts.index, counts, color=_shades(len(counts)), edgecolor="black")
    for bar, hatch in zip(bars, _cycle(_HATCHES, len(counts)), strict=True):
        bar.set_hatch(hatch)
    axes.bar_label(bars)
    axes.set_ylabel("pictures")
    axes.margins(y=0.12)
    if len(counts) > 6:
        axes.tick_params(axis="x", rotation=60)
    return figure


def picture_sizes(dataset: Dataset) -> Figure:
    """Draw width against height of every picture as stored."""
    figure, axes = _axes(dataset.title, "Picture sizes as stored")
    for k, motif in enumerate(dataset.classes):
        rows = dataset.manifest[dataset.manifest["motif"] == motif]
        axes.scatter(
            rows["width"],
            rows["height"],
            marker=_MARKERS[k % len(_MARKERS)],
            facecolors=_shades(len(dataset.classes))[k],
            edgecolors="black",
            alpha=0.75,
            label=motif,
        )
    top = max(dataset.manifest["width"].max(), dataset.manifest["height"].max()) * 1.05
    axes.plot([0, top], [0, top], color="grey", linewidth=0.8, label="square")
    axes.set(xlabel="width (px)", ylabel="height (px)", xlim=(0, top), ylim=(0, top))
    axes.legend(title="motif", ncols=1 + len(dataset.classes) // 8)
    return figure


def sample_sheet(dataset: Dataset, per_motif: int = 6, seed: int = 0) -> Figure:
    """Draw a row of randomly chosen pictures for each motif, each cut to a centred square.

    Never commit this figure for the real photographs: their licence is unclear.
    """
    rng = np.random.default_rng(seed)
    figure, grid = plt.subplots(
        len(dataset.classes),
        per_motif,
        figsize=(1.7 * per_motif, 1.8 * len(dataset.classes) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for row, motif in zip(grid, dataset.classes, strict=True):
        paths = dataset.manifest.loc[dataset.manifest["motif"] == motif, "path"].tolist()
        chosen = rng.permutation(len(paths))[:per_motif]
        for axes in row:
            axes.set(xticks=[], yticks=[])
        for axes, k in zip(row, sorted(chosen), strict=False):
            picture = files.open_image(dataset.root / paths[k], at_least=256)
            axes.imshow(_centre_square(picture, 256))
            axes.set_xlabel(paths[k].rsplit("/", 1)[-1], fontsize=8)
        row[0].set_ylabel(motif, fontsize=11)
    figure.suptitle(f"Samples of each motif\n{dataset.title}", fontsize=11)
    return _finished(figure)


def channel_intensity(pixels: np.ndarray, dataset: Dataset) -> Figure:
    """Draw the mean intensity of each colour channel by motif, one value a picture.

    Args:
        pixels: uint8 (N, 3, S, S), in manifest order.
        dataset: the data set.
    """
    means = np.asarray(pixels, dtype=np.float32).mean(axis=(2, 3))
    table = pd.DataFrame(means, columns=[name for name, *_ in _CHANNELS])
    table = table.assign(motif=dataset.manifest["motif"].to_numpy()).melt(
        "motif", var_name="channel", value_name="mean intensity (0-255)"
    )
    figure, axes = _axes(dataset.title, "Mean channel intensity of each picture", width=8)
    sns.boxplot(
        table,
        x="motif",
        y="mean intensity (0-255)",
        hue="channel",
        order=list(dataset.classes),
        palette={name: colour for name, colour, _ in _CHANNELS},
        boxprops={"alpha": 0.75},
        fliersize=3,
        ax=axes,
    )
    # box order red, green, blue is the same everywhere, so greyscale readers can tell them
    for k, patch in enumerate(axes.patches):
        patch.set_hatch(_HATCHES[min(k // len(dataset.classes), 2)])
    axes.set_xlabel("motif (left to right in each: red, green, blue)")
    sns.move_legend(axes, "best", title="channel")
    return figure


def colour_histograms(pixels: np.ndarray, dataset: Dataset, bins: int = 32) -> Figure:
    """Draw how the values of each channel are distributed, motif by motif.

    Args:
        pixels: uint8 (N, 3, S, S), in manifest order.
        dataset: the data set.
        bins: number of equal steps from 0 to 255.
    """
    labels = np.asarray(dataset.labels)
    figure, row = plt.subplots(
        1,
        len(dataset.classes),
        figsize=(3.4 * len(dataset.classes), 3.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    edges = np.linspace(0, 256, bins + 1)
    for k, (axes, motif) in enumerate(zip(row[0], dataset.classes, strict=True)):
        chosen = np.asarray(pixels)[labels == k]
        for c, (name, colour, line) in enumerate(_CHANNELS):
            share = np.histogram(chosen[:, c], edges)[0] / chosen[:, c].size
            axes.plot(edges[:-1], share, color=colour, linestyle=line, label=name)
        axes.set(title=motif, xlabel="channel value (0-255)", xlim=(0, 255))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    row[0][0].set_ylabel("share of pixels")
    row[0][-1].legend(title="channel")
    figure.suptitle(f"Colour histograms by motif\n{dataset.title}", fontsize=11)
    return _finished(figure)


def picture_grid(pixels: np.ndarray, captions: Sequence[str], title: str) -> Figure:
    """Draw a few square pictures side by side.

    Args:
        pixels: uint8 (N, 3, S, S).
        captions: one a picture.
        title: above all.
    """
    columns = min(6, len(captions))
    rows = -(-len(captions) // columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(1.9 * columns, 2.1 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, picture, caption in zip(grid.flat, np.asarray(pixels), captions, strict=False):
        axes.imshow(picture.transpose(1, 2, 0))
        axes.set_title(caption, fontsize=8)
    figure.suptitle(title, fontsize=11)
    return _finished(figure)


def architecture(model: nn.Module, input_size: int, title: str) -> Figure:
    """Draw what becomes of a picture on its way through a network's layers.

    Each box is the output of one layer that changes its shape: as high as the feature map's side,
    as wide as its number of channels (logarithm), with the layer's number of parameters below.

    Args:
        model: a network of plain layers, e.g. a scratch network.
        input_size: side of the square input (px).
        title: above the drawing.
    """
    summary = torchinfo.summary(model, (1, 3, input_size, input_size), verbose=0)
    layers = [layer for layer in summary.summary_list if layer.is_leaf_layer]
    boxes = [("picture", [1, 3, input_size, input_size], 0)]
    for layer in layers:
        if layer.output_size != boxes[-1][1]:
            boxes.append((layer.class_name, layer.output_size, layer.num_params))
    figure, axes = plt.subplots(figsize=(1.25 * len(boxes) + 0.6, 3.6), layout="constrained")
    left = 0.0
    for name, shape, parameters in boxes:
        # a vector is drawn as a thin, high line of units
        height = shape[2] / input_size if len(shape) == 4 else 0.15 + 0.1 * np.log10(shape[1])
        width = 0.16 * np.log2(shape[1]) if len(shape) == 4 else 0.12
        hatch = "" if parameters else "///"
        box = plt.Rectangle((left, -height / 2), width, height, hatch=hatch, edgecolor="black")
        box.set_facecolor(_SHADES[2] if parameters else "white")
        axes.add_patch(box)
        size = "×".join(f"{n:,}" for n in shape[1:])
        text = f"{name}\n{size}" + (f"\n{parameters:,}\nparameters" if parameters else "")
        axes.text(left + width / 2, -0.56, text, ha="center", va="top", fontsize=8)
        left += max(width, 0.5) + 0.75
    axes.set(xlim=(-0.4, left - 0.4), ylim=(-1.0, 0.56))
    axes.axis("off")
    axes.set_title(
        f"{title}\nfilled: layers that learn; height: side of the feature map", fontsize=10
    )
    return _finished(figure)


def learning_curves(history: pd.DataFrame, recipe: str, data_title: str) -> Figure:
    """Draw loss and accuracy over epochs, training and validation.

    Args:
        history: see `engine.fit`.
        recipe: name for the title.
        data_title: title of the data set.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    styles = (("train", _SHADES[1], "--", "s"), ("validation", _SHADES[0], "-", "o"))
    for subset, colour, line, marker in styles:
        style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 4}
        left.plot(history["epoch"], history[f"{subset}_loss"], label=subset, **style)
        right.plot(history["epoch"], history[f"{subset}_accuracy"], label=subset, **style)
    left.set(xlabel="epoch", ylabel="mean cross-entropy (nats)", ylim=(0, None))
    right.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    right.yaxis.set_major_formatter(PercentFormatter(1))
    left.legend()
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    figure.suptitle(f"Learning curves of {recipe}\n{data_title}", fontsize=11)
    return _finished(figure)


def confusion_matrix(counts: pd.DataFrame, title: str, data_title: str) -> Figure:
    """Draw a confusion matrix with its counts.

    Args:
        counts: see `metrics.confusion`.
        title: what was tested, e.g. the recipe.
        data_title: title of the data set.
    """
    side = 0.55 * len(counts) + 2.6
    figure, axes = _axes(data_title, f"{title}: test pictures", width=side + 0.6, height=side)
    sns.heatmap(
        counts, annot=True, fmt="d", cmap="Greys", cbar=False, linewidths=0.5, linecolor="grey",
        square=True, vmin=0, ax=axes,
    )  # fmt: skip
    axes.tick_params(axis="y", rotation=0)
    return figure


def accuracies(summary: pd.DataFrame, published: dict[str, float], data_title: str) -> Figure:
    """Draw every recipe's mean accuracy with its interval, its runs, and the published number.

    Args:
        summary: see `metrics.summarise`.
        published: accuracy by recipe name; recipes without one may be missing.
        data_title: title of the data set.
    """
    table = summary.iloc[::-1].reset_index(drop=True)
    figure, axes = _axes(
        data_title,
        f"Test accuracy ({int(table['n_test'].iloc[0])} pictures)",
        width=8.5,
        height=0.34 * len(table) + 1.9,
    )
    y = np.arange(len(table))
    axes.hlines(y, table["lower"], table["upper"], color="black", linewidth=1.2)
    axes.hlines(y, table["min"], table["max"], color=_SHADES[1], linewidth=6, alpha=0.6)
    axes.plot(table["accuracy"], y, "o", color="black", markersize=6)
    values = table["recipe"].map(published)
    axes.plot(values, y, "D", markerfacecolor="white", markeredgecolor="black", markersize=7)
    axes.set_yticks(y, _labels(table))
    axes.set(xlim=(0, 1.0), xlabel="accuracy")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", alpha=0.3)
    published_style = {"marker": "D", "markerfacecolor": "white", "linestyle": "none"}
    handles = [
        plt.Line2D([], [], color="black", marker="o", label="our mean, 95 % interval of one test"),
        plt.Line2D([], [], color=_SHADES[1], linewidth=6, alpha=0.6, label="our lowest to highest"),
        plt.Line2D([], [], color="black", label="published (one run)", **published_style),
    ]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    axes.set_title(axes.get_title(), pad=26, fontsize=11)
    return figure


def repetitions(runs: pd.DataFrame, published: dict[str, float], data_title: str) -> Figure:
    """Draw every single run of each recipe as a strip, the published number marked.

    Args:
        runs: rows of ``runs.csv``, in the order to draw them.
        published: accuracy by recipe name; recipes without one may be missing.
        data_title: title of the data set.
    """
    runs = runs.assign(label=_labels(runs))
    labels = list(dict.fromkeys(runs["label"]))
    figure, axes = _axes(
        data_title,
        "The published number and our repetitions of it",
        width=8.5,
        height=0.36 * len(labels) + 1.7,
    )
    sns.stripplot(
        runs, x="accuracy", y="label", order=labels, color=_SHADES[1], edgecolor="black",
        linewidth=0.6, alpha=0.8, size=7, jitter=0.22, ax=axes,
    )  # fmt: skip
    first = runs.drop_duplicates("label").set_index("label")["recipe"].map(published)
    axes.plot(first.reindex(labels), np.arange(len(labels)), "D", markersize=9,
              markerfacecolor="white", markeredgecolor="black", zorder=5)  # fmt: skip
    axes.set(xlim=(0, 1.02), xlabel="test accuracy (dots: our runs, diamond: published)", ylabel="")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(axis="x", alpha=0.3)
    return figure


def cost(summary: pd.DataFrame, data_title: str) -> Figure:
    """Draw training time against accuracy, a marker a family.

    Named are the recipes that no other beats in both.

    Args:
        summary: see `metrics.summarise`.
        data_title: title of the data set.
    """
    figure, axes = _axes(data_title, "What a run costs and what it gives", width=8, height=4.5)
    for k, (family, rows) in enumerate(summary.groupby("family")):
        axes.scatter(
            rows["train_seconds"],
            rows["accuracy"],
            marker=_MARKERS[k],
            s=70,
            facecolors=_SHADES[k % len(_SHADES)],
            edgecolors="black",
            label=family,
        )
    cheapest_first = summary.assign(label=_labels(summary)).sort_values(
        ["train_seconds", "accuracy"], ascending=[True, False]
    )
    best_so_far = cheapest_first["accuracy"].cummax().shift(fill_value=-1)
    unbeaten = cheapest_first[cheapest_first["accuracy"] > best_so_far]
    for row in unbeaten.itertuples():
        axes.annotate(
            row.label,
            (row.train_seconds, row.accuracy),
            xytext=(7, 3),
            textcoords="offset points",
            fontsize=8,
        )
    axes.set(xscale="log", xlabel="training time of one run (s)", ylabel="mean test accuracy")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.margins(x=0.2, y=0.15)
    axes.grid(alpha=0.3)
    axes.legend(title="family", loc="best")
    return figure


def search_history(trials: pd.DataFrame, recipe: str, data_title: str) -> Figure:
    """Draw the loss of every trial of a search, and the best so far.

    Args:
        trials: see `tuning.read`.
        recipe: what the search started from.
        data_title: title of the data set.
    """
    figure, axes = _axes(data_title, f"Search from {recipe}: every trial", width=8)
    kinds = (("COMPLETE", "complete", "o", _SHADES[1]), ("PRUNED", "pruned", "x", "black"))
    for state, label, marker, colour in kinds:
        rows = trials[trials["state"] == state]
        edge = {"edgecolors": "black"} if marker == "o" else {}
        axes.scatter(rows["number"], rows["value"], marker=marker, c=colour, label=label, **edge)
    complete = trials[trials["state"] == "COMPLETE"]
    axes.step(
        complete["number"], complete["value"].cummin(), where="post", color="black", label="best"
    )
    # a training that went astray would flatten all the others
    top = trials["value"].quantile(0.9) * 1.15
    above = int((trials["value"] > top).sum())
    axes.set_ylim(trials["value"].min() * 0.95, top)
    axes.set(xlabel="trial" + (f" ({above} more above the frame)" if above else ""))
    axes.set_ylabel("cross-validated log-loss (nats)")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def search_importance(shares: pd.Series, recipe: str, data_title: str) -> Figure:
    """Draw how much of the spread of the losses each setting explains.

    Args:
        shares: see `tuning.importances`.
        recipe: what the search started from.
        data_title: title of the data set.
    """
    figure, axes = _axes(data_title, f"Search from {recipe}: what mattered", height=3.2)
    bars = axes.barh(_spoken(shares.index), shares, color=_SHADES[1], edgecolor="black")
    axes.bar_label(bars, labels=[f"{share:.0%}" for share in shares], padding=3)
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.1), xlabel="share of the explained spread of the loss (fANOVA)")
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def search_parallel(
    trials: pd.DataFrame, parameters: Sequence[str], recipe: str, data_title: str
) -> Figure:
    """Draw each complete trial as a line through its settings; dark and thick is good.

    Args:
        trials: see `tuning.read`.
        parameters: columns to draw; learning rate and weight decay get logarithmic axes.
        recipe: what the search started from.
        data_title: title of the data set.
    """
    figure, axes = _axes(
        data_title, f"Search from {recipe}: complete trials, the better the darker", width=9
    )
    rows = trials[trials["state"] == "COMPLETE"].sort_values("value", ascending=False)
    columns = [*parameters, "value"]
    heights = {}
    for k, name in enumerate(columns):
        logarithmic = name in ("learning_rate", "weight_decay")
        values = np.log10(rows[name]) if logarithmic else rows[name]
        low, high = values.min(), values.max()
        heights[name] = (values - low) / (high - low) if high > low else values * 0 + 0.5
        axes.axvline(k, color="black", linewidth=0.8)
        for value, y, side in ((low, -0.03, "top"), (high, 1.03, "bottom")):
            shown = 10**value if logarithmic else value
            axes.text(k, y, f"{shown:.3g}", ha="center", va=side, fontsize=8)
    lines = pd.DataFrame(heights).to_numpy()
    for rank, line in enumerate(lines, start=1):
        good = rank / len(lines)
        axes.plot(line, color=str(0.85 * (1 - good)), linewidth=0.6 + 1.4 * good, zorder=rank)
    labels = [*_spoken(parameters), "log-loss (nats)"]
    axes.set_xticks(range(len(columns)), labels)
    axes.tick_params(axis="x", pad=14, length=0)
    axes.set(yticks=[], ylim=(-0.02, 1.02))
    axes.set_title(axes.get_title(), pad=18, fontsize=11)
    axes.spines[:].set_visible(False)
    return figure


def _spoken(names: Sequence[str]) -> list[str]:
    return [{"augment": "augmentation"}.get(name, name.replace("_", " ")) for name in names]


def probabilities(values: Sequence[float], classes: Sequence[str], title: str) -> Figure:
    """Draw the class probabilities of one picture as bars."""
    figure, axes = _axes("", title, width=6, height=0.45 * len(classes) + 1.4)
    bars = axes.barh(list(classes), list(values), color=_SHADES[1], edgecolor="black")
    axes.bar_label(bars, labels=[f"{value:.1%}" for value in values], padding=3)
    axes.set(xlim=(0, 1.15), xlabel="probability")
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _axes(data_title: str, title: str, width: float = 6.5, height: float = 4) -> tuple:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.set_title(f"{title}\n{data_title}" if data_title else title, fontsize=11)
    return _finished(figure), axes


def _labels(rows: pd.DataFrame) -> pd.Series:
    """Return recipe names; with the number of epochs where one recipe comes with several."""
    several = rows.groupby("recipe")["epochs"].transform("nunique") > 1
    return rows["recipe"].where(
        ~several, rows["recipe"] + ", " + rows["epochs"].astype(str) + " ep"
    )


def _finished(figure: Figure) -> Figure:
    # a figure that pyplot still holds would be shown twice in a notebook
    plt.close(figure)
    return figure


def _cycle(values: Sequence[str], n: int) -> list[str]:
    return [values[i % len(values)] for i in range(n)]


def _shades(n: int) -> list:
    return list(_SHADES) if n == len(_SHADES) else list(sns.color_palette("cividis", n))


def _centre_square(picture: Image.Image, side: int) -> Image.Image:
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    return picture.crop((left, top, left + edge, top + edge)).resize((side, side))
