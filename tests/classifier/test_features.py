"""Features of frozen layers, their cache, and evidence that adds up."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_network import SIZE, backbones, noise

from batik_utils.classifier import features
from batik_utils.images import cache, files


def test_features_are_signed_roots_of_mean_and_deviation():
    network, pixels = backbones(), torch.from_numpy(noise(2))
    first, second = network.maps(pixels)
    found = network(pixels)
    assert found.shape == (2, 2 * (8 + 16))
    mean, deviation = first.mean((2, 3)), first.std((2, 3), correction=0)
    np.testing.assert_allclose(found[:, :8], mean.sign() * mean.abs().sqrt(), atol=1e-5)
    np.testing.assert_allclose(found[:, 8:16], deviation.sqrt(), atol=1e-5)
    assert second.shape[-1] == SIZE // 4
    assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_evidence_of_all_places_adds_up_to_the_logits():
    maps = backbones().maps(torch.from_numpy(noise(2)))
    weight, bias = torch.randn(48, 3), torch.randn(3)
    places = features.evidence(maps, weight, bias)
    assert places.shape == (2, 3, SIZE // 4, SIZE // 4)
    wanted = features.pool(maps) @ weight + bias
    np.testing.assert_allclose(places.sum((2, 3)), wanted, rtol=1e-3, atol=1e-3)
    dead = features.evidence([torch.zeros(1, 4, 8, 8)], torch.randn(8, 3), torch.zeros(3))
    assert torch.isfinite(dead).all()


def test_features_come_from_the_cache_unless_something_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, pixels in zip(paths, noise(3), strict=True):
        Image.fromarray(pixels).save(path)
    network = backbones()
    first = features.compute(network, paths, SIZE)
    for change in ("turned 1", "copy 1"):
        assert (features.compute(network, paths, SIZE, change) != first).any(1).all()

    def opened(*_):
        raise LookupError

    monkeypatch.setattr(files, "open_image", opened)
    np.testing.assert_array_equal(features.compute(network, paths, SIZE), first)
    for some, change in ((paths[:2], ""), (paths, "copy 2")):
        with pytest.raises(LookupError):
            features.compute(network, some, SIZE, change)
    with torch.no_grad():
        next(network.branches[0].parameters()).mul_(2)
    with pytest.raises(LookupError):
        features.compute(network, paths, SIZE)
