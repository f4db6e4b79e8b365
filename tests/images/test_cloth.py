"""The embedded data set: the same for everyone, whole or absent."""

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
