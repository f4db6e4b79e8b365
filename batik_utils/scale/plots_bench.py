"""The figures of `bench`: ratios beside their aims, and very many pictures.

As in `plots`: nothing is told by colour alone. Introduced in notebook 04, section "How fast".
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from batik_utils.plots import _LINES, _MARKERS, _SHADES, _axes, _finished


def ratios(table: pd.DataFrame, data_title: str) -> Figure:
    """Draw how many times faster each thing is, with the range of its repetitions and its aim.

    Args:
        table: ``bench.csv``.
        data_title: title of the data set.
    """
    facts = table.iloc[0]
    figure, axes = _axes(
        data_title,
        f"How many times faster than the reference ({facts['cores']} cores, {facts['cpu']})",
        width=9,
        height=0.34 * len(table) + 2,
    )
    for y, row in enumerate(table.itertuples()):
        axes.hlines(y, row.ratio_min, row.ratio_max, color="black", linewidth=1.6, zorder=2)
        marker, colour = ("o", _SHADES[0]) if row.met else ("X", _SHADES[1])
        axes.plot(row.ratio, y, marker, color=colour, markeredgecolor="black", markersize=8)
        if np.isfinite(row.aim):
            axes.plot(row.aim, y, "|", color="black", markersize=16, markeredgewidth=2)
        text = f"{row.ratio:,.3g}×" if row.ratio < 1000 else f"{row.ratio:,.0f}×"
        axes.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8)
    axes.axvline(1, color="black", linestyle=":", linewidth=1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", alpha=0.3)
    axes.set_yticks(range(len(table)), table["name"])
    axes.set_ylim(len(table) - 0.4, -0.6)
    axes.set_xlabel("reference time / measured time (line: range of the repetitions)")
    handles = [
        plt.Line2D([], [], marker="o", color=_SHADES[0], markeredgecolor="black", linestyle=""),
        plt.Line2D([], [], marker="X", color=_SHADES[1], markeredgecolor="black", linestyle=""),
        plt.Line2D([], [], marker="|", color="black", linestyle="", markersize=14),
    ]
    labels = ["aim reached, or no aim", "aim or time limit missed", "aim"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=8)
    return _finished(figure)


def scale(table: pd.DataFrame, data_title: str) -> Figure:
    """Draw time and memory while very many pictures pass.

    Args:
        table: ``scale.csv``.
        data_title: title of the data set.
    """
    n = int(table["pictures"].max())
    figure, (times, memory) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    for k, (what, rows) in enumerate(table.groupby("what", sort=False)):
        style = {"marker": _MARKERS[k], "linestyle": _LINES[k], "color": _SHADES[k]}
        style |= {"markeredgecolor": "black", "label": what}
        times.plot(rows["pictures"], 1000 * rows["seconds_per_picture"], **style)
        memory.plot(rows["pictures"], rows["megabytes"], **style)
    times.set_ylabel("ms a picture")
    memory.set_ylabel("memory in use (MB)")
    for axes in (times, memory):
        axes.set(xlabel="pictures so far", ylim=(0, None), xlim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(f"{n:,} pictures, one after another\n{data_title}", fontsize=11)
    return _finished(figure)
