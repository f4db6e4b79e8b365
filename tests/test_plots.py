"""Figures of the notebooks: one style, their data in them, and no figure left open."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from PIL import Image
from torch import nn

from batik_utils import data, plots


@pytest.fixture
def every(picture_tree):
    """Each figure once."""
    root = picture_tree({"batik-betawi": 4, "batik-tambal": 3})
    dataset = data.load("folder", root, "betawi,tambal")
    pixels = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "train_loss": [9.0, 0.9, 0.5], "validation_loss": [8.0, 1, np.nan]}
        | {"train_accuracy": [0.3, 0.5, 0.8], "validation_accuracy": [0.3, 0.4, 0.5]}
    )
    counts = pd.DataFrame([[4, 0], [1, 3]], ["betawi", "tambal"], ["betawi", "tambal"])
    shares = pd.DataFrame({"accuracy": [0.7, 0.3], "lower": 0.2, "upper": 0.8}, ["a", "b"])
    runs = pd.DataFrame({"recipe": ["a", "a", "b"], "accuracy": [0.6, 0.6, 0.4]})
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    maps = np.linspace(0, 1, 2 * 64).reshape(2, 8, 8)
    return {
        "picture_sizes": plots.picture_sizes(dataset),
        "sample_sheet": plots.sample_sheet(dataset, 2, seed=1, title="the title"),
        "colour_histograms": plots.colour_histograms(pixels, dataset),
        "picture_grid": plots.picture_grid(pixels, list("abcdefg"), "the title"),
        "overlays": plots.overlays(pixels[:2], maps, ["a", "b"]),
        "architecture": plots.architecture(layers, 8),
        "learning_curves": plots.learning_curves(history),
        "confusion_matrix": plots.confusion_matrix(counts, "the title"),
        "repetitions": plots.repetitions(runs, {"a": 0.8}, "the title"),
        "intervals": plots.intervals(shares, 0.3, "the title"),
    }


def test_every_figure_has_the_style_and_its_title_and_is_closed(every):
    before = dict(plt.rcParams)
    for figure in every.values():
        assert figure.get_suptitle() in ("the title", "")
        assert plt.matplotlib.colors.to_hex(figure.get_facecolor()) == plots.PAPER
        figure.savefig(io.BytesIO())
    assert plt.get_fignums() == []
    assert dict(plt.rcParams) == before


def test_figures_show_their_data(every):
    texts = {name: [t.get_text() for a in f.axes for t in a.texts] for name, f in every.items()}
    assert texts["confusion_matrix"] == ["4", "0", "1", "3"]
    assert texts["intervals"] == ["70%", "30%", "guessing"]
    # the first epoch's loss is outside, so that the gap between the later ones is seen
    assert every["learning_curves"].axes[0].get_ylim()[1] < 2
    assert "112\nparameters" in texts["architecture"][1]  # weights and biases of 4 × 3 × 3 × 3
    drawn = np.concatenate([line.get_xdata() for line in every["repetitions"].axes[0].lines])
    assert sorted(drawn[~np.isnan(drawn)]) == [0.4, 0.6, 0.6, 0.8]


def test_a_figure_is_shown_with_its_alternative_text(every, monkeypatch):
    from IPython import display

    shown = []
    monkeypatch.setattr(display, "display", shown.append)
    plots.show(every["intervals"], alt="two rows")
    (image,) = shown
    assert image.alt == "two rows"
    picture = Image.open(io.BytesIO(image.data))
    assert picture.format == "PNG" and picture.width == 2 * image.width
