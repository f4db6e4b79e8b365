"""Training and prediction with a toy network; what is counted is checked by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy_backbone
from torch import nn
from torch.nn import functional

from batik_utils import training, transforms
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.models import TransferClassifier
from batik_utils.recipes import Recipe
from batik_utils.training import Examples

SEEN = Preprocessing(size=16)
RECIPE = Recipe("toy", "ours", "toy", epochs=3, batch_size=8, learning_rate=0.01)


def examples(n: int, seed: int = 0) -> Examples:
    """Noise, brighter from class to class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 150, (n, 3, 16, 16), generator=generator)
    return Examples((noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


TRAIN, VALIDATION = examples(26), examples(7, seed=1)


def network() -> nn.Module:
    backbone, n_features = toy_backbone()
    return TransferClassifier(backbone, nn.Sequential(nn.Dropout(0.5), nn.Linear(n_features, 3)))


def train(recipe=RECIPE, *, seed=0, validation=VALIDATION, **settings):
    with training.seeded(seed) as generator:
        model = network()
        learn = training.batches(TRAIN, recipe, SEEN, generator)
        check = None if validation is None else training.batches(validation, recipe, SEEN)
        history = training.fit(model, recipe, learn, check, **settings)
    return model, history


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- the loop ---------------------------------------------------------------------------------


def test_fit_is_the_loop_of_any_textbook():
    recipe = replace(RECIPE, label_smoothing=0.1, augment=0.3, extra=(("colour", 0.5),))
    fitted, history = train(recipe)
    assert tuple(history.columns) == training.HISTORY_COLUMNS
    losses = []
    with training.seeded(0) as generator:
        model = network()
        optimiser = torch.optim.Adam(model.parameters(), recipe.learning_rate, fused=True)
        for _ in range(recipe.epochs):
            model.train()
            total = 0.0
            for chosen in torch.randperm(26, generator=generator).split(8):
                batch = transforms.augment(TRAIN.pixels[chosen], SEEN, recipe, generator)
                labels = TRAIN.labels[chosen]
                loss = functional.cross_entropy(model(batch), labels, label_smoothing=0.1)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.item() * len(chosen)
            losses.append(total / 26)
    assert losses == history["train_loss"].tolist()
    assert same(model, fitted)


def test_one_seed_gives_one_network_whatever_the_random_state_outside():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, first = train()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(321)
    two, second = train()
    assert same(one, two) and first.equals(second)
    assert not same(one, train(seed=1)[0])


def test_evaluation_gives_means_over_pictures_and_not_over_batches():
    given, model = examples(67, seed=2), network().train()  # in batches of 64
    found = training.evaluate(model, training.batches(given, RECIPE, SEEN))
    with torch.no_grad():
        logits = model.eval()(transforms.normalise(given.pixels, SEEN))
    losses = functional.cross_entropy(logits, given.labels, reduction="none")
    right = (logits.argmax(1) == given.labels).double().mean().item()
    assert found == pytest.approx((losses.mean().item(), right), rel=1e-5)
    over_batches = torch.stack([part.mean() for part in losses.split(64)]).mean()
    assert abs(over_batches - losses.mean()) > 1e-3  # the mistake would show


def test_validation_does_not_touch_the_network_and_may_be_left_out():
    one, _ = train()
    two, _ = train(validation=examples(50, seed=9))
    three, history = train(validation=None)
    assert same(one, two) and same(one, three)
    assert history[["validation_loss", "validation_accuracy"]].isna().all(axis=None)


@pytest.mark.parametrize("change", [{"weight_decay": 0.1}, {"flip": 0.0}], ids=str)
def test_a_setting_reaches_the_training(change):
    assert not same(train(replace(RECIPE, **change))[0], train()[0])


def test_learning_rates():
    found = []

    def spy(model, batch, labels, optimiser, **settings):
        found.append(optimiser.param_groups[0]["lr"])
        return training.train_step(model, batch, labels, optimiser, **settings)

    train(replace(RECIPE, epochs=10), step=spy)
    assert found == [0.01] * 40
    found.clear()
    train(replace(RECIPE, schedule="cosine", epochs=10), step=spy)
    assert found[:3:2] == pytest.approx([0.001, 0.0055])
    assert found[4] == max(found) == pytest.approx(0.01)
    assert found[22] == pytest.approx(0.005)  # half of the way down
    assert found[4:] == sorted(found[4:], reverse=True)
    assert 0 < found[-1] < 1e-4


@pytest.mark.parametrize(
    "change",
    # the second takes one step in its one epoch: its training loss was still a number
    [{"learning_rate": 1e30}, {"learning_rate": 1e38, "epochs": 1, "batch_size": 26}],
)
def test_a_diverged_training_is_an_error(change):
    with pytest.raises(training.Diverged, match="'toy' diverged in epoch 1"):
        train(replace(RECIPE, **change))


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    # batch norm cannot do with one
    [(26, 8, [8, 8, 8, 2]), (25, 8, [8, 8, 9]), (5, 8, [5]), (3, 1, [1, 1, 1]), (0, 8, [])],
)
def test_batches_hold_every_picture_once(n, size, sizes):
    recipe = replace(RECIPE, batch_size=size, flip=0.0)
    found = training.batches(examples(n), recipe, SEEN, torch.Generator().manual_seed(0))
    parts = [labels for _, labels in found]
    assert [len(part) for part in parts] == sizes
    assert sorted(torch.cat([torch.empty(0), *parts]).tolist()) == sorted(k % 3 for k in range(n))


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.mps, "is_available", lambda: False)
    assert training.choose_device() == training.choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "mps", "cuda:0", "gpu", "", "cuda:x"):
        with pytest.raises(BatikError, match=f"device '?{name}"):
            training.choose_device(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert training.choose_device() == torch.device("cuda")
    assert training.choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(BatikError, match="cuda:2"):
        training.choose_device("cuda:2")


# --- prediction -------------------------------------------------------------------------------


def test_predictions_are_probabilities_in_order_without_dropout():
    model, pixels = train()[0].train(), examples(67).pixels
    before = copy.deepcopy(model)
    found = training.predict(model, SEEN, pixels)
    assert found.dtype == np.float64
    with torch.no_grad():
        by_hand = before.eval()(transforms.normalise(pixels, SEEN)).softmax(1)
    np.testing.assert_allclose(found, by_hand.numpy(), atol=1e-6)
    assert same(model, before)
    # the same from features
    features = training.features(model, SEEN, pixels)
    np.testing.assert_allclose(training.predict(model.head, None, features), found, atol=1e-6)


def test_mixed_precision_keeps_float32_weights_and_nearly_the_same_answers():
    model, history = train(precision="bfloat16")
    assert history.notna().all(axis=None)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    one, other = (
        training.predict(model, SEEN, TRAIN.pixels, precision=p) for p in training.PRECISIONS
    )
    np.testing.assert_allclose(one, other, atol=0.02)
    assert not np.array_equal(one, other)
    with pytest.raises(BatikError, match="Unknown precision 'half'"):
        training.predict(model, SEEN, TRAIN.pixels, precision="half")
