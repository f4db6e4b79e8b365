"""Two processes train as one: the same losses at equal global batch, and clear refusals."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from torch import nn

from batik_utils import experiments, models, recipes
from batik_utils.errors import BatikError

fabric = pytest.importorskip("batik_utils.scale.fabric")
pytest.importorskip("lightning_fabric", reason="needs the extra 'scale'")

CPU = torch.device("cpu")


@pytest.fixture
def change(monkeypatch, toy):
    """Change the recipe ``toy``."""
    return lambda **values: monkeypatch.setitem(recipes.RECIPES, "toy", replace(toy, **values))


@pytest.mark.parametrize("frozen", ["no", "backbone"])
def test_two_processes_give_the_losses_of_one(make, change, monkeypatch, frozen):
    def backbone():  # without batch norm, which on CPUs sees a process's part alone
        layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        return nn.Sequential(*layers), 16

    monkeypatch.setitem(models.ARCHITECTURES, "toy", models.transfer(backbone))
    change(label_smoothing=0.1, batch_size=5, frozen=frozen)
    setup, recipe = make(), recipes.get("toy")
    assert len(setup.rows("train")) % 5 == 3  # a batch that cannot be halved
    model, alone = experiments.train(setup, recipe, 0)
    shared_model, shared = experiments.train(setup, recipe, 0, fit=fabric.Fit(2, CPU))
    history = alone.history["train_loss"]
    assert history.iloc[-1] < history.iloc[0]
    pd.testing.assert_frame_equal(shared.history, alone.history, atol=1e-5, rtol=0)
    torch.testing.assert_close(shared_model.state_dict(), model.state_dict(), atol=1e-4, rtol=0)


def test_mixed_precision_and_batch_norm_train_too(make, toy):
    setup = make(precision="bfloat16")
    model, finished = experiments.train(setup, toy, 0, fit=fabric.Fit(2, CPU))
    assert finished.history["train_loss"].is_monotonic_decreasing
    assert model.backbone[1].running_mean.abs().sum() > 0
    assert all(value.dtype == torch.float32 for value in model.parameters())


def test_what_a_process_raises_arrives_whole(make, change):
    change(learning_rate=1e30)
    with pytest.raises(BatikError, match="diverged in epoch 1"):
        experiments.train(make(), recipes.get("toy"), 0, fit=fabric.Fit(2, CPU))


def test_wrong_settings_are_refused_before_a_process_starts(make, toy, monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "start_processes", None)  # it would fail
    for devices, kind in ((0, "cpu"), (-1, "cpu"), (99, "cuda")):
        with pytest.raises(BatikError, match=str(devices)):
            fabric.Fit(devices, torch.device(kind))
    with pytest.raises(BatikError, match="fewer than processes"):
        experiments.train(make(), toy, 0, fit=fabric.Fit(9, CPU))
