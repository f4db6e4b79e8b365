"""Figures of explanations name their data, show what the tables say, and survive a grey print."""

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

from batik_utils.evaluation import masking, plots_explain, shortcuts


@pytest.fixture
def table():
    rows = [("whole", "whole", 0.8), ("blurred", "whole", 0.4), ("blurred", "blurred", 0.6)]
    frames = [
        pd.DataFrame(rows, columns=["kind", "trained_on", "accuracy"]).assign(
            recipe=name,
            lower=lambda t: t["accuracy"] - 0.1,
            upper=lambda t: t["accuracy"] + 0.05,
        )
        for name in ("one", "two")
    ]
    # rows that belong to the watermark's own figure
    extra = frames[0].iloc[:1].assign(trained_on=shortcuts.UNMARKED, accuracy=0.99)
    return pd.concat([*frames, extra])


def drawn(axes):
    return [round(bar.get_width(), 3) for bar in axes.patches if np.isfinite(bar.get_width())]


def test_shortcuts_draw_each_accuracy_once_with_its_interval(table):
    figure = plots_explain.shortcuts(table, "the data")
    assert "the data" in figure.get_suptitle()
    for axes, name in zip(figure.axes, ("one", "two"), strict=True):
        assert axes.get_title() == name
        assert drawn(axes) == [0.8, 0.4, 0.6]
        assert {bar.get_hatch() for bar in axes.patches} == {"", "//"}
        whole, guess = (line.get_xdata()[0] for line in axes.lines[-2:])
        assert (whole, guess) == (0.8, pytest.approx(1 / 3))
    # the bar of whole pictures stands above that of blurred ones
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_yticklabels()] == ["whole", "blurred"]
    assert list(first.get_yticks()) == [1, 0]


def test_the_watermark_figure_writes_the_change_beside_the_bars():
    rows = pd.DataFrame(
        {
            "recipe": "one",
            "trained_on": [shortcuts.CONTROL, "whole", shortcuts.UNMARKED],
            "motif": "tambal",
            "before": [0.1, 0.2, 0.15],
            "after": [0.3, 0.5, 0.16],
            "change": [0.2, 0.3, 0.01],
            "lower": [0.1, 0.2, -0.05],
            "upper": [0.3, 0.4, 0.07],
        }
    )
    figure = plots_explain.watermark(rows, "the data")
    axes = figure.axes[0]
    assert drawn(axes) == [0.1, 0.2, 0.15, 0.3, 0.5, 0.16]
    assert [text.get_text() for text in axes.texts] == [
        "+20 (+10 to +30)",
        "+30 (+20 to +40)",
        "+1 (-5 to +7)",
    ]
    assert "tambal" in axes.get_xlabel() and "tambal" in figure.get_suptitle()


def test_randomisation_draws_a_line_for_each_explanation():
    rows = pd.DataFrame(
        {
            "explanation": ["Grad-CAM"] * 2 + ["edges"] * 2,
            "stage": [0, 1, 0, 1],
            "layers": [0, 7, 0, 7],
            "rank_correlation": [1, 0.1, 1, 1],
            "lower": [1, 0, 1, 1],
            "upper": [1, 0.3, 1, 1],
            "other_pictures": 0.2,
        }
    )
    axes = plots_explain.randomisation(rows, "the data").axes[0]
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[1, 0.1], [1, 1]]
    assert len({line.get_linestyle() for line in axes.lines[:2]}) == 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["none", "7"]


def test_overlays_outline_the_hot_place_and_leave_the_picture_alone():
    pixels = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    maps = np.zeros((3, 16, 16), np.float32)
    maps[:2, 4:8, 4:8] = 1
    figure = plots_explain.overlays(pixels, maps, ["a", "b", "c"], "the data", columns=2)
    assert figure.get_suptitle() == "the data"
    shown = [axes for axes in figure.axes if axes.images]
    titles = [axes for axes in shown if axes.get_title()]
    assert [axes.get_title() for axes in titles] == ["a", "b", "c"]
    picture = np.asarray(titles[0].images[0].get_array())
    assert np.array_equal(picture, pixels[0].permute(1, 2, 0).numpy())
    covered = [axes for axes in shown if len(axes.images) == 2]
    # a map without heat has no outline
    assert sorted(len(axes.collections) for axes in covered) == [0, 1, 1]


def test_masked_pictures_show_every_kind():
    pixels = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    figure = plots_explain.masked_pictures(pixels, ["a", "b"], "the data")
    names = [axes.get_title().replace("\n", " ") for axes in figure.axes if axes.get_title()]
    assert sorted(names) == sorted(masking.KINDS)
    assert len(figure.axes) == 2 * len(masking.KINDS)
    assert plt.get_fignums() == []
