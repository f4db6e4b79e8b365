"""Tuning of the last block: mixing by hand, training on a task that the frozen block cannot do."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from batik_utils import fine_tuning
from batik_utils.errors import BatikError
from batik_utils.fine_tuning import Settings


def batch(n=6):
    rng = np.random.default_rng(0)
    maps = torch.from_numpy(rng.normal(size=(n, 2, 4, 4))).float()
    early = torch.arange(float(n))[:, None]
    return maps, early, torch.eye(n)


def test_plain_pictures_stay_as_they_are():
    given = batch()
    found = fine_tuning.mixed(*given, Settings("plain"), np.random.default_rng(0))
    assert all(torch.equal(a, b) for a, b in zip(found, given, strict=True))


def test_mixup_mixes_all_with_one_share():
    maps, early, targets = batch()
    x, e, t = fine_tuning.mixed(maps, early, targets, Settings("mixup"), np.random.default_rng(1))
    assert torch.allclose(t.sum(1), torch.ones(6)) and not torch.equal(t, targets)
    assert torch.allclose(x.flatten(1), t @ maps.flatten(1), atol=1e-6)
    assert torch.allclose(e, t @ early, atol=1e-6)


def test_cutmix_counts_the_area_that_it_pastes():
    maps, early, targets = batch()
    before = maps.clone()
    shares = set()
    for seed in range(10):
        x, e, t = fine_tuning.mixed(
            maps, early, targets, Settings("cutmix"), np.random.default_rng(seed)
        )
        kept = (x == before).all(1).flatten(1).float().mean(1)
        moved = t.diagonal() < 1  # others are mixed with themselves
        assert torch.allclose(kept[moved], t.diagonal()[moved])
        assert torch.allclose(e, t @ early, atol=1e-6)
        shares.update(kept[moved].tolist())
    assert torch.equal(maps, before) and len(shares) > 2


def test_features_are_mean_and_deviation_behind_early_ones():
    maps, early, _ = batch()
    found = fine_tuning.features(nn.Identity(), maps, early)
    expected = torch.cat([early, maps.mean((2, 3)), maps.flatten(2).std(2, correction=0)], 1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_tuning_learns_what_the_block_did_not_tell():
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    labels = np.arange(30) % 3
    maps = torch.zeros(30, 3, 4, 4)
    maps[np.arange(30), labels] = 1.0
    maps += 0.1 * torch.from_numpy(rng.normal(size=maps.shape)).float()
    block, head = nn.Conv2d(3, 5, 1), nn.Linear(11, 3)
    with torch.no_grad():
        block.weight.mul_(0.01)
    scaler, early = (torch.zeros(11), torch.ones(11)), torch.zeros(30, 1)
    settings = Settings("plain", rate=0.03, epochs=15)

    def tuned():
        own, top = deepcopy(block), deepcopy(head)
        fine_tuning.tune(own, top, [maps], [early], labels, scaler, settings, seed=3)
        with torch.no_grad():
            return top(fine_tuning.features(own, maps, early))

    with torch.no_grad():
        before = head(fine_tuning.features(block, maps, early))
    after = tuned()
    assert (before.argmax(1).numpy() == labels).mean() < 0.7
    assert (after.argmax(1).numpy() == labels).mean() > 0.95
    assert torch.equal(after, tuned())


def test_an_unknown_mix_is_refused():
    with pytest.raises(BatikError, match="no mix"):
        Settings("stir")
