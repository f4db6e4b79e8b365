"""Two processes train as one: the same losses at equal global batch, and clear refusals."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from batik_utils import models, training
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.recipes import Recipe

fabric = pytest.importorskip("batik_utils.scale.fabric")
pytest.importorskip("lightning_fabric", reason="needs the extra 'scale'")

SEEN = Preprocessing(size=32)
CPU = torch.device("cpu")
RECIPE = Recipe("plain", "scratch", "none", epochs=3, batch_size=8, learning_rate=0.01)


def pictures(n: int) -> training.Examples:
    """Noise around a colour for each of three classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels]
    pixels = colours[:, :, None, None] + generator.normal(0, 60, (n, 3, 32, 32))
    return training.Examples(
        torch.tensor(pixels.clip(0, 255).astype(np.uint8)), torch.tensor(labels)
    )


def train(recipe: Recipe, fit, n: int = 21, *, norm: bool = False, **settings):
    """Return the network, its history, and what the generator gives next."""
    with training.seeded(5) as generator:
        backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4) if norm else nn.Identity(),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        model = models.TransferClassifier(backbone, nn.Linear(16, 3), recipe.frozen)
        learner, check = model, training.batches(pictures(9), recipe, SEEN)
        batches = training.batches(pictures(n), recipe, SEEN, generator)
        if recipe.frozen == "backbone":
            views = training.views_of(model, SEEN, batches.inputs, recipe, generator)
            batches = training.view_batches(views, batches.labels, recipe, generator)
            learner, check = model.head, None
        history = fit(learner, recipe, batches, check, **settings)
        return model, history, torch.rand(3, generator=generator)


@pytest.mark.parametrize("frozen", ["no", "backbone"])
def test_two_processes_give_the_losses_of_one(frozen):
    # 21 pictures in batches of 8: the last one has 5, and is divided into 3 and 2
    recipe = replace(RECIPE, frozen=frozen, label_smoothing=0.1)
    model, alone, after = train(recipe, training.fit)
    shared_model, shared, after_shared = train(recipe, fabric.Fit(2, CPU))
    assert alone["train_loss"].iloc[-1] < alone["train_loss"].iloc[0] - 0.01
    pd.testing.assert_frame_equal(shared, alone, atol=1e-5, rtol=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(shared_model.state_dict()[name], value, atol=1e-4, rtol=0)
    # what comes after the training is the same too: a second stage goes on from here
    torch.testing.assert_close(after_shared, after)


def test_mixed_precision_and_batch_norm_train_too():
    model, history, _ = train(RECIPE, fabric.Fit(2, CPU), norm=True, precision="bfloat16")
    assert history["validation_loss"].iloc[-1] < history["validation_loss"].iloc[0]
    assert model.backbone[1].running_mean.abs().sum() > 0
    assert all(value.dtype == torch.float32 for value in model.parameters())


def test_what_a_process_raises_arrives_whole():
    with pytest.raises(training.Diverged, match="diverged in epoch 1"):
        train(replace(RECIPE, learning_rate=math.inf), fabric.Fit(2, CPU))


def test_wrong_settings_are_refused_before_a_process_starts(monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "start_processes", None)  # it would fail
    for devices, kind in ((0, "cpu"), (-1, "cpu"), (99, "cuda")):
        with pytest.raises(BatikError, match=str(devices)):
            fabric.Fit(devices, torch.device(kind))
    with pytest.raises(BatikError, match="fewer pictures"):
        train(RECIPE, fabric.Fit(3, CPU), n=18)
