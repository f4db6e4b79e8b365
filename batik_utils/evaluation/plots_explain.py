"""Figures of where networks look and what they live on.

As in `plots`: nothing is told by colour alone, and each title ends with the data's title.
Introduced in notebooks 03 and 04.
"""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from batik_utils.evaluation import masking

_DARK, _MIDDLE, _LIGHT = "#00224e", "#7d7c78", "#d9c55f"


def overlays(
    pixels: Tensor | np.ndarray,
    maps: np.ndarray,
    captions: Sequence[str],
    title: str,
    *,
    columns: int = 4,
) -> Figure:
    """Draw pictures, each above the same picture under its heat map.

    Warm and opaque is hot; a white line surrounds what is hotter than half of the hottest place, so
    that the map can be read without colour. Never commit this figure for the real photographs:
    their licence is unclear.

    Args:
        pixels: uint8 (N, 3, S, S).
        maps: float (N, S, S) of `explain.heat_map`.
        captions: one a picture.
        title: above all; names the data.
        columns: pictures a row.
    """
    n = len(captions)
    rows = -(-n // columns)
    figure, grid = plt.subplots(
        2 * rows,
        min(columns, n),
        figsize=(2.0 * min(columns, n), 4.2 * rows + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for axes in grid.flat:
        axes.axis("off")
    for i, (picture, heat) in enumerate(zip(np.asarray(pixels), maps, strict=True)):
        row, column = divmod(i, columns)
        shown = picture.transpose(1, 2, 0)
        above, below = grid[2 * row][column], grid[2 * row + 1][column]
        above.imshow(shown)
        above.set_title(captions[i], fontsize=8)
        # the picture in grey: its own colours would be taken for heat
        below.imshow(shown.mean(2), cmap="gray", vmin=0, vmax=255)
        below.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.25 + 0.5 * heat)
        if heat.max() > 0.5:
            below.contour(heat, levels=[0.5], colors="white", linewidths=1.2)
    figure.suptitle(title, fontsize=11)
    plt.close(figure)
    return figure


def masked_pictures(
    pixels: Tensor, captions: Sequence[str], title: str, *, kinds: Sequence[str] = ()
) -> Figure:
    """Draw a few pictures (rows) in every kind of masking (columns).

    Never commit this figure for the real photographs.

    Args:
        pixels: uint8 (N, 3, S, S).
        captions: one a picture.
        title: above all; names the data.
        kinds: keys of ``masking.KINDS``; all by default.
    """
    kinds = list(kinds or masking.KINDS)
    figure, grid = plt.subplots(
        len(pixels),
        len(kinds),
        figsize=(1.35 * len(kinds), 1.45 * len(pixels) + 0.7),
        squeeze=False,
        layout="constrained",
    )
    for column, kind in enumerate(kinds):
        for row, picture in enumerate(masking.masked(pixels, kind).numpy()):
            axes = grid[row][column]
            axes.imshow(picture.transpose(1, 2, 0))
            axes.set(xticks=[], yticks=[])
            if column == 0:
                axes.set_ylabel(captions[row], fontsize=8)
        grid[0][column].set_title(kind.replace(" ", "\n", 1), fontsize=8)
    figure.suptitle(title, fontsize=11)
    plt.close(figure)
    return figure


def shortcuts(table: pd.DataFrame, data_title: str, n_motifs: int = 3) -> Figure:
    """Draw the accuracy under each kind of masking with its interval.

    Args:
        table: rows of ``shortcuts.csv``; one panel a recipe.
        data_title: title of the data set.
        n_motifs: for the dotted line of guessing.
    """
    names = list(dict.fromkeys(table["recipe"]))
    kinds = [kind for kind in masking.KINDS if kind in set(table["kind"])]
    figure, panels = plt.subplots(
        1,
        len(names),
        figsize=(4.2 * len(names) + 1.6, 0.5 * len(kinds) + 2.0),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    y = np.arange(len(kinds))[::-1]
    for axes, name in zip(panels[0], names, strict=True):
        rows = table[table["recipe"] == name]
        styles = (
            (rows[rows["trained_on"] == "whole"], -0.2, _DARK, "", "trained on whole pictures"),
            (
                rows[rows["trained_on"] == rows["kind"]].query("kind != 'whole'"),
                0.2,
                _LIGHT,
                "//",
                "trained on masked ones too",
            ),
        )
        for part, shift, colour, hatch, label in styles:
            part = part.set_index("kind").reindex(kinds)
            axes.barh(
                y - shift,
                part["accuracy"],
                height=0.38,
                color=colour,
                hatch=hatch,
                edgecolor="black",
                label=label,
            )
            errors = [part["accuracy"] - part["lower"], part["upper"] - part["accuracy"]]
            axes.errorbar(
                part["accuracy"], y - shift, xerr=errors, fmt="none", ecolor=_MIDDLE, capsize=3
            )
        whole = rows[(rows["kind"] == "whole") & (rows["trained_on"] == "whole")]["accuracy"]
        axes.axvline(whole.iloc[0], color="black", linewidth=0.8, linestyle="--")
        axes.axvline(1 / n_motifs, color="black", linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 1.0), xlabel="accuracy", title=name)
        axes.set_yticks(y, kinds)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", alpha=0.3)
    return _with_legend(figure, f"What is left when something is taken away\n{data_title}")


def watermark(table: pd.DataFrame, data_title: str) -> Figure:
    """Draw what a printed watermark does, by what the model was trained on.

    Args:
        table: rows of ``watermark.csv``; one panel a recipe.
        data_title: title of the data set.
    """
    names = list(dict.fromkeys(table["recipe"]))
    motif = table["motif"].iloc[0]
    figure, panels = plt.subplots(
        1,
        len(names),
        figsize=(4.2 * len(names) + 1.8, 3.1),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, name in zip(panels[0], names, strict=True):
        rows = table[table["recipe"] == name]
        y = np.arange(len(rows))[::-1]
        axes.barh(
            y + 0.2, rows["before"], height=0.38, color=_LIGHT, edgecolor="black", label="as it is"
        )
        axes.barh(
            y - 0.2,
            rows["after"],
            height=0.38,
            color=_DARK,
            hatch="//",
            edgecolor="black",
            label="with a watermark printed on it",
        )
        for place, row in zip(y, rows.itertuples(), strict=True):
            points = f"{100 * row.change:+.0f} ({100 * row.lower:+.0f} to {100 * row.upper:+.0f})"
            axes.annotate(
                points,
                (max(row.before, row.after), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        trained = rows["trained_on"].str.replace("whole", "whole pictures").str.replace(", ", ",\n")
        axes.set_yticks(y, "trained on " + trained, fontsize=8)
        axes.set(xlim=(0, 1), xlabel=f"share called {motif}", title=name)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.grid(axis="x", alpha=0.3)
    return _with_legend(figure, f"Pictures of other motifs that are called {motif}\n{data_title}")


def randomisation(table: pd.DataFrame, data_title: str) -> Figure:
    """Draw how heat maps change while the weights become random.

    Args:
        table: rows of `explain.randomisation`; with a column ``recipe``, one panel a recipe.
        data_title: title of the data set.
    """
    if "recipe" not in table:
        table = table.assign(recipe="")
    names = list(dict.fromkeys(table["recipe"]))
    figure, panels = plt.subplots(
        1,
        len(names),
        figsize=(4.4 * len(names) + 0.6, 3.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, name in zip(panels[0], names, strict=True):
        rows = table[table["recipe"] == name]
        styles = ((_DARK, "-", "o"), (_MIDDLE, "--", "s"), (_LIGHT, ":", "^"))
        for (explanation, part), (colour, line, marker) in zip(
            rows.groupby("explanation", sort=False), styles, strict=False
        ):
            axes.plot(
                part["stage"],
                part["rank_correlation"],
                color=colour,
                linestyle=line,
                marker=marker,
                label=explanation,
            )
            axes.fill_between(part["stage"], part["lower"], part["upper"], color=colour, alpha=0.15)
        other = rows["other_pictures"].iloc[0]
        axes.axhline(other, color="black", linewidth=0.8, linestyle=":")
        axes.annotate(
            "two different pictures",
            (part["stage"].max(), other),
            fontsize=7,
            va="bottom",
            ha="right",
        )
        part = rows[rows["explanation"] == rows["explanation"].iloc[0]]
        labels = ["none", *(str(n) for n in part["layers"].iloc[1:])]
        axes.set_xticks(part["stage"], labels)
        axes.set(xlabel="layers drawn anew, from the head down", title=name, ylim=(-0.5, 1.05))
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("rank correlation with the original map")
    panels[0][0].legend(fontsize=8, loc="lower left")
    figure.suptitle(f"Do the heat maps need the learned weights?\n{data_title}", fontsize=11)
    plt.close(figure)
    return figure


def _with_legend(figure: Figure, title: str) -> Figure:
    """Give the panels one legend and a title; shown by the notebook alone, not by pyplot."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    figure.suptitle(title, fontsize=11)
    plt.close(figure)
    return figure
