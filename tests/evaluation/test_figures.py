"""Figures of cross-validation: titles name the data, marks stand where the tables say."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from batik_utils.errors import BatikError
from batik_utils.evaluation import figures as plots_cv

TITLE = "the title of the data"


@pytest.fixture
def summary():
    return pd.DataFrame(
        {
            "recipe": ["best", "middle", "guess"],
            "family": ["ours", "scratch", "baseline"],
            "repeats": [5, 5, 3],
            "n_pictures": [150] * 3,
            "accuracy": [0.9, 0.6, 0.35],
            "lower": [0.85, 0.5, 0.3],
            "upper": [0.95, 0.7, 0.4],
            "megabytes": [20.0, 5.0, np.nan],
            "latency_ms": [30.0, 40.0, 1.0],
        }
    )


def texts(figure):
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        found += [text.get_text() for text in (*axes.get_yticklabels(), *axes.texts)]
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes)):
        found += [text.get_text() for text in legend.get_texts()] if legend else []
    return " | ".join(found)


def marked(axes):
    """Return (x, y, marker) of every line that is a single mark."""
    lines = [line for line in axes.lines if len(line.get_xdata()) == 1]
    return [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker()) for line in lines]


def test_intervals_draw_one_row_a_recipe(summary):
    figure = plots_cv.intervals(summary, TITLE, chance=1 / 3)
    (axes,) = figure.axes
    shown = texts(figure)
    assert TITLE in shown
    assert "150 pictures, cross-validated 3 to 5 times" in shown
    assert "guessing (33%)" in shown
    assert "90.0%" in shown
    assert [label.get_text() for label in axes.get_yticklabels()] == ["best", "middle", "guess"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # best on top
    assert [(x, y) for x, y, _ in marked(axes)] == [(0.9, 0), (0.6, 1), (0.35, 2)]
    assert len({marker for *_, marker in marked(axes)}) == 3
    spans = [line.get_segments()[0][:, 0].tolist() for line in axes.collections]
    assert spans == [[0.85, 0.95], [0.5, 0.7], [0.3, 0.4]]
    assert not plt.get_fignums()


def test_an_unknown_family_has_a_style_of_its_own(summary):
    summary["family"] = ["ours", "scratch", "probe"]
    figure = plots_cv.intervals(summary, TITLE)
    assert "probe" in texts(figure)
    assert len({marker for *_, marker in marked(figure.axes[0])}) == 3


def test_critical_difference_joins_what_is_not_told_apart():
    ranks = pd.Series({"c": 3.8, "a": 1.2, "b": 1.6, "d": 3.4})
    apart = 1 - np.kron(np.eye(2), np.ones((2, 2)))
    names = ["a", "b", "c", "d"]
    p = pd.DataFrame(1 - apart, index=names, columns=names)
    families = {"a": "ours", "b": "ours", "c": "baseline", "d": "scratch"}
    figure = plots_cv.critical_difference(ranks, p, TITLE, test="McNemar", families=families)
    (axes,) = figure.axes
    bars = [line for line in axes.lines if line.get_linewidth() == 3]
    assert sorted(sorted(line.get_xdata()) for line in bars) == [[1.2, 1.6], [3.4, 3.8]]
    shown = texts(figure)
    assert TITLE in shown
    assert "McNemar, 5% level" in shown
    assert "a  1.2" in shown
    assert "3.8  c" in shown
    assert {x: marker for x, y, marker in marked(axes) if y == 0} == {
        1.2: "o",
        1.6: "o",
        3.4: "^",
        3.8: "s",
    }
    with pytest.raises(BatikError, match=r"odd: \['d'\]"):
        plots_cv.critical_difference(ranks[["a", "b", "c"]], p, TITLE, test="McNemar")


def test_reliability_draws_both_tables():
    table = pd.DataFrame(
        {"confidence": [0.5, 0.9], "accuracy": [0.4, 0.8], "lower": [0.2, 0.6], "upper": [0.6, 0.9]}
    )
    figure = plots_cv.reliability({"as trained": table, "scaled": table + 0.05}, "net", TITLE)
    (axes,) = figure.axes
    diagonal, first, second = axes.lines
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    assert first.get_ydata().tolist() == [0.4, 0.8]
    assert second.get_ydata() == pytest.approx([0.45, 0.85])
    assert first.get_linestyle() != second.get_linestyle()
    shown = texts(figure)
    assert all(part in shown for part in (TITLE, "net", "as trained", "scaled", "of 2 bins"))


def test_learning_curve_has_mean_and_band():
    table = pd.DataFrame(
        {
            "recipe": ["net"] * 4 + ["probe"] * 2,
            "n_train": [30, 30, 90, 90, 30, 90],
            "seed": [0, 1, 0, 1, 0, 0],
            "accuracy": [0.4, 0.6, 0.7, 0.8, 0.5, 0.9],
        }
    )
    figure = plots_cv.learning_curve(table, TITLE, chance=1 / 3)
    (axes,) = figure.axes
    assert axes.lines[0].get_xdata().tolist() == [30, 90]
    assert axes.lines[0].get_ydata() == pytest.approx([0.5, 0.75])
    band = axes.collections[0].get_paths()[0].vertices
    assert {tuple(point) for point in band} == {(30, 0.4), (30, 0.6), (90, 0.7), (90, 0.8)}
    shown = texts(figure)
    assert all(part in shown for part in (TITLE, "training pictures", "probe", "guessing"))


def test_difficulty_counts_every_picture_once():
    table = pd.DataFrame(
        {"label": ["x", "x", "y", "y"], "wrong": [0.0, 1.0, 0.05, 0.55], "recipes": [7] * 4}
    )
    figure = plots_cv.difficulty(table, TITLE)
    heights = np.array([bar.get_height() for bar in figure.axes[0].patches]).reshape(2, 10)
    assert heights.sum(axis=1).tolist() == [2, 2]
    assert heights[:, 0].tolist() == [1, 1]
    assert (heights[0, 9], heights[1, 5]) == (1, 1)
    assert len({bar.get_hatch() for bar in figure.axes[0].patches}) == 2
    assert not figure.axes[0].images
    assert "(7 recipes)" in texts(figure)
    assert TITLE in texts(figure)


def test_accuracy_coverage_draws_the_recipes_asked_for():
    one = pd.DataFrame({"coverage": [0.25, 0.5, 1], "accuracy": [1, 0.9, 0.7]})
    table = pd.concat([one.assign(recipe=name) for name in ("a", "b", "c")], ignore_index=True)
    figure = plots_cv.accuracy_coverage(table, TITLE, ["c", "a"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["c", "a"]
    assert axes.lines[0].get_ydata().tolist() == [1, 0.9, 0.7]
    assert axes.get_ylim()[0] == pytest.approx(0.65)
    assert TITLE in texts(figure)
    assert "share of pictures answered" in texts(figure)


def test_cost_names_the_unbeaten_and_leaves_out_the_unknown(summary):
    figure = plots_cv.cost(summary, TITLE)
    size, latency = figure.axes
    assert [text.get_text() for text in size.texts] == ["middle", "best"]
    # the middle one is slower than the best
    assert [text.get_text() for text in latency.texts] == ["guess", "best"]
    points = [
        np.concatenate([dots.get_offsets() for dots in axes.collections[1:]]).tolist()
        for axes in (size, latency)
    ]
    assert sorted(points[0]) == [[5, 0.6], [20, 0.9]]
    assert sorted(points[1]) == [[1, 0.35], [30, 0.9], [40, 0.6]]
    shown = texts(figure)
    assert all(part in shown for part in (TITLE, "(MB)", "(ms)", "baseline"))


def test_pictures_are_counted_by_doubt():
    table = pd.DataFrame(
        {
            "path": list("abcd"),
            "wrong": [0, 0, 2, 2],
            "repeats": 2,
            "kind": ["undoubted", "undoubted", "undoubted", "doubted by a person or a twin"],
        }
    )
    figure = plots_cv.label_kinds(table, TITLE)
    (axes,) = figure.axes
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights == [[2, 0, 1], [0, 0, 1]]
    assert axes.containers[1][2].get_y() == 1  # stacked
    assert TITLE in texts(figure) and "doubted by a person or a twin (1)" in texts(figure)
    plt.close(figure)
