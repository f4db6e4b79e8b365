"""Figures of the report: tables of this package in, a matplotlib ``Figure`` out.

The style is that of `plots`; titles and captions are the notebook's. Used in notebooks 02 to 04.
"""

import warnings
from collections.abc import Sequence
from unittest import mock

import matplotlib.pyplot as plt
import optuna
import pandas as pd
from matplotlib.figure import Figure

from batik_utils.plots import (
    ACCENT,
    DIM,
    GREY,
    INK,
    LIGHT,
    PAPER,
    SECOND,
    beside,
    dots,
    new,
    percent,
    style,
)

COLOURS = {"main": ACCENT, "second": SECOND, "rest": GREY}


@style()
def claims(
    rows: pd.DataFrame, title: str = "", chance: float | None = None, low: float = 0.2
) -> Figure:
    """Accuracies in rows, each with its name above it: the main figure.

    ``rows`` has ``name, note, accuracy, lower, upper, colour`` (``main, second`` or ``rest``),
    ``runs`` (a list of accuracies to draw as dots, or None) and ``hollow`` (others' numbers).
    """
    figure, [[axes]] = new(title, 6.2, 0.62 * len(rows) + 0.7)
    paper = {"facecolor": PAPER, "linewidth": 0, "pad": 1.5}
    for y, row in enumerate(rows.itertuples()):
        colour = COLOURS[row.colour]
        heavy = "bold" if row.colour == "main" else "normal"
        ink = INK if row.colour == "rest" else colour
        name = axes.text(
            low, y - 0.26, row.name, va="bottom", color=ink, weight=heavy, fontsize=11, bbox=paper
        )
        note = f"  {row.note}"
        axes.annotate(note, (1, 0), xycoords=name, va="bottom", fontsize=8.5, color=DIM)
        axes.hlines(y, low, 1, color=LIGHT, linewidth=0.8, zorder=0)
        if row.runs is not None:
            dots(axes, row.runs, y)
            axes.plot([row.accuracy] * 2, [y - 0.24, y + 0.24], color=INK, linewidth=2)
        else:
            axes.hlines(y, row.lower, row.upper, color=colour, linewidth=3.5, alpha=0.45)
            face = PAPER if row.hollow else colour
            axes.plot(row.accuracy, y, "o", markersize=10, color=colour, markerfacecolor=face,
                      markeredgewidth=2)  # fmt: skip
        bold = {"va": "center", "fontsize": 13, "weight": "bold", "color": ink}
        axes.text(1.015, y, f"{row.accuracy:.0%}", **bold)
    if chance is not None:
        axes.axvline(chance, color=DIM, linestyle=":", linewidth=1, zorder=0)
        axes.text(chance, len(rows) - 0.55, " guessing", color=DIM, fontsize=8.5, va="center")
    axes.set(xlim=(low, 1), ylim=(len(rows) - 0.4, -0.75), yticks=[])
    percent(axes.xaxis)
    axes.spines["bottom"].set_visible(False)
    return figure


@style()
def pairs(table: pd.DataFrame, names: Sequence[str], title: str = "", width: float = 4.4) -> Figure:
    """Two shares a row, joined by a line: ``names`` are the columns, the index labels the rows."""
    figure, [[axes]] = new(title, width, 0.58 * len(table) + 0.9)
    low, high = table[list(names)].min().min(), table[list(names)].max().max()
    space = 0.12 * (high - low)
    for y, (name, row) in enumerate(table.iterrows()):
        first, second = (row[column] for column in names)
        axes.text(low - 1.2 * space, y - 0.2, name, va="bottom", fontsize=9)
        axes.plot([first, second], [y, y], color=GREY, linewidth=3, alpha=0.5)
        axes.plot(first, y, "o", color=GREY, markersize=9)
        axes.plot(second, y, "o", color=ACCENT, markersize=9)
        side = 1 if second >= first else -1
        for value, where, colour in ((first, -side, DIM), (second, side, ACCENT)):
            place = {"ha": "left" if where > 0 else "right", "va": "center", "fontsize": 9}
            beside(axes, f"{value:.0%}", (value, y), (9 * where, 0), color=colour, **place)
            if y == 0:
                name = names[0] if colour == DIM else names[1]
                place |= {"va": "top", "fontsize": 8.5}
                beside(axes, name, (value, 0), (0, -9), color=colour, **place)
    axes.set(xlim=(low - 1.5 * space, high + 1.5 * space), ylim=(len(table) - 0.6, -0.55))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return figure


@style()
def reliability(table: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy against confidence, from `calibration.reliability`."""
    figure, [[axes]] = new(title, 4.4, 3.7)
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=0.8, linestyle=":")
    axes.vlines(table["confidence"], table["lower"], table["upper"], color=ACCENT, alpha=0.45,
                linewidth=3)  # fmt: skip
    axes.plot(table["confidence"], table["accuracy"], "o-", color=ACCENT, markersize=6)
    low = table[["confidence", "lower"]].to_numpy().min() - 0.03
    place = low + 0.3 * (1 - low)
    axes.text(place, place - 0.03, "perfectly calibrated", color=DIM, fontsize=8.5, va="top")
    axes.set(xlim=(low, 1.02), ylim=(low, 1.02), xlabel="stated probability", ylabel="accuracy")
    percent(axes.xaxis)
    percent(axes.yaxis)
    return figure


@style()
def learning_curve(table: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy over training pictures, of `out_of_fold.learning`; the band spans the repeats."""
    figure, [[axes]] = new(title, 7, 3.8)
    full = table[table["n_train"] > 0.9 * table["n_train"].max()]
    names = full.groupby("recipe")["accuracy"].mean().sort_values(ascending=False).index
    for k, name in enumerate(names):
        colour, line = ((ACCENT, "-"), (SECOND, "--"), (GREY, ":"))[k % 3]
        by_size = table[table["recipe"] == name].groupby("n_train")["accuracy"]
        mean = by_size.mean()
        axes.fill_between(mean.index, by_size.min(), by_size.max(), color=colour, alpha=0.15,
                          linewidth=0)  # fmt: skip
        axes.plot(mean.index, mean, line, color=colour, marker="o", markersize=4)
        axes.text(mean.index[-1] + 2, mean.iloc[-1], name, color=colour, va="center", fontsize=9)
    axes.set(xlabel="training pictures", xlim=(0, table["n_train"].max() * 1.3))
    axes.set_ylabel("accuracy")
    percent(axes.yaxis)
    return figure


@style()
def search_history(trials: pd.DataFrame, title: str = "") -> Figure:
    """Loss of every complete trial of `search.read`, and the best so far."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for row in trials.itertuples():
        state = optuna.trial.TrialState[row.state]
        study.add_trial(optuna.create_trial(state=state, value=row.value))
    with mock.patch.object(plt.style, "use"), warnings.catch_warnings():  # Optuna sets its own
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        draw = optuna.visualization.matplotlib.plot_optimization_history
        axes = draw(study, target_name="log-loss (nats)")
    axes.get_legend().remove()
    for drawn, colour in ((axes.collections[0], GREY), (axes.lines[0], ACCENT)):
        drawn.set(color=colour, alpha=1)
    middle = axes.lines[0].get_xydata()[len(trials) // 2]
    beside(axes, "best so far", middle, (0, -6), color=ACCENT, ha="center", va="top")
    axes.set(title=title, xlabel="trial")
    axes.figure.set_size_inches(7, 3.2)
    plt.close(axes.figure)
    return axes.figure
