"""Features of frozen layers, their cache, and evidence that adds up."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_network import SIZE, backbones, noise

from batik_utils.classifier import features
from batik_utils.errors import BatikError
from batik_utils.images import cache
from batik_utils.images.resize import IMAGENET


def test_features_are_signed_roots_of_mean_and_deviation():
    network, pixels = backbones(), torch.from_numpy(noise(2))
    first, second = network.maps(pixels)
    found = network(pixels)
    assert found.shape == (2, 2 * (8 + 16))
    mean, deviation = first.mean((2, 3)), first.std((2, 3), correction=0)
    np.testing.assert_allclose(found[:, :8], mean.sign() * mean.abs().sqrt(), atol=1e-5)
    np.testing.assert_allclose(found[:, 8:16], deviation.sqrt(), atol=1e-5)
    assert second.shape[-1] == SIZE // 4


def test_evidence_of_all_places_adds_up_to_the_logits():
    network, pixels = backbones(), torch.from_numpy(noise(2))
    maps = network.maps(pixels)
    weight, bias = torch.randn(48, 3), torch.randn(3)
    places = features.evidence(maps, weight, bias)
    assert places.shape == (2, 3, SIZE // 4, SIZE // 4)
    np.testing.assert_allclose(
        places.sum((2, 3)), features.pool(maps) @ weight + bias, rtol=1e-3, atol=1e-3
    )


def test_evidence_is_finite_where_a_channel_is_dead():
    maps = [torch.zeros(1, 4, 8, 8)]
    assert torch.isfinite(features.evidence(maps, torch.randn(8, 3), torch.zeros(3))).all()


def test_backbones_stay_frozen():
    network = backbones().train()
    assert not network.training and not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("taps", [(), (1, 0), (0, 2)])
def test_odd_taps_are_refused(taps):
    with pytest.raises(BatikError, match="Taps"):
        features.Taps([torch.nn.Identity()] * 2, taps, IMAGENET)


def test_features_come_from_the_cache_unless_something_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    images = [Image.fromarray(pixels) for pixels in noise(3)]
    network = backbones()
    first = features.compute(network, images, SIZE)

    def computed(*_):
        raise LookupError

    monkeypatch.setattr(features, "_rows", computed)
    np.testing.assert_array_equal(features.compute(network, images, SIZE), first)
    with pytest.raises(LookupError):
        features.compute(network, images[:2], SIZE)
    with pytest.raises(LookupError):
        features.compute(network, images, SIZE, name="copy 1")
    with torch.no_grad():
        next(network.branches[0].parameters()).mul_(2)
    with pytest.raises(LookupError):
        features.compute(network, images, SIZE)


def test_a_change_gets_the_number_of_its_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    images, seen = [Image.new("RGB", (40, 30), c) for c in ("red", "blue")], []

    def change(image, number):
        seen.append((image.getpixel((0, 0)), number))
        return image

    features.compute(backbones(), images, SIZE, change, "seen")
    assert seen == [((255, 0, 0), 0), ((0, 0, 255), 1)]
