"""Figures say whose data they show, carry units, and survive a greyscale print."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from batik_utils import plots
from batik_utils.data import Dataset

CLASSES = ("betawi", "sidoluhur", "tambal")


@pytest.fixture
def dataset(tmp_path):
    rows = []
    for k, motif in enumerate(CLASSES):
        (tmp_path / motif).mkdir()
        for n in range(4):
            Image.new("RGB", (40 + n, 30 + k), (80 * k, 90, 200 - 60 * k)).save(
                tmp_path / motif / f"{n}.png"
            )
            rows.append((f"{motif}/{n}.png", motif, 100, "0", 40 + n, 30 + k, "PNG"))
    columns = ["path", "motif", "size", "sha256", "width", "height", "format"]
    manifest = pd.DataFrame(rows, columns=columns)
    return Dataset(
        "folder",
        "folder-0",
        "the title of the data",
        tmp_path,
        CLASSES,
        manifest,
        manifest[:0],
        "0",
    )


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def summary():
    return pd.DataFrame(
        {
            "recipe": ["b", "a", "a"],
            "epochs": [10, 10, 1],
            "family": ["transfer", "scratch", "scratch"],
            "accuracy": [0.8, 0.6, 0.4],
            "lower": [0.5, 0.3, 0.2],
            "upper": [0.95, 0.8, 0.7],
            "min": [0.7, 0.5, 0.4],
            "max": [0.9, 0.7, 0.4],
            "n_test": [15, 15, 15],
            "train_seconds": [3.0, 30.0, 3.0],
        }
    )


def texts(figure):
    found = [figure.get_suptitle()]
    for axes in figure.axes:
        found += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        found += [t.get_text() for t in axes.get_yticklabels()]
    return " ".join(found)


def test_data_figures_name_their_source_and_units(dataset, pixels):
    figures = {
        "pictures": plots.class_counts(dataset),
        "width (px)": plots.picture_sizes(dataset),
        "Samples": plots.sample_sheet(dataset, per_motif=2, seed=1),
        "0-255": plots.channel_intensity(pixels, dataset),
        "channel value": plots.colour_histograms(pixels, dataset),
    }
    for unit, figure in figures.items():
        assert "the title of the data" in texts(figure)
        assert unit in texts(figure)


def test_class_counts_differ_in_hatch_as_well_as_in_colour(dataset):
    bars = plots.class_counts(dataset).axes[0].patches
    assert [bar.get_height() for bar in bars] == [4, 4, 4]
    assert len({bar.get_hatch() for bar in bars}) == 3


def test_sample_sheet_depends_on_the_seed_only(dataset):
    def shown(seed):
        figure = plots.sample_sheet(dataset, per_motif=2, seed=seed)
        return [axes.get_xlabel() for axes in figure.axes]

    assert shown(1) == shown(1)
    assert len({tuple(shown(seed)) for seed in range(6)}) > 1


def test_histograms_are_shares_of_all_pixels(dataset, pixels):
    figure = plots.colour_histograms(pixels, dataset, bins=16)
    for line in figure.axes[0].lines:
        assert line.get_ydata().sum() == pytest.approx(1)


def test_learning_curves_draw_the_history(dataset):
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "train_loss": [1.0, 0.5],
            "train_accuracy": [0.4, 0.8],
            "validation_loss": [1.1, 0.9],
            "validation_accuracy": [0.3, 0.6],
        }
    )
    figure = plots.learning_curves(history, "scratch1", dataset.title)
    loss, accuracy = figure.axes
    assert loss.lines[0].get_ydata().tolist() == [1.0, 0.5]
    assert accuracy.lines[1].get_ydata().tolist() == [0.3, 0.6]
    assert len({line.get_linestyle() for line in loss.lines}) == 2
    assert "nats" in loss.get_ylabel()


def test_confusion_matrix_carries_its_numbers(dataset):
    counts = pd.DataFrame([[3, 1], [0, 4]], index=["a", "b"], columns=["a", "b"])
    figure = plots.confusion_matrix(counts, "scratch1", dataset.title)
    assert [t.get_text() for t in figure.axes[0].texts] == ["3", "1", "0", "4"]


def test_accuracies_show_published_numbers_where_there_are_some(summary):
    axes = plots.accuracies(summary, {"a": 0.75}, "data").axes[0]
    diamonds = axes.lines[1]
    assert np.isnan(diamonds.get_xdata()).tolist() == [False, False, True]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a, 1 ep", "a, 10 ep", "b"]


def test_repetitions_draw_every_run(summary):
    runs = pd.concat([summary.iloc[[0]], summary.iloc[[0]], summary.iloc[[1]]])
    axes = plots.repetitions(runs, {"a": 0.75}, "data").axes[0]
    assert sum(len(c.get_offsets()) for c in axes.collections) == 3


def test_cost_names_the_recipes_that_no_other_beats_in_both(summary):
    axes = plots.cost(summary, "data").axes[0]
    # "a" with 10 epochs takes longer than "b" and scores less
    assert [t.get_text() for t in axes.texts] == ["b"]


def test_cost_and_probabilities(summary):
    assert "training time of one run (s)" in texts(plots.cost(summary, "data"))
    bars = plots.probabilities([0.7, 0.2, 0.1], CLASSES, "answer").axes[0]
    assert [t.get_text() for t in bars.texts] == ["70.0%", "20.0%", "10.0%"]


@pytest.fixture
def trials():
    return pd.DataFrame(
        {
            "number": [0, 1, 2, 3],
            "state": ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"],
            "value": [0.9, 0.7, 1.5, 0.8],
            "epochs": [10, 20, 10, 20],
            "learning_rate": [0.001, 0.01, 0.01, 0.0001],
            "augment": [0.5, 0.5, 0.5, 0.5],
        }
    )


def test_a_search_is_drawn_whole_and_with_its_source(trials):
    names = ["epochs", "learning_rate", "augment"]
    history = plots.search_history(trials, "scratch1", "data")
    importance = plots.search_importance(pd.Series([0.7, 0.3, 0], names), "scratch1", "data")
    parallel = plots.search_parallel(trials, names, "scratch1", "data")
    for figure in (history, importance, parallel):
        assert "scratch1" in texts(figure) and "data" in texts(figure)
    assert sum(len(c.get_offsets()) for c in history.axes[0].collections) == 4
    assert history.axes[0].lines[0].get_ydata().tolist() == [0.9, 0.7, 0.7]
    assert "nats" in texts(history)
    assert "more above the frame" not in texts(history)
    astray = trials.assign(value=[0.9, 0.7, 1.0, 9.0])
    assert "(1 more above" in texts(plots.search_history(astray, "scratch1", "data"))
    lines = [line for line in parallel.axes[0].lines if len(line.get_xdata()) == 4]
    # the last one drawn is the best: a log-loss at the bottom, in black
    assert [line.get_ydata()[-1] for line in lines] == pytest.approx([1, 0.5, 0])
    assert lines[-1].get_color() == "0.0"
    assert {t.get_text() for t in parallel.axes[0].texts} >= {"0.0001", "0.01", "10", "20", "0.5"}
    assert "70%" in [t.get_text() for t in importance.axes[0].texts]


def test_no_figure_stays_open(dataset, pixels, summary):
    plots.class_counts(dataset)
    plots.colour_histograms(pixels, dataset)
    plots.cost(summary, "data")
    assert plt.get_fignums() == []


def test_architecture_draws_each_change_of_shape_with_its_parameters():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 2)
    )
    axes = plots.architecture(network, 8, "toy").axes[0]
    assert [t.get_text().splitlines()[:2] for t in axes.texts] == [
        ["picture", "3×8×8"],
        ["Conv2d", "4×8×8"],
        ["MaxPool2d", "4×4×4"],
        ["Flatten", "64"],
        ["Linear", "2"],
    ]
    assert "130\nparameters" in axes.texts[-1].get_text()
