"""Figures of the report show the values of their tables."""

import pandas as pd
from matplotlib.colors import to_hex

from batik_utils import plots
from batik_utils.evaluation import figures


def words(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_claims_have_a_row_each_with_name_value_and_interval():
    columns = ["name", "note", "accuracy", "lower", "upper", "colour", "runs", "hollow"]
    rows = [
        ("published", "one run", 0.8, 0.55, 0.93, "rest", None, True),
        ("repeated", "", 0.5, None, None, "rest", [0.4, 0.5, 0.5, 0.6], False),
        ("ours", "", 0.9, 0.85, 0.95, "main", None, False),
    ]
    figure = figures.claims(pd.DataFrame(rows, columns=columns), chance=1 / 3)
    assert {"published", "repeated", "ours", "80%", "50%", "90%"} <= words(figure)
    drawn = [line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sorted(x for xs in drawn for x in xs) == [0.4, 0.5, 0.5, 0.6, 0.8, 0.9]
    last = next(t for t in figure.axes[0].texts if t.get_text() == "ours")
    assert to_hex(last.get_color()) == plots.ACCENT


def test_rows_and_lines_carry_their_names_and_values():
    table = pd.DataFrame({"before": [0.6, 0.3], "after": [0.8, 0.2]}, index=["one", "two"])
    figure = figures.pairs(table, ["before", "after"])
    assert {"one", "two", "before", "after", "60%", "80%", "30%", "20%"} <= words(figure)
    bins = {"confidence": [0.5, 0.9], "accuracy": [0.4, 1], "lower": [0.2, 0.8], "upper": [0.6, 1]}
    figure = figures.reliability(pd.DataFrame(bins))
    assert figure.axes[0].lines[-1].get_ydata().tolist() == [0.4, 1]


def test_a_search_shows_complete_trials_and_the_best_so_far():
    trials = pd.DataFrame({"value": [0.9, 0.5, 2.0, 0.7], "state": "COMPLETE"})
    trials.loc[2, "state"] = "PRUNED"
    figure = figures.search_history(trials)
    losses, so_far = (line.get_ydata().tolist() for line in figure.axes[0].lines)
    assert (losses, so_far) == ([0.9, 0.5, 0.7], [0.9, 0.5, 0.5])
