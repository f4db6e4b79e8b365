"""The embedded data set: the same for everyone, whole or absent, and neither trivial nor noise."""

import numpy as np
import pytest
from PIL import Image

from batik_utils.errors import BatikError
from batik_utils.images import cloth as synthetic
from batik_utils.images.motifs import MOTIFS


@pytest.fixture(scope="module")
def five(tmp_path_factory):
    """A finished set of five Betawi and five Tambal pictures."""
    root = tmp_path_factory.mktemp("five") / "set"
    return synthetic.write(root, ("betawi", "tambal"), per_motif=5, seed=3)


@pytest.fixture
def blank(monkeypatch):
    """Let ``write`` save plain pictures: for tests of files, not of cloth. Records the calls."""
    calls = []

    def plain(motif, seed, size):
        calls.append((motif, seed, size))
        return Image.new("RGB", size, (seed % 256, 40, 90))

    monkeypatch.setattr(synthetic, "draw", plain)
    return calls


@pytest.mark.parametrize("motif", MOTIFS)
def test_a_seed_means_one_picture(motif):
    first, again, other = (
        np.asarray(synthetic.draw(motif, seed, (64, 64)), int) for seed in (5, 5, 6)
    )
    assert np.array_equal(first, again)
    assert np.abs(first - other).mean() > 5
    assert first.std() > 5  # something is drawn
    assert first.shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"seed": -1}, "negative"), ({"per_motif": 0}, "at least one"), ({"motifs": ()}, "at least")],
)
def test_senseless_arguments_are_refused(tmp_path, arguments, word):
    with pytest.raises(BatikError, match=word):
        synthetic.write(tmp_path / "set", **arguments)
    with pytest.raises(BatikError, match="too small"):
        synthetic.draw("betawi", 0, (320, 8))


def test_a_picture_does_not_depend_on_the_others(five, tmp_path):
    three = synthetic.write(tmp_path / "three", ("tambal",), per_motif=3, seed=3)
    for n in (1, 3):
        name = f"batik-tambal/{n}.jpg"
        assert (three / name).read_bytes() == (five / name).read_bytes()


def test_an_interrupted_call_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(motif, seed, size):
        if motif == "tambal":
            raise KeyboardInterrupt
        return Image.new("RGB", size)

    monkeypatch.setattr(synthetic, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write(tmp_path / "set", per_motif=1)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_set_is_reused_whatever_the_order_of_motifs(tmp_path, blank):
    root = synthetic.write(tmp_path / "set", ("tambal", "betawi"), 2)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert synthetic.write(tmp_path / "set", ("betawi", "tambal"), 2) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert len(blank) == 4


@pytest.mark.parametrize("other", [{"seed": 1}, {"per_motif": 2}, {"motifs": ("tambal",)}])
def test_another_set_in_the_folder_is_an_error_and_stays(tmp_path, blank, other):
    root = synthetic.write(tmp_path / "set", per_motif=1)
    before = sorted(root.rglob("*"))
    with pytest.raises(BatikError, match="another folder or delete"):
        synthetic.write(root, **{"per_motif": 1, **other})
    assert sorted(root.rglob("*")) == before


def test_a_folder_of_other_things_is_not_touched(tmp_path, blank):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.txt").write_text("years of work")
    with pytest.raises(BatikError, match="no finished synthetic data set"):
        synthetic.write(tmp_path / "set", per_motif=1)
    assert (tmp_path / "set" / "thesis.txt").read_text() == "years of work"
    assert not blank


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
    drawn = [synthetic.draw(motif, seed, (side, side)) for motif in MOTIFS for seed in range(n)]
    pixels = np.stack([np.asarray(picture, float) for picture in drawn])
    labels = np.repeat(np.arange(len(MOTIFS)), n)
    # contrast within blocks, between blocks, and its unevenness, in each channel
    tiles = pixels.reshape(len(pixels), blocks, side // blocks, blocks, side // blocks, 3)
    inner, mean = tiles.std((2, 4)), tiles.mean((2, 4))
    contrast = np.hstack([inner.mean((1, 2)), mean.std((1, 2)), inner.std((1, 2))])
    # chance is 0.33, with a standard deviation of 0.07
    assert _nearest_mean_accuracy(contrast, labels) > 0.5
    assert _nearest_mean_accuracy(pixels.mean((1, 2)), labels) < 0.65
