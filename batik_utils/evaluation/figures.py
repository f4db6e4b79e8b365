"""Figures of the report: tables of this package in, a matplotlib ``Figure`` out.

The style is that of `plots`; titles and captions are the notebook's. Used in notebooks 02 to 04.
"""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from batik_utils import plots

COLOURS = {"main": plots.ACCENT, "second": plots.SECOND, "rest": plots.GREY}


@plots.style()
def claims(rows: pd.DataFrame, chance: float) -> Figure:
    """Accuracies in rows, each with its name above it: the main figure.

    ``rows`` has ``name, note, accuracy, lower, upper, colour`` (``main, second`` or ``rest``),
    ``runs`` (a list of accuracies to draw as dots, or None) and ``hollow`` (others' numbers).
    """
    figure, [[axes]] = plots.new("", 6.2, 0.62 * len(rows) + 0.7)
    low = 0.2
    paper = {"facecolor": plots.PAPER, "linewidth": 0, "pad": 1.5}
    for y, row in enumerate(rows.itertuples()):
        colour = COLOURS[row.colour]
        heavy = "bold" if row.colour == "main" else "normal"
        ink = plots.INK if row.colour == "rest" else colour
        name = axes.text(
            low, y - 0.26, row.name, va="bottom", color=ink, weight=heavy, fontsize=11, bbox=paper
        )
        note = f"  {row.note}"
        axes.annotate(note, (1, 0), xycoords=name, va="bottom", fontsize=8.5, color=plots.DIM)
        axes.hlines(y, low, 1, color=plots.LIGHT, linewidth=0.8, zorder=0)
        if row.runs is not None:
            plots.dots(axes, row.runs, y)
            axes.plot([row.accuracy] * 2, [y - 0.24, y + 0.24], color=plots.INK, linewidth=2)
        else:
            axes.hlines(y, row.lower, row.upper, color=colour, linewidth=3.5, alpha=0.45)
            face = plots.PAPER if row.hollow else colour
            axes.plot(row.accuracy, y, "o", markersize=10, color=colour, markerfacecolor=face,
                      markeredgewidth=2)  # fmt: skip
        bold = {"va": "center", "fontsize": 13, "weight": "bold", "color": ink}
        axes.text(1.015, y, f"{row.accuracy:.0%}", **bold)
    axes.axvline(chance, color=plots.DIM, linestyle=":", linewidth=1, zorder=0)
    axes.text(chance, len(rows) - 0.55, " guessing", color=plots.DIM, fontsize=8.5, va="center")
    axes.set(xlim=(low, 1), ylim=(len(rows) - 0.4, -0.75), yticks=[])
    plots.percent(axes.xaxis)
    axes.spines["bottom"].set_visible(False)
    return figure


@plots.style()
def pairs(table: pd.DataFrame, names: Sequence[str], title: str = "", width: float = 4.4) -> Figure:
    """Two shares a row, joined by a line: ``names`` are the columns, the index labels the rows."""
    figure, [[axes]] = plots.new(title, width, 0.58 * len(table) + 0.9)
    low, high = table[list(names)].min().min(), table[list(names)].max().max()
    space = 0.12 * (high - low)
    for y, (name, row) in enumerate(table.iterrows()):
        first, second = (row[column] for column in names)
        axes.text(low - 1.2 * space, y - 0.2, name, va="bottom", fontsize=9)
        axes.plot([first, second], [y, y], color=plots.GREY, linewidth=3, alpha=0.5)
        axes.plot(first, y, "o", color=plots.GREY, markersize=9)
        axes.plot(second, y, "o", color=plots.ACCENT, markersize=9)
        side = 1 if second >= first else -1
        for value, where, colour in ((first, -side, plots.DIM), (second, side, plots.ACCENT)):
            place = {"ha": "left" if where > 0 else "right", "va": "center", "fontsize": 9}
            plots.beside(axes, f"{value:.0%}", (value, y), (9 * where, 0), color=colour, **place)
            if y == 0:
                name = names[0] if colour == plots.DIM else names[1]
                place |= {"va": "top", "fontsize": 8.5}
                plots.beside(axes, name, (value, 0), (0, -9), color=colour, **place)
    axes.set(xlim=(low - 1.5 * space, high + 1.5 * space), ylim=(len(table) - 0.6, -0.55))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return figure


@plots.style()
def reliability(table: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy against confidence, from `calibration.reliability`."""
    figure, [[axes]] = plots.new(title, 4.4, 3.7)
    axes.plot([0, 1], [0, 1], color=plots.GREY, linewidth=0.8, linestyle=":")
    axes.vlines(table["confidence"], table["lower"], table["upper"], color=plots.ACCENT, alpha=0.45,
                linewidth=3)  # fmt: skip
    axes.plot(table["confidence"], table["accuracy"], "o-", color=plots.ACCENT, markersize=6)
    low = table[["confidence", "lower"]].to_numpy().min() - 0.03
    place = low + 0.3 * (1 - low)
    axes.text(place, place - 0.03, "perfectly calibrated", color=plots.DIM, fontsize=8.5, va="top")
    axes.set(xlim=(low, 1.02), ylim=(low, 1.02), xlabel="stated probability", ylabel="accuracy")
    plots.percent(axes.xaxis)
    plots.percent(axes.yaxis)
    return figure


@plots.style()
def search_history(trials: pd.DataFrame) -> Figure:
    """Loss of every complete trial of a search by its number (the index), and the best so far."""
    complete = trials.loc[trials["state"] == "COMPLETE", "value"]
    figure, [[axes]] = plots.new("", 7, 3.2)
    axes.plot(complete, "o", color=plots.GREY)
    axes.plot(complete.cummin(), color=plots.ACCENT)
    middle = list(complete.cummin().items())[len(complete) // 2]
    above = {"ha": "center", "va": "top", "color": plots.ACCENT}
    plots.beside(axes, "best so far", middle, (0, -6), **above)
    axes.set(xlabel="trial", ylabel="log-loss (nats)")
    return figure
