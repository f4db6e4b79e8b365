"""Heat maps lie where the evidence is, and the sanity check tells them from a picture's edges."""

import copy
from dataclasses import replace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from batik_utils import models, recipes
from batik_utils.errors import BatikError
from batik_utils.evaluation import explain, masking
from batik_utils.images.resize import Preprocessing
from batik_utils.models import TransferClassifier

PLAIN = Preprocessing(size=32, mean=(0, 0, 0), std=(1, 1, 1))


def red_detector(n_maps=2):
    """A network that knows one thing: class 0 is red, class 1 is green."""
    convolution = nn.Conv2d(3, n_maps, 3, padding=1)
    head = nn.Linear(n_maps, 2)
    with torch.no_grad():
        convolution.weight.zero_()
        convolution.bias.zero_()
        for k, channel in enumerate((0, 1)):
            convolution.weight[k] = -1 / 9
            convolution.weight[k, channel] = 1 / 9
        head.weight.copy_(torch.eye(2, n_maps) * 2 - 1)
        head.bias.zero_()
    backbone = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return TransferClassifier(backbone, head, "backbone")


def squares(n=6, side=32, seed=0):
    """Grey noise with a red and a green square, each somewhere on its own half."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 160, (n, 1, side, side)).repeat(3, 1).astype(np.uint8)
    corners = []
    for picture in pixels:
        y, x = rng.integers(0, side - 8), rng.integers(0, side // 2 - 8)
        picture[:, y : y + 8, x : x + 8] = np.array([230, 20, 20])[:, None, None]
        corners.append((y, x))
        y, x = rng.integers(0, side - 8), rng.integers(side // 2, side - 8)
        picture[:, y : y + 8, x : x + 8] = np.array([20, 230, 20])[:, None, None]
    return torch.from_numpy(pixels), corners


@pytest.mark.parametrize("name", models.ARCHITECTURES)
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
    maps = explain.heat_map(model, Preprocessing(size=size), pixels, [0, 1, 2], batch_size=2)
    assert maps.shape == (3, size, size) and maps.dtype == np.float32
    assert np.isfinite(maps).all() and maps.min() >= 0
    # random networks may have no evidence at all for a motif, but hardly for all three
    tops = maps.max((1, 2))
    assert np.isin(tops.round(6), (0, 1)).all() and tops.any()
    # and nothing about the network has changed
    assert {key: value._version for key, value in model.state_dict().items()} == before
    assert model.frozen == "backbone" and model.head.training and not model.backbone.training
    assert all(p.grad is None for p in model.parameters())
    assert all(p.requires_grad for p in model.head.parameters())
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.parametrize("name", ["efficientnet_b0", "scratch2", "mobilenet_v2"])
def test_the_explained_layer_gives_the_maps_that_are_pooled(name):
    recipe = next(r for r in recipes.RECIPES.values() if r.architecture == name)
    model = models.build_untrained(recipe, 3).eval()
    seen = {}
    layer = explain.target_layer(model, 64)
    handle = layer.register_forward_hook(lambda m, i, output: seen.update(maps=output))
    features = model.backbone(torch.rand(2, 3, 64, 64))
    handle.remove()
    assert torch.allclose(seen["maps"].mean((2, 3)), features, atol=1e-5)


def test_before_global_pooling_grad_cam_is_cam():
    # Selvaraju et al. 2017, section 3: Grad-CAM generalises CAM (Zhou et al. 2016), which adds the
    # maps up with the weights of the linear layer
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 5, 3, stride=4, padding=1)
    backbone = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = TransferClassifier(backbone, nn.Linear(5, 3))
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    targets = [0, 2, 1, 2]
    found = explain.heat_map(model, PLAIN, pixels, targets)
    with torch.no_grad():
        maps = convolution(pixels / 255).relu()
        cam = torch.einsum("nkij,nk->nij", maps, model.head.weight[targets]).relu().numpy()
    for heat, wanted in zip(found, cam, strict=True):
        wanted = cv2.resize(wanted, (32, 32))
        wanted = wanted - wanted.min()
        assert heat == pytest.approx(wanted / max(wanted.max(), 1e-12), abs=1e-4)
    # Draelos and Carin 2020: for such networks HiResCAM is the same
    assert explain.heat_map(model, PLAIN, pixels, targets, method="hires-cam") == pytest.approx(
        found, abs=1e-4
    )


def test_heat_is_where_the_evidence_is():
    pixels, corners = squares()
    maps = explain.heat_map(red_detector(), PLAIN, pixels, [0] * len(pixels))
    for heat, (y, x) in zip(maps, corners, strict=True):
        inside = heat[y + 1 : y + 7, x + 1 : x + 7]
        assert inside.min() > 0.9
        assert inside.sum() > 0.5 * heat.sum()
    red = pixels[:1].clone()
    red[:, 0], red[:, 1:] = 200, 10
    # no evidence for green in a red picture
    assert not explain.heat_map(red_detector(), PLAIN, red, [1]).any()
    # without a target it is the predicted class that is explained
    own = explain.heat_map(red_detector(), PLAIN, pixels)
    with torch.no_grad():
        predicted = red_detector()(pixels / 255).argmax(1).tolist()
    assert set(predicted) == {0, 1}
    assert np.array_equal(own, explain.heat_map(red_detector(), PLAIN, pixels, predicted))


def test_behind_a_flattening_only_hires_cam_tells_what_was_used():
    # the head reads the left half only; a picture with the same blob on both halves
    backbone = nn.Sequential(nn.Conv2d(3, 1, 1), nn.ReLU(), nn.Flatten())
    head = nn.Linear(32 * 32, 2)
    with torch.no_grad():
        backbone[0].weight.fill_(1)
        backbone[0].bias.zero_()
        head.weight.zero_()
        head.weight[1].view(32, 32)[:, :16] = 1
    model = TransferClassifier(backbone, head)
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pixels[..., 10:20, 4:10] = pixels[..., 10:20, 22:28] = 255
    rough = explain.heat_map(model, PLAIN, pixels, [1])[0]
    exact = explain.heat_map(model, PLAIN, pixels, [1], method="hires-cam")[0]
    assert rough[15, 6] == rough[15, 25] == pytest.approx(1)
    assert exact[15, 6] == pytest.approx(1) and not exact[:, 16:].any()


def test_layers_used_twice_and_layers_without_positions_are_passed_over():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.relu = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.ReLU()

        def forward(self, batch):
            return self.relu(self.b(self.relu(self.a(batch)))).mean((2, 3))

    twice = Twice()
    assert explain.target_layer(TransferClassifier(twice, nn.Linear(4, 2)), 16) is twice.b
    flat = nn.Sequential(nn.Conv2d(3, 4, 16), nn.Flatten())
    with pytest.raises(BatikError, match="No layer of this network keeps positions"):
        explain.target_layer(TransferClassifier(flat, nn.Linear(4, 2)), 16)


def test_settings_that_do_not_fit_are_refused():
    pixels, _ = squares(2)
    with pytest.raises(BatikError, match="Unknown method 'magic'"):
        explain.heat_map(red_detector(), PLAIN, pixels, method="magic")
    with pytest.raises(BatikError, match="1 targets for 2 pictures"):
        explain.heat_map(red_detector(), PLAIN, pixels, [0])
    with pytest.raises(BatikError, match="Needs 2 pictures"):
        explain.randomisation(red_detector(), PLAIN, pixels[:1])


def trained(pixels, targets):
    """A network with batch norm that has learned to tell red squares from green ones."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    model = TransferClassifier(backbone, nn.Linear(8, 2))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    model.train()
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(pixels / 255), targets).backward()
        optimiser.step()
    return model.eval()


