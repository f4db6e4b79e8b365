"""Masks hide what they say, and a planted shortcut is found and measured."""

import numpy as np
import pandas as pd
import pytest
import torch

from batik_utils import recipes, splits
from batik_utils.evaluation import shortcuts

CLASSES = ("betawi", "sidoluhur", "tambal")
Y, X = np.mgrid[:64, :64]
BAND, SEAL = (Y >= 29) & (Y < 35), (Y >= 50) & (X >= 50)
CENTRE = np.maximum(abs(Y - 31.5), abs(X - 31.5)) < 22.6
HIDING = {"band masked": BAND, "watermarks masked": BAND | SEAL}
HIDING |= {"centre only": ~CENTRE, "border only": CENTRE}


@pytest.fixture
def pixels():
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (3, 3, 64, 64), dtype=np.uint8))


@pytest.mark.parametrize(("kind", "hidden"), HIDING.items())
def test_what_is_hidden_leaves_no_trace_and_the_rest_is_untouched(kind, hidden, pixels):
    other = pixels.clone()
    other[..., torch.from_numpy(hidden)] = 255 - other[..., torch.from_numpy(hidden)]
    assert torch.equal(shortcuts.masked(pixels, kind), shortcuts.masked(other, kind))
    found, seen = shortcuts.masked(pixels, kind).numpy(), pixels.numpy()
    assert np.array_equal(found[..., ~hidden], seen[..., ~hidden])


def test_shuffled_tiles_are_those_of_the_picture(pixels):
    def tiles(pictures):
        cut = pictures.unfold(2, 16, 16).unfold(3, 16, 16).permute(2, 3, 0, 1, 4, 5)
        return sorted(tile.numpy().tobytes() for tile in cut.reshape(16, -1))

    assert tiles(pixels[:1]) == tiles(shortcuts.masked(pixels, "shuffled tiles")[:1])


def folds_of(n=60, folds=5, repeats=3):
    """Folds at random, stratified by motif; groups of one picture."""
    paths, motifs = [f"p{i:03}.jpg" for i in range(n)], [CLASSES[i % 3] for i in range(n)]
    table = pd.DataFrame({"path": paths, "motif": motifs, "group": paths, "dataset": "d"})
    for repeat in range(repeats):
        order = np.random.default_rng(repeat).permutation(n // 3)
        table[f"repeat_{repeat}"] = [order[i // 3] % folds for i in range(n)]
    return table, np.arange(n) % 3


def test_a_planted_shortcut_shows_in_both_ways_of_training():
    folds, labels = folds_of()
    noise, one_hot = np.random.default_rng(0).normal(0, 0.1, (60, 3)), 10 * np.eye(3)[labels]
    features = {
        # the band tells everything, the picture without it nothing, the centre all again
        "whole": np.hstack([one_hot, noise]),
        "band masked": np.hstack([np.zeros((60, 3)), noise]),
        "centre only": np.hstack([np.zeros((60, 3)), one_hot / 10]),
        "watermark added": np.hstack([np.tile([0, 0, 10], (60, 1)), noise]),
    }
    pictures = shortcuts.answers(features, folds)
    table = shortcuts.summarise(pictures, folds).set_index(["kind", "trained_on"])
    accuracy = table["accuracy"]
    assert accuracy["whole", "whole"] == 1 and accuracy["centre only", "whole"] < 0.6
    # what is left would be enough, only this model has not learned it
    assert accuracy["centre only", "centre only"] == 1
    assert accuracy["watermark added", "whole"] == pytest.approx(1 / 3)
    assert (table["lower"] <= accuracy).all() and (accuracy <= table["upper"]).all()
    assert table.loc[("band masked", "whole"), "change_upper"] < 0


def test_no_probe_is_tested_on_what_it_learned():
    # each picture has a feature of its own: memorising is all that can be learned
    folds, _ = folds_of()
    pictures = shortcuts.answers({"whole": np.eye(60)}, folds)
    assert (pictures["said"] == pictures["motif"]).mean() < 0.6
    assert pictures["path"].value_counts().eq(3).all()  # once a repeat


@pytest.mark.parametrize("learnable", [True, False])
def test_a_learned_watermark_is_told_from_one_that_was_not(learnable):
    """Half of tambal bears a watermark (feature 0); the motif itself is weak (features 1 to 3)."""
    folds, labels = folds_of(120)
    rng = np.random.default_rng(1)
    marked = (labels == 2) & (np.arange(120) % 2 == 0)
    motif = np.eye(3)[labels] + rng.normal(0, 0.8, (120, 3))
    strip = marked if learnable else rng.permutation(marked)
    features = {
        "whole": np.hstack([5.0 * strip[:, None], motif]),
        "watermark added": np.hstack([np.full((120, 1), 5.0), motif]),
    }
    paths = folds["path"][marked].tolist()
    pictures = shortcuts.answers(features, folds, paths)
    table = shortcuts.watermark_effect(pictures, paths).set_index("trained_on")
    assert table.index.tolist() == [shortcuts.CONTROL, "whole", shortcuts.UNMARKED]
    assert table.loc["whole", ["motif", "pictures", "marked"]].tolist() == ["tambal", 80, 20]
    control, without = table.loc[shortcuts.CONTROL], table.loc[shortcuts.UNMARKED]
    assert control["less"] == 0
    assert (table.loc["whole", "lower"] > 0 and without["less_lower"] > 0) == learnable
    if learnable:
        # without the marked pictures the feature is constant, and nothing can be learned from it
        assert without["change"] == pytest.approx(0, abs=1e-9)
        assert without["less"] == pytest.approx(control["change"])


def test_run_writes_two_tables(small_dataset, toy, monkeypatch, tmp_path, without_batik_settings):
    monkeypatch.setitem(recipes.RECIPES, "toy", toy)
    monkeypatch.setattr(shortcuts, "RECIPES", ("toy",))
    paths = small_dataset.manifest["path"]
    groups = pd.DataFrame({"path": paths, "group": paths})
    folds = splits.make_folds(small_dataset, groups, repeats=2, folds=4)
    marked = ["batik-tambal/1.jpg", "batik-tambal/2.jpg", "elsewhere.jpg"]
    written = []
    for table in (folds, folds.iloc[::-1]):  # whatever the order of its rows
        assert len(shortcuts.run(small_dataset, table, tmp_path / "cv", marked)) == 2
        written.append({path.name: path.read_bytes() for path in (tmp_path / "cv").iterdir()})
    assert set(written[0]) == {"shortcuts.csv", "watermark.csv"}
    assert written[0] == written[1]
    assert len(shortcuts.run(small_dataset, folds, tmp_path / "none", ["elsewhere.jpg"])) == 1
