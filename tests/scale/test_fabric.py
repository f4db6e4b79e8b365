"""Two processes train as one: the same losses at equal global batch, and clear refusals."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from batik_utils import experiments, models
from batik_utils import training as engine
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.recipes import Recipe
from batik_utils.scale import fabric as distributed
from batik_utils.training import Examples

pytest.importorskip("lightning_fabric", reason="needs the extra 'scale'")

SEEN = Preprocessing(size=32)
RECIPE = Recipe(
    "plain", "scratch", "none", head="linear", epochs=3, batch_size=8, learning_rate=0.01
)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(n: int) -> Examples:
    """Noise around a colour for each of three classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(n) % 3
    colours = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels]
    pixels = colours[:, :, None, None] + generator.normal(0, 60, (n, 3, 32, 32))
    return Examples(torch.tensor(pixels.clip(0, 255).astype(np.uint8)), torch.tensor(labels))


def network(recipe: Recipe, *, norm: bool = False) -> models.Classifier:
    """As small as a network can be, without dropout, and without batch norm unless asked for."""
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    head = nn.Linear(16, 3)
    if recipe.head == "norm":
        head = nn.Sequential(nn.BatchNorm1d(16), head)
    return models.Classifier(backbone, head, recipe.frozen)


def train(recipe: Recipe, devices: int, n: int = 21, *, norm: bool = False, **settings):
    """Return the network, its history, and what the generator gives next."""
    with engine.seeded(5) as generator:
        model = network(recipe, norm=norm)
        fit = engine.fit if devices == 1 else distributed.fit_on(devices)
        history = fit(
            model,
            recipe,
            SEEN,
            pictures(n),
            pictures(9),
            generator=generator,
            progress=False,
            **settings,
        )
        return model, history, torch.rand(3, generator=generator)


@pytest.mark.parametrize("frozen", ["no", "backbone"])
def test_two_processes_give_the_losses_of_one(frozen):
    # 21 pictures in batches of 8: the last one has 5, and is dealt out as 3 and 2
    recipe = replace(RECIPE, frozen=frozen, label_smoothing=0.1)
    model, alone, after = train(recipe, 1)
    shared_model, shared, after_shared = train(recipe, 2)
    assert alone["train_loss"].iloc[-1] < alone["train_loss"].iloc[0] - 0.01
    pd.testing.assert_frame_equal(shared, alone, atol=1e-5, rtol=0)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(shared_model.state_dict()[name], value, atol=1e-4, rtol=0)
    # what comes after the training is the same too: a second stage goes on from here
    torch.testing.assert_close(after_shared, after)


def test_mixed_precision_and_batch_norm_train_too():
    model, history, _ = train(RECIPE, 2, norm=True, precision="bfloat16")
    assert history["validation_loss"].iloc[-1] < history["validation_loss"].iloc[0]
    assert model.backbone[1].running_mean.abs().sum() > 0
    assert all(value.dtype == torch.float32 for value in model.parameters())


def test_what_a_process_raises_arrives_whole():
    with pytest.raises(engine.Diverged, match="diverged in epoch 1"):
        train(replace(RECIPE, learning_rate=math.inf), 2)


def test_wrong_settings_are_refused_before_a_process_starts(monkeypatch, small_dataset, tmp_path):
    monkeypatch.setattr(torch.multiprocessing, "start_processes", None)  # it would fail
    with pytest.raises(BatikError, match="devices must be at least 1, not 0"):
        train(RECIPE, 0)
    with pytest.raises(BatikError, match="Unknown strategy 'horses': use one of ddp"):
        train(RECIPE, 2, strategy="horses")
    with pytest.raises(BatikError, match="Unknown precision 'float8'"):
        train(RECIPE, 2, precision="float8")
    with pytest.raises(BatikError, match="99 GPUs were asked for"):
        distributed.check(99, torch.device("cuda"))
    with pytest.raises(BatikError, match="devices must be at least 1, not -1"):
        experiments.prepare(small_dataset, "stratified-0", results=tmp_path, devices=-1)


def test_a_batch_that_cannot_be_shared_is_refused():
    pair = SimpleNamespace(world_size=2, global_rank=0)
    with pytest.raises(BatikError, match="fewer pictures than there are processes"):
        train(RECIPE, 1, n=17, fabric=pair)
    with pytest.raises(BatikError, match="would break batch norm"):
        head = replace(RECIPE, head="norm")
        train(head, 1, n=19, fabric=pair)
