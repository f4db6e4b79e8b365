"""The figure of the deployed model's formats: a table in, a matplotlib ``Figure`` out.

As in `plots`: nothing is told by colour alone, and the title ends with the data's title. Introduced
in notebook 05.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from batik_utils.plots import _SHADES, _finished


def formats(table: pd.DataFrame, data_title: str) -> Figure:
    """Draw what each format costs and gives: time, size, accuracy in the grouped folds.

    Args:
        table: see `quantised.compare`; empty cells were not measured, and are not drawn.
        data_title: title of the data set.
    """
    figure, (time, size, right) = plt.subplots(
        1, 3, figsize=(10, 0.42 * len(table) + 2), sharey=True, layout="constrained"
    )
    place = np.arange(len(table))
    for axes, column, label, words in (
        (time, "ratio", "time, the deployed file is 1", "{:.2f}×"),
        (size, "megabytes", "megabytes", "{:.1f}"),
    ):
        known = table[column].notna()
        axes.barh(
            place[known], table[column][known], color=_SHADES[1], edgecolor="black", height=0.6
        )
        for y, value in zip(place[known], table[column][known], strict=True):
            axes.annotate(
                words.format(value), (value, y), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=8,
            )  # fmt: skip
        axes.set_xlabel(label)
        axes.set_xlim(0, 1.25 * table[column].max())
    time.axvline(1, color="black", linestyle=":", linewidth=1)
    for y, row in zip(place, table.itertuples(), strict=True):
        if np.isfinite(row.accuracy):
            right.hlines(y, row.lower, row.upper, color="black", linewidth=1.4)
            right.plot(row.accuracy, y, "o", color=_SHADES[0], markeredgecolor="black")
            right.annotate(
                f"{row.accuracy:.1%}", (row.accuracy, y), xytext=(0, 6),
                textcoords="offset points", ha="center", fontsize=8,
            )  # fmt: skip
    right.set_xlabel("accuracy, 95 % interval over groups of near-twins")
    right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.grid(axis="x", alpha=0.3)
    time.set_yticks(place, table["format"])
    time.set_ylim(len(table) - 0.4, -0.7)
    figure.suptitle(f"The deployed model in other formats\n{data_title}", fontsize=11)
    return _finished(figure)
