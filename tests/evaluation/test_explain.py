"""Heat maps lie where the evidence is, and leave the network as it was."""

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


@pytest.mark.parametrize("name", ["scratch_ours", "mobilenet_v2", "efficientnet_lite0"])
def test_a_frozen_network_has_maps_and_stays_as_it_is(name):
    torch.manual_seed(0)
    model = models.build_untrained(recipes.get(name), 3).train()
    # every change of a tensor counts up its version
    before = {key: value._version for key, value in model.state_dict().items()}
    pixels = torch.randint(0, 256, (17, 3, 32, 32), dtype=torch.uint8)
    maps = explain.heat_map(model, Preprocessing(size=32), pixels)
    assert maps.shape == (17, 32, 32) and maps.dtype == np.float32 and maps.min() >= 0
    # a random network may have no evidence at all for a motif
    assert np.isin(maps.max((1, 2)).round(6), (0, 1)).all()
    assert {key: value._version for key, value in model.state_dict().items()} == before


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
