"""Features of many pictures in lots: the same as all at once, and none computed twice."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from batik_utils import embedding, feature_files
from batik_utils.errors import BatikError


class Tiny(nn.Module):
    """Mean of each colour, times a weight."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.seen = 0

    def forward(self, pixels):
        self.seen += len(pixels)
        return pixels.float().mean((1, 2)) * self.weight


SETTINGS = {"size": 8, "lot": 5, "batch": 2, "workers": 2}


@pytest.fixture
def paths(small_dataset):
    return small_dataset.paths[:12]


def test_lots_hold_what_one_call_gives(paths, tmp_path):
    network = Tiny()
    assert list(feature_files.write(network, paths, tmp_path / "lots", **SETTINGS)) == paths
    lots = list(feature_files.read(tmp_path / "lots"))
    assert [len(names) for names, _ in lots] == [5, 5, 2]
    assert [name for names, _ in lots for name in names] == [str(path) for path in paths]
    wanted = embedding.features_of(network, paths, size=8, progress=False)
    found = np.concatenate([rows for _, rows in lots])
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_an_interruption_loses_one_lot_at_most(paths, tmp_path):
    network = Tiny()
    done = feature_files.write(network, paths, tmp_path / "lots", **SETTINGS)
    assert list(itertools.islice(done, 7)) == paths[:7]
    done.close()
    (tmp_path / "lots" / "000002.partial").write_bytes(b"half")
    network.seen = 0
    assert list(feature_files.write(network, paths, tmp_path / "lots", **SETTINGS)) == paths
    assert network.seen == 2
    assert sum(len(names) for names, _ in feature_files.read(tmp_path / "lots")) == 12


def test_features_of_something_else_are_not_mixed_in(paths, tmp_path):
    list(feature_files.write(Tiny(), paths, tmp_path, **SETTINGS))
    for network, other in ((Tiny(2.0), paths), (Tiny(), paths[1:])):
        with pytest.raises(BatikError, match="other pictures or of another network"):
            list(feature_files.write(network, other, tmp_path, **SETTINGS))


def test_a_bad_file_is_named_and_leaves_a_gap(paths, tmp_path, caplog):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"<html>")
    given = [paths[0], bad, paths[1]]
    assert list(feature_files.write(Tiny(), given, tmp_path / "lots", **SETTINGS)) == given
    ((_, rows),) = feature_files.read(tmp_path / "lots")
    assert np.isnan(rows).all(1).tolist() == [False, True, False]
    assert "bad.jpg: not a picture (an HTML page)" in caplog.text


def test_only_a_lot_is_taken_from_an_endless_list(paths, tmp_path):
    taken = itertools.count()

    def endless():
        while True:
            next(taken)
            yield paths[0]

    done = feature_files.write(Tiny(), endless(), tmp_path, **SETTINGS)
    next(done)
    assert next(taken) == 5
    done.close()
