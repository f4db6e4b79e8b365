"""Every figure of the report on cross-validation: tables in, a matplotlib ``Figure`` out.

As in `plots`: nothing is told by colour alone, and each title ends with the data's title. No
figure shows a picture. Introduced in notebook 04.
"""

from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from batik_utils.errors import BatikError
from batik_utils.plots import _HATCHES, _LINES, _MARKERS, _SHADES, _axes, _finished, _shades

#: Families in the order of their styles; others follow.
FAMILIES = ("baseline", "scratch", "transfer", "ours")
_FAMILY_COLOURS = ("white", _SHADES[1], _SHADES[2], _SHADES[0])
_FAMILY_MARKERS = ("s", "^", "D", "o")


def intervals(summary: pd.DataFrame, data_title: str, chance: float | None = None) -> Figure:
    """Draw every recipe's accuracy with its group-bootstrap interval: the main figure.

    Args:
        summary: see `significance.summary`, in the order to draw from top to bottom.
        data_title: title of the data set.
        chance: accuracy of guessing, drawn as a line.
    """
    height = 0.3 * len(summary) + 1.9
    n_pictures, repeats = int(summary["n_pictures"].iloc[0]), summary["repeats"]
    often = f"{repeats.min()}" if repeats.nunique() == 1 else f"{repeats.min()} to {repeats.max()}"
    figure, axes = _axes(
        data_title,
        f"Accuracy on {n_pictures} pictures, cross-validated {often} times, near-twins kept "
        "together",
        width=8.5,
        height=height,
    )
    styles = _styles(summary["family"])
    for y, row in enumerate(summary.itertuples()):
        marker, colour = styles[row.family]
        axes.hlines(y, row.lower, row.upper, color="black", linewidth=1.4, zorder=2)
        axes.plot(row.accuracy, y, marker, color=colour, markeredgecolor="black", markersize=7)
        axes.annotate(
            f"{row.accuracy:.1%}", (1.01, y), xycoords=("axes fraction", "data"), va="center",
            fontsize=8,
        )  # fmt: skip
    if chance is not None:
        axes.axvline(chance, color="black", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(summary)), summary["recipe"])
    axes.set(xlim=(0, 1), ylim=(len(summary) - 0.4, -0.6))
    axes.set_xlabel("accuracy (line: 95 % interval over groups of near-twins)")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", alpha=0.3)
    handles = _family_handles(styles)
    if chance is not None:
        handles.append(
            plt.Line2D([], [], color="black", linestyle=":", label=f"guessing ({chance:.0%})")
        )
    _legend_above(axes, handles)
    return figure