@pytest.fixture(scope="module")
def red_or_green():
    pixels, _ = squares(24)
    targets = torch.arange(24) % 2
    for picture, target in zip(pixels, targets, strict=True):
        wrong = picture[1 - target] > 200
        # the square of the other colour goes
        picture[:, wrong] = 125
    model = trained(pixels, targets)
    assert (model(pixels / 255).argmax(1) == targets).all()
    return model, pixels[:10], targets[:10].tolist()


def test_random_weights_change_grad_cam_and_leave_edges_alone(red_or_green):
    model, pixels, targets = red_or_green
    before = copy.deepcopy(model.state_dict())
    tables = [
        explain.randomisation(
            model, PLAIN, pixels, targets, explanation=function, name=name, stages=4, seed=3
        )
        for function, name in ((explain.heat_map, "Grad-CAM"), (explain.edge_map, "edges"))
    ]
    cam, edges = tables
    assert list(cam.columns) == list(explain.RANDOMISATION_COLUMNS)
    assert cam["layers"].tolist() == [0, 1, 2, 3, 4]
    assert cam["last_layer"].tolist() == [
        "",
        "head",
        "backbone.3",
        "backbone.1",
        "backbone.0",
    ]
    assert cam["rank_correlation"].iloc[0] == pytest.approx(1)
    assert cam["rank_correlation"].iloc[-1] < 0.5
    assert explain.passes(cam)
    assert edges["rank_correlation"].tolist() == pytest.approx([1] * 5)
    assert not explain.passes(edges)
    words = explain.describe_randomisation(pd.concat(tables))
    assert "**Grad-CAM**" in words.splitlines()[0] and "It passes" in words.splitlines()[0]
    assert "**edges**" in words.splitlines()[1] and "It fails" in words.splitlines()[1]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    again = explain.randomisation(model, PLAIN, pixels, targets, stages=4, seed=3)
    pd.testing.assert_frame_equal(cam, again)


def test_maps_without_contrast_are_counted_not_correlated(red_or_green):
    model, pixels, _ = red_or_green

    def blank_later(own, preprocessing, pixels, targets, calls=[0]):  # noqa: B006
        calls[0] += 1
        flat = np.zeros((len(pixels), 32, 32), np.float32)
        return flat if calls[0] > 1 else flat + np.arange(32, dtype=np.float32)

    table = explain.randomisation(model, PLAIN, pixels, explanation=blank_later, stages=1)
    assert table["flat"].tolist() == [0, len(pixels)]
    assert table["rank_correlation"].tolist() == [pytest.approx(1), 0]
    assert "had no contrast" in explain.describe_randomisation(table)


def test_heat_is_shared_out_among_the_parts():
    side = 40
    parts = masking.regions(side)
    maps = np.zeros((3, side, side), np.float32)
    maps[0][parts["band"]] = 0.5
    maps[1] = 1
    table = explain.where(maps)
    assert table.loc[0, "band"] == pytest.approx(1) and table.loc[0, "seal"] == 0
    assert table.loc[1].to_dict() == pytest.approx(explain.areas(side).to_dict())
    assert table.loc[2].isna().all()
    assert (table["centre"] + table["border"])[:2].tolist() == pytest.approx([1, 1])


def test_edges_are_at_edges():
    pixels = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    pixels[..., 8:] = 255
    edges = explain.edge_map(None, PLAIN, pixels)[0]
    assert edges[:, 7:9].min() == 1 and not edges[:, :7].any() and not edges[:, 9:].any()
