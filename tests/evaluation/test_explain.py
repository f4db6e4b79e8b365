"""Heat maps lie where the evidence is, for every architecture, and leave the network as it was."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from batik_utils import models, recipes
from batik_utils.evaluation import explain
from batik_utils.images.resize import Preprocessing
from batik_utils.models import TransferClassifier

PLAIN = Preprocessing(size=32, mean=(0, 0, 0), std=(1, 1, 1))


@pytest.mark.parametrize("name", sorted({*models.ARCHITECTURES} - {"scratch_texture"}))
def test_every_architecture_has_a_map_though_its_backbone_is_frozen(name):
    base = next((r for r in recipes.RECIPES.values() if r.architecture == name), None)
    recipe = replace(base or recipes.get("efficientnet_lite0"), architecture=name)
    recipe = replace(recipe, frozen="backbone")
    size = 224 if name in ("scratch1", "scratch3") else 64
    torch.manual_seed(0)
    model = models.build_untrained(recipe, 3).train()
    # every change of a tensor counts up its version
    before = {key: value._version for key, value in model.state_dict().items()}
    pixels = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    maps = explain.heat_map(model, Preprocessing(size=size), pixels, batch_size=2)
    assert maps.shape == (3, size, size) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and maps.min() >= 0
    # a random network may have no evidence at all for a motif
    assert np.isin(maps.max((1, 2)).round(6), (0, 1)).all()
    assert {key: value._version for key, value in model.state_dict().items()} == before
    assert getattr(model, "frozen", "backbone") == "backbone"
    assert not any(m._forward_hooks for m in model.modules())


def test_before_global_pooling_grad_cam_is_cam():
    # Selvaraju et al. 2017, section 3: Grad-CAM generalises CAM (Zhou et al. 2016), which adds the
    # maps up with the weights of the linear layer
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 5, 3, stride=4, padding=1)
    backbone = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = TransferClassifier(backbone, nn.Linear(5, 3))
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    found = explain.heat_map(model, PLAIN, pixels)
    with torch.no_grad():
        maps, predicted = convolution(pixels / 255), model(pixels / 255).argmax(1)
        cam = torch.einsum("nkij,nk->nij", maps, model.head.weight[predicted]).relu().numpy()
    for heat, wanted in zip(found, cam, strict=True):
        wanted = cv2.resize(wanted, (32, 32))
        wanted = wanted - wanted.min()
        assert heat == pytest.approx(wanted / max(wanted.max(), 1e-12), abs=1e-4)