def critical_difference(
    mean_ranks: pd.Series,
    p_values: pd.DataFrame,
    data_title: str,
    *,
    test: str,
    families: Mapping[str, str] | None = None,
    alpha: float = 0.05,
) -> Figure:
    """Draw mean ranks; the dots on one bar are recipes that the test cannot tell apart.

    A bar may pass over a recipe without a dot: that one is told apart from some of the others.

    Args:
        mean_ranks: by recipe, 1 is best; see `significance.ranks`.
        p_values: recipes by recipes; see `significance.p_matrix`, or Nemenyi's of
            `significance.ranks` (which takes folds for independent).
        data_title: title of the data set.
        test: what the p-values come from, for the title.
        families: family by recipe, for the markers.
        alpha: below it recipes are told apart.

    Raises:
        BatikError: ranks and p-values are not of the same recipes.

    Source: the diagram of Demšar (2006), drawn by scikit-posthocs.
    """
    import scikit_posthocs

    if set(mean_ranks.index) != set(p_values.index):
        odd = sorted(set(mean_ranks.index) ^ set(p_values.index))
        raise BatikError(f"Ranks and p-values need the same recipes; odd: {odd}.")
    order = list(mean_ranks.sort_values(kind="stable").index)
    figure, axes = _axes(
        data_title,
        f"Mean rank over folds (1 is best); dots on one bar: not told apart by {test}, "
        f"{alpha:.0%} level",
        width=9,
        height=0.2 * len(order) + 2.2,
    )
    artists = scikit_posthocs.critical_difference_diagram(
        mean_ranks[order],
        p_values.loc[order, order],
        alpha=alpha,
        ax=axes,
        label_fmt_left="{label}  {rank:.1f}",
        label_fmt_right="{rank:.1f}  {label}",
        label_props={"fontsize": 9},
        color_palette=dict.fromkeys(order, "black"),
        elbow_props={"linewidth": 0.7},
        crossbar_props={"color": _SHADES[0], "linewidth": 3, "marker": "o", "markersize": 6},
        marker_props={"s": 20},
        text_h_margin=0.03 * len(order),
    )
    if families is not None:
        styles = _styles(families[name] for name in order)
        for name in order:
            marker, colour = styles[families[name]]
            axes.plot(
                mean_ranks[name], 0, marker, color=colour, markeredgecolor="black", markersize=7,
                zorder=4,
            )  # fmt: skip
        for dots in artists["markers"]:
            dots.remove()
        axes.legend(
            handles=_family_handles(styles), loc="lower center", bbox_to_anchor=(0.5, -0.02),
            ncols=len(styles), fontsize=8, frameon=False,
        )  # fmt: skip
        low, high = axes.get_ylim()
        axes.set_ylim(low - 0.12 * (high - low), high)
    axes.set_title(axes.get_title(), pad=12, fontsize=11)
    return figure


def reliability(
    tables: Mapping[str, pd.DataFrame], recipe: str, data_title: str, bins: int | None = None
) -> Figure:
    """Draw accuracy against confidence; on the diagonal a model keeps its word.

    Args:
        tables: by name (e.g. ``as trained`` and ``temperature scaled``), each of
            `calibration.reliability`.
        recipe: for the title.
        data_title: title of the data set.
        bins: number of bins asked for, told in the axis label; else the first table's.
    """
    figure, axes = _axes(data_title, f"Reliability of {recipe}", width=5.6, height=5.2)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="keeps its word")
    colours = _colours(len(tables))
    for k, (name, table) in enumerate(tables.items()):
        style = {"color": colours[k], "marker": _MARKERS[k % 8], "linestyle": _LINES[k % 4]}
        # a little aside, so that whiskers of two tables do not hide each other
        x = table["confidence"] + 0.006 * k
        axes.vlines(x, table["lower"], table["upper"], color=colours[k], linewidth=0.9, alpha=0.6)
        axes.plot(x, table["accuracy"], markeredgecolor="black", label=name, **style)
    first = next(iter(tables.values()))
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), ylabel="accuracy (whisker: 95 % interval)")
    axes.set_xlabel(f"mean confidence of the answers in each of {bins or len(first)} bins")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    return figure


