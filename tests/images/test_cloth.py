"""The embedded data set: the same for everyone, whole or absent, and neither trivial nor noise."""

import numpy as np
import pytest
from PIL import Image

from batik_utils.errors import NotWritten
from batik_utils.images import cloth
from batik_utils.images.motifs import MOTIFS


@pytest.mark.parametrize("motif", MOTIFS)
def test_a_seed_means_one_picture(motif):
    first, again, other = (np.asarray(cloth.draw(motif, k, (64, 64)), int) for k in (5, 5, 6))
    assert first.shape == (64, 64, 3)
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 5
    assert first.std() > 5  # something is drawn


def test_a_set_is_written_once_and_a_picture_does_not_depend_on_the_others(tmp_path):
    one, two = (cloth.write(tmp_path / str(n), n) for n in (1, 2))
    assert len(list(two.glob("batik-*/*.jpg"))) == 6
    for path in one.glob("batik-*/1.jpg"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()
    before = {path: path.stat().st_mtime_ns for path in one.rglob("*")}
    assert cloth.write(one, 1) == one
    assert {path: path.stat().st_mtime_ns for path in one.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]  # no helper folder left


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(motif, seed, size):
        if motif == "tambal":
            raise KeyboardInterrupt
        return Image.new("RGB", size)

    monkeypatch.setattr(cloth, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cloth.write(tmp_path / "set", 1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(NotWritten, match="BATIK_CACHE_DIR"):
        cloth.write(tmp_path / "thesis.txt" / "set", 1)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def _nearest_mean_accuracy(features, labels):
    """Leave one out, and give it the motif whose mean of the others is nearest."""
    features = (features - features.mean(0)) / features.std(0)
    hits = 0
    for i, feature in enumerate(features):
        others = np.arange(len(features)) != i
        means = [features[others & (labels == k)].mean(0) for k in range(len(MOTIFS))]
        hits += np.argmin(np.square(np.array(means) - feature).sum(1)) == labels[i]
    return hits / len(features)


def test_motifs_differ_but_not_by_mean_colour_alone():
    n, side, blocks = 16, 96, 6
    drawn = [cloth.draw(motif, seed, (side, side)) for motif in MOTIFS for seed in range(n)]
    pixels = np.stack([np.asarray(picture, float) for picture in drawn])
    labels = np.repeat(np.arange(len(MOTIFS)), n)
    # contrast within blocks, between blocks, and its unevenness, in each channel
    tiles = pixels.reshape(len(pixels), blocks, side // blocks, blocks, side // blocks, 3)
    inner, mean = tiles.std((2, 4)), tiles.mean((2, 4))
    contrast = np.hstack([inner.mean((1, 2)), mean.std((1, 2)), inner.std((1, 2))])
    # chance is 0.33, with a standard deviation of 0.07
    assert _nearest_mean_accuracy(contrast, labels) > 0.5
    assert _nearest_mean_accuracy(pixels.mean((1, 2)), labels) < 0.65