def learning_curve(table: pd.DataFrame, data_title: str, chance: float | None = None) -> Figure:
    """Draw accuracy against the number of training pictures, one line a recipe.

    Args:
        table: ``recipe, n_train, seed, accuracy``; see `out_of_fold.learning_table`.
        data_title: title of the data set.
        chance: accuracy of guessing, drawn as a line.
    """
    figure, axes = _axes(data_title, "More pictures, better answers?", width=8, height=4.5)
    recipes = list(dict.fromkeys(table["recipe"]))
    colours = _colours(len(recipes))
    for k, recipe in enumerate(recipes):
        by_size = table[table["recipe"] == recipe].groupby("n_train")["accuracy"]
        mean, low, high = by_size.mean(), by_size.min(), by_size.max()
        axes.fill_between(mean.index, low, high, color=colours[k], alpha=0.2, linewidth=0)
        axes.plot(
            mean.index, mean, color=colours[k], marker=_MARKERS[k % len(_MARKERS)],
            linestyle=_LINES[k % len(_LINES)], markeredgecolor="black", label=recipe,
        )  # fmt: skip
    if chance is not None:
        axes.axhline(chance, color="black", linestyle=":", linewidth=1, label="guessing")
    axes.set(xlabel="training pictures", ylim=(0, 1.02))
    axes.set_ylabel("accuracy (band: lowest to highest repeat)")
    axes.set_xlim(0, table["n_train"].max() * 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", ncols=1 + len(recipes) // 6)
    return figure


def difficulty(table: pd.DataFrame, data_title: str, bins: int = 10) -> Figure:
    """Draw how many pictures are how hard.

    Args:
        table: see `out_of_fold.difficulty`.
        data_title: title of the data set.
        bins: number of equal steps from never to always wrong.
    """
    recipes = int(table["recipes"].max())
    figure, axes = _axes(
        data_title, f"How often each picture is taken for another motif ({recipes} recipes)",
        width=8,
    )  # fmt: skip
    motifs = sorted(table["label"].unique())
    edges = np.linspace(0, 1, bins + 1)
    bottom = np.zeros(bins)
    for k, motif in enumerate(motifs):
        counts, _ = np.histogram(table.loc[table["label"] == motif, "wrong"], edges)
        axes.bar(
            edges[:-1], counts, width=1 / bins, bottom=bottom, align="edge",
            color=_shades(len(motifs))[k], hatch=_HATCHES[k % len(_HATCHES)], edgecolor="black",
            label=motif,
        )  # fmt: skip
        bottom += counts
    axes.set(xlim=(0, 1), ylabel="pictures")
    axes.set_xlabel("share of wrong answers (over recipes and repeats)")
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.legend(title="motif")
    return figure


def label_kinds(table: pd.DataFrame, data_title: str) -> Figure:
    """Draw how many pictures are wrong in how many repeats, by who doubts their label.

    Args:
        table: see `cross_validation.label_kinds`.
        data_title: title of the data set.
    """
    repeats = int(table["repeats"].max())
    figure, axes = _axes(
        data_title, f"How often each of {len(table)} pictures is named wrongly", height=3.6
    )
    bottom = np.zeros(repeats + 1)
    kinds = sorted(table["kind"].unique(), key=lambda kind: kind != "undoubted")
    for k, kind in enumerate(kinds):
        wrong = table.loc[table["kind"] == kind, "wrong"]
        counts = np.bincount(wrong.astype(int), minlength=repeats + 1)
        axes.bar(
            range(repeats + 1), counts, bottom=bottom, label=f"{kind} ({counts.sum()})",
            color=_SHADES[k % len(_SHADES)], hatch=_HATCHES[k % len(_HATCHES)], edgecolor="black",
        )  # fmt: skip
        bottom += counts
    for x, total in enumerate(bottom):
        axes.annotate(f"{total:.0f}", (x, total), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(repeats + 1), [f"{x} of {repeats}" for x in range(repeats + 1)])
    axes.set(xlabel="repeats in which it is wrong", ylabel="pictures")
    axes.margins(y=0.12)
    axes.legend(title="label", frameon=False)
    return _finished(figure)


def accuracy_coverage(
    table: pd.DataFrame, data_title: str, recipes: Sequence[str] | None = None
) -> Figure:
    """Draw how right recipes are when they may decline the pictures they are least sure of.

    Args:
        table: see `calibration.coverage`.
        data_title: title of the data set.
        recipes: which to draw, in this order; else all.
    """
    figure, axes = _axes(data_title, "Accuracy if the least sure answers are withheld", width=8)
    recipes = list(dict.fromkeys(table["recipe"])) if recipes is None else list(recipes)
    colours = _colours(len(recipes))
    for k, recipe in enumerate(recipes):
        rows = table[table["recipe"] == recipe]
        axes.plot(
            rows["coverage"], rows["accuracy"], drawstyle="steps-post", color=colours[k],
            linestyle=_LINES[k % len(_LINES)], linewidth=1.6,
        )  # fmt: skip
        # a line of hundreds of steps is told from others by a few marks on it
        marks = rows.iloc[np.abs(rows["coverage"].to_numpy()[:, None] - _MARKED).argmin(axis=0)]
        axes.plot(
            marks["coverage"], marks["accuracy"], _MARKERS[k % len(_MARKERS)], color=colours[k],
            markeredgecolor="black",
        )  # fmt: skip
    handles = [
        plt.Line2D(
            [], [], color=colours[k], linestyle=_LINES[k % len(_LINES)], label=recipe,
            marker=_MARKERS[k % len(_MARKERS)], markeredgecolor="black",
        )
        for k, recipe in enumerate(recipes)
    ]  # fmt: skip
    shown = table[table["recipe"].isin(recipes) & (table["coverage"] >= 0.1)]["accuracy"]
    axes.set(xlim=(0, 1), ylim=(max(0.0, shown.min() - 0.05), 1.01))
    axes.set(xlabel="share of pictures answered", ylabel="accuracy on those")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(alpha=0.3)
    axes.legend(handles=handles, loc="lower left", ncols=1 + len(recipes) // 6)
    return figure


def cost(summary: pd.DataFrame, data_title: str) -> Figure:
    """Draw accuracy against a model's size and against the time it takes for one picture.

    Named are the recipes that no other beats in both.

    Args:
        summary: ``recipe, family, accuracy, lower, upper, megabytes, latency_ms``; a recipe without
            a size or a latency is not drawn there.
        data_title: title of the data set.
    """
    figure, row = plt.subplots(1, 2, figsize=(10, 4.4), sharey=True, layout="constrained")
    styles = _styles(summary["family"])
    panels = (("megabytes", "size of the saved model (MB)"), ("latency_ms", "one picture (ms)"))
    for axes, (column, label) in zip(row, panels, strict=True):
        known = summary[summary[column] > 0].sort_values(
            [column, "accuracy"], ascending=[True, False]
        )
        axes.vlines(known[column], known["lower"], known["upper"], color="grey", linewidth=0.7)
        for family, rows in known.groupby("family"):
            marker, colour = styles[family]
            axes.scatter(
                rows[column], rows["accuracy"], marker=marker, s=60, facecolors=colour,
                edgecolors="black", zorder=3,
            )  # fmt: skip
        best_so_far = known["accuracy"].cummax().shift(fill_value=-1)
        for unbeaten in known[known["accuracy"] > best_so_far].itertuples():
            axes.annotate(
                unbeaten.recipe, (getattr(unbeaten, column), unbeaten.accuracy), xytext=(6, 5),
                textcoords="offset points", fontsize=8, zorder=4,
                bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.8},
            )  # fmt: skip
        axes.set(xscale="log", xlabel=label)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.2)
        axes.grid(alpha=0.3)
    row[0].set_ylabel("accuracy (line: 95 % interval)")
    row[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(handles=_family_handles(styles), loc="outside lower center", ncols=len(styles))
    figure.suptitle(f"What a model costs and what it gives\n{data_title}", fontsize=11)
    return _finished(figure)


_MARKED = np.linspace(0.1, 1, 10)


def _colours(n: int) -> list:
    return [_SHADES[0], _SHADES[2]][:n] if n <= 2 else _shades(n)


def _styles(families: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return marker and colour of each family that occurs."""
    there = set(families)
    order = [*FAMILIES, *sorted(there - set(FAMILIES))]
    n = len(FAMILIES)
    return {
        family: (
            _FAMILY_MARKERS[k] if k < n else _MARKERS[(k + 1) % len(_MARKERS)],
            _FAMILY_COLOURS[k % n],
        )
        for k, family in enumerate(order)
        if family in there
    }


def _family_handles(styles: Mapping[str, tuple[str, str]]) -> list[plt.Line2D]:
    return [
        plt.Line2D(
            [], [], marker=marker, color=colour, markeredgecolor="black", markersize=7,
            linestyle="none", label=family,
        )
        for family, (marker, colour) in styles.items()
    ]  # fmt: skip


def _legend_above(axes: Axes, handles: Sequence[plt.Line2D]) -> None:
    axes.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles),
        fontsize=8, frameon=False,
    )  # fmt: skip
    axes.set_title(axes.get_title(), pad=24, fontsize=11)
