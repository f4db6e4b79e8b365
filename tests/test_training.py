"""Training and prediction with a toy network; what is counted is checked by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from conftest import toy_parts
from torch import nn
from torch.nn import functional

from batik_utils import linear
from batik_utils import training as engine
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.models import Classifier
from batik_utils.recipes import Recipe
from batik_utils.training import Examples
from batik_utils.transforms import EvalPreset

SETTINGS = Preprocessing(size=16)
RECIPE = Recipe("toy", "ours", "toy", epochs=3, batch_size=8, learning_rate=0.01)


def examples(n: int, seed: int = 0, size: int = 16) -> Examples:
    """Noise, brighter from class to class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    noise = torch.randint(0, 150, (n, 3, size, size), generator=generator)
    return Examples((noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8), labels)


@pytest.fixture(autouse=True)
def one_thread():
    """Toy networks are too small to be shared out, least of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


TRAIN, VALIDATION = examples(26), examples(7, seed=1)


def network(frozen: str = "no", dropout: float = 0.5, head: nn.Module | None = None) -> Classifier:
    backbone, n_features, _ = toy_parts(RECIPE)
    head = head or nn.Sequential(nn.Dropout(dropout), nn.Linear(n_features, 3))
    return Classifier(backbone, head, frozen)


def train(
    seed: int = 0,
    recipe: Recipe = RECIPE,
    model: Classifier | None = None,
    make=network,
    **settings,
):
    with engine.seeded(seed) as generator:
        model = model or make()
        data = {"train": TRAIN, "validation": VALIDATION} | settings
        history = engine.fit(model, recipe, SETTINGS, generator=generator, progress=False, **data)
    return model, history


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# --- seeds ------------------------------------------------------------------------------------


def test_one_seed_gives_one_network_and_history_and_another_seed_another():
    (one, first), (two, second), (three, third) = (train(seed) for seed in (0, 0, 1))
    assert same(one, two)
    assert first.equals(second)
    assert not same(one, three)
    assert not first.equals(third)


def test_the_random_state_outside_does_not_matter_and_is_left_alone():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    one, _ = train()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(321)
    two, _ = train()
    assert same(one, two)
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), engine.seeded(0):
        torch.rand(3)
        _ = 1 / 0
    assert torch.equal(torch.get_rng_state(), before)


# --- what is learnt and counted ---------------------------------------------------------------


def test_a_toy_network_learns_and_the_history_says_so():
    _, history = train(recipe=replace(RECIPE, epochs=15), make=lambda: network(dropout=0.0))
    assert tuple(history.columns) == engine.HISTORY_COLUMNS
    assert list(history["epoch"]) == list(range(1, 16))
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    assert history["validation_accuracy"].iloc[-1] > 0.8
    shares = history["train_accuracy"] * 26
    np.testing.assert_allclose(shares, shares.round(), atol=1e-9)


def test_figures_are_means_over_pictures_and_not_over_batches():
    """Nothing changes at a rate of 0, so that one pass over uneven batches can be done by hand."""
    head = nn.Linear(16, 3)
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    model = Classifier(backbone, head)
    before = copy.deepcopy(model)
    recipe = replace(RECIPE, epochs=1, learning_rate=0.0, flip=0.0, batch_size=24)
    validation = examples(67, seed=2)  # predicted in batches of 64
    _, history = train(recipe=recipe, model=model, validation=validation)
    assert same(model, before)

    def by_hand(data: Examples) -> tuple[float, float, torch.Tensor]:
        with torch.no_grad():
            logits = before(EvalPreset(SETTINGS)(data.pixels))
        losses = functional.cross_entropy(logits, data.labels, reduction="none")
        return (
            losses.mean().item(),
            (logits.argmax(1) == data.labels).double().mean().item(),
            losses,
        )

    loss, accuracy, losses = by_hand(TRAIN)
    row = history.iloc[0]
    assert row["train_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["train_accuracy"] == pytest.approx(accuracy)
    loss, accuracy, losses = by_hand(validation)
    assert row["validation_loss"] == pytest.approx(loss, rel=1e-5)
    assert row["validation_accuracy"] == pytest.approx(accuracy)
    over_batches = torch.stack([part.mean() for part in losses.split(64)]).mean().item()
    assert abs(over_batches - loss) > 1e-3  # the mistake would show


def test_validation_does_not_touch_the_network():
    one, _ = train()
    two, _ = train(validation=examples(50, seed=9))
    assert same(one, two)


def test_every_epoch_is_reported_as_it_ends():
    seen = []
    _, history = train(on_epoch=seen.append)
    assert seen == history.to_dict("records")


def test_a_search_can_stop_early_by_raising():
    class Enough(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Enough

    with pytest.raises(Enough):
        train(on_epoch=stop)


def test_weight_decay_and_flip_reach_the_training():
    plain, decayed, unflipped = (
        train(recipe=replace(RECIPE, **change))[0]
        for change in ({}, {"weight_decay": 0.1}, {"flip": 0.0})
    )
    assert not same(plain, decayed)
    assert not same(plain, unflipped)


# --- frozen backbones -------------------------------------------------------------------------


def test_a_fixed_backbone_stays_untouched_to_the_last_buffer():
    with engine.seeded(0):
        before = network("backbone")
    model, _ = train(make=lambda: network("backbone"))
    assert same(model.backbone, before.backbone)
    assert not same(model.head, before.head)
    assert not any(p.requires_grad for p in model.backbone.parameters())


def test_frozen_parameters_stay_but_batch_norm_statistics_move():
    with engine.seeded(0):
        before = network("parameters")
    model, _ = train(make=lambda: network("parameters"))
    old = dict(before.backbone.named_parameters())
    assert all(torch.equal(p, old[name]) for name, p in model.backbone.named_parameters())
    assert not torch.equal(model.backbone[1].running_mean, before.backbone[1].running_mean)
    assert model.backbone[1].num_batches_tracked == 3 * 4
    assert not same(model.head, before.head)


class SlowProbe(Classifier):
    """A fixed backbone that sees the pictures in every epoch, as a plain loop would have it."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.backbone.eval()
        return self


def lite0_parts() -> tuple[nn.Module, int]:
    backbone = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    return backbone, backbone.num_features


@pytest.mark.parametrize(
    "parts", [lambda: toy_parts(RECIPE)[:2], lite0_parts], ids=["toy", "lite0"]
)
def test_features_computed_once_train_the_same_head_as_pixels_do(parts):
    def probe(kind: type, frozen: str) -> Classifier:
        backbone, n_features = parts()
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                # statistics that batches would not give: a backbone in training mode would show
                module.running_mean.add_(0.05)
        head = nn.Sequential(nn.Dropout(0.2), nn.Linear(n_features, 3))
        return kind(backbone, head, frozen)

    recipe = replace(RECIPE, learning_rate=1e-3)
    fast, fast_history = train(recipe=recipe, make=lambda: probe(Classifier, "backbone"))
    slow, slow_history = train(recipe=recipe, make=lambda: probe(SlowProbe, "parameters"))
    assert same(fast.backbone, slow.backbone)
    for one, other in zip(fast.head.parameters(), slow.head.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    np.testing.assert_allclose(fast_history, slow_history, atol=1e-5)


def test_a_head_learns_from_views_that_were_drawn_beforehand():
    recipe = replace(RECIPE, augment=0.5)
    with engine.seeded(0) as generator:
        model = network("backbone")
        views = engine.views_of(model, SETTINGS, TRAIN.pixels, recipe, generator)
    assert views.shape == (engine.AUGMENTED_VIEWS, 26, 16)
    assert len({view.numpy().tobytes() for view in views}) == engine.AUGMENTED_VIEWS
    one, _ = train(recipe=recipe, make=lambda: network("backbone"))
    two, _ = train(recipe=recipe, make=lambda: network("backbone"))
    plain, _ = train(make=lambda: network("backbone"))
    assert same(one, two)
    assert not same(one.head, plain.head)
    with engine.seeded(0) as generator:
        given = network("backbone")
        views = engine.views_of(given, SETTINGS, TRAIN.pixels, recipe, generator)
        arguments = {"generator": generator, "progress": False, "views": views}
        engine.fit(given, recipe, SETTINGS, TRAIN, VALIDATION, **arguments)
    assert same(given, one)


def discriminant(frozen: str = "backbone", head: nn.Module | None = None) -> Classifier:
    backbone, n_features, _ = toy_parts(RECIPE)
    return Classifier(backbone, head or nn.Linear(n_features, 3), frozen)


def test_a_ridge_fits_the_head_in_closed_form():
    recipe = replace(RECIPE, frozen="backbone", ridge=0.5, augment=0.4)
    called = []
    with engine.seeded(0) as generator:
        model = discriminant()
        backbone = copy.deepcopy(model.backbone.state_dict())
        state = generator.get_state()
        views = engine.views_of(model, SETTINGS, TRAIN.pixels, recipe, generator)
        generator.set_state(state)
        history = engine.fit(
            model,
            recipe,
            SETTINGS,
            TRAIN,
            VALIDATION,
            generator=generator,
            progress=False,
            on_epoch=called.append,
        )
    assert views.shape == (1 + engine.CHANGED_COPIES, 26, 16)
    torch.testing.assert_close(views[0], engine.features(model, SETTINGS, TRAIN.pixels))
    assert not torch.equal(views[0], views[1]) and not torch.equal(views[1], views[2])
    rows = views.double().numpy()
    fitted = linear.fit(
        rows.reshape(-1, 16),
        np.tile(TRAIN.labels.numpy(), 3),
        linear.Head("lda", 0.5),
        linear.Scaler.of(rows[0]),
    )
    expected = torch.from_numpy(fitted.logits(rows[0])).float()
    torch.testing.assert_close(model.head(views[0]), expected, atol=1e-3, rtol=1e-3)
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, backbone[name])
    assert list(history["epoch"]) == [1] and len(called) == 1
    assert list(history.columns) == list(engine.HISTORY_COLUMNS)
    logits, labels = model.head(views.flatten(0, 1)), TRAIN.labels.repeat(3)
    assert history["train_loss"][0] == pytest.approx(
        functional.cross_entropy(logits, labels).item(), rel=1e-4
    )
    assert history["train_accuracy"][0] == pytest.approx(
        (logits.argmax(1) == labels).float().mean().item()
    )
    assert history["validation_accuracy"][0] > 0.5


@pytest.mark.parametrize(
    ("frozen", "head"), [("no", None), ("backbone", nn.Sequential(nn.Linear(16, 3)))]
)
def test_a_ridge_needs_a_fixed_backbone_and_one_linear_layer(frozen, head):
    with engine.seeded(0) as generator, pytest.raises(BatikError, match="closed form"):
        engine.fit(
            discriminant(frozen, head),
            replace(RECIPE, ridge=1.0),
            SETTINGS,
            TRAIN,
            VALIDATION,
            generator=generator,
            progress=False,
        )


def test_views_without_augmentation_are_the_picture_and_its_mirror_image():
    with engine.seeded(0) as generator:
        model = network("backbone")
        before = generator.get_state()
        views = engine.views_of(model, SETTINGS, TRAIN.pixels, RECIPE, generator)
    assert torch.equal(generator.get_state(), before)
    for view, pixels in zip(views, (TRAIN.pixels, TRAIN.pixels.flip(-1)), strict=True):
        assert torch.equal(view, engine.features(model, SETTINGS, pixels))


# --- augmentation, schedule, smoothing --------------------------------------------------------


def rates(monkeypatch, **change) -> list[float]:
    """Return the learning rate of every step."""
    seen = []
    step = torch.optim.Adam.step

    def spy(self, *arguments, **settings):
        seen.append(self.param_groups[0]["lr"])
        return step(self, *arguments, **settings)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    train(recipe=replace(RECIPE, **change))
    return seen


def test_a_constant_rate_is_the_recipes_own(monkeypatch):
    assert rates(monkeypatch) == [0.01] * 12


def test_the_cosine_schedule_warms_up_peaks_and_ends_near_0(monkeypatch):
    found = rates(monkeypatch, schedule="cosine", epochs=10)
    assert len(found) == 40
    assert found[0] == pytest.approx(0.001)
    assert found[2] == pytest.approx(0.0055)
    assert found[4] == max(found) == pytest.approx(0.01)
    assert found[22] == pytest.approx(0.005)  # half of the way down
    assert found[4:] == sorted(found[4:], reverse=True)
    assert 0 < found[-1] < 1e-4


def test_augmentation_schedule_and_smoothing_reach_the_training():
    changes = ({}, {"augment": 0.5}, {"schedule": "cosine"}, {"label_smoothing": 0.2})
    networks = [train(recipe=replace(RECIPE, **change))[0] for change in changes]
    assert not any(same(networks[0], other) for other in networks[1:])


def test_without_validation_pictures_the_history_leaves_them_out():
    one, history = train(validation=None)
    assert history[["validation_loss", "validation_accuracy"]].isna().all(axis=None)
    assert history[["train_loss", "train_accuracy"]].notna().all(axis=None)
    assert same(one, train()[0])
    with pytest.raises(engine.Diverged):
        train(recipe=replace(RECIPE, learning_rate=1e30), validation=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "linear"}, "Unknown schedule 'linear' .*constant, cosine"),
        ({"label_smoothing": 1.0}, "label smoothing must be at least 0 and below 1"),
        ({"label_smoothing": -0.1}, "label smoothing"),
        ({"augment": 2.0}, "strength must be 0 to 1"),
    ],
)
def test_unknown_values_are_refused(change, message):
    with pytest.raises(BatikError, match=message):
        train(recipe=replace(RECIPE, **change))


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 1e30},
        # the one step of the one epoch: its training loss was still a number
        {"learning_rate": 1e38, "epochs": 1, "batch_size": 26},
    ],
)
def test_a_diverged_training_is_an_error(change):
    with pytest.raises(BatikError, match=r"'toy' diverged in epoch 1 .*smaller learning rate"):
        train(recipe=replace(RECIPE, **change))


@pytest.mark.parametrize(("n", "batch_size"), [(25, 8), (1, 8), (6, 1)])
def test_a_last_batch_of_one_is_refused_where_batch_norm_would_break(n, batch_size):
    def with_batch_norm() -> Classifier:
        return network(head=nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 3)))

    recipe = replace(RECIPE, batch_size=batch_size)
    with pytest.raises(BatikError, match="last batch of one"):
        train(recipe=recipe, make=with_batch_norm, train=examples(n))
    train(recipe=recipe, train=examples(n))  # without batch norm in the head it is no trouble
    train(recipe=replace(RECIPE, batch_size=8), make=with_batch_norm, train=examples(26))


@pytest.mark.parametrize("subset", ["train", "validation"])
def test_no_pictures_no_training(subset):
    with pytest.raises(BatikError, match="at least one training and one validation picture"):
        train(**{subset: examples(0)})


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.mps, "is_available", lambda: False)
    assert engine.choose_device() == engine.choose_device("cpu") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(BatikError, match=f"No {name} device"):
            engine.choose_device(name)
    for name in ("gpu", "", "cuda:7"):
        with pytest.raises(BatikError, match=r"Unknown device .*auto, cpu, cuda, mps"):
            engine.choose_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert engine.choose_device() == torch.device("cuda")


# --- prediction -------------------------------------------------------------------------------


def test_predictions_are_probabilities_in_order_whatever_the_batch_size():
    model, _ = train()
    pixels = examples(67).pixels
    probabilities = engine.predict(model, SETTINGS, pixels)
    assert (probabilities.shape, probabilities.dtype) == ((67, 3), np.float64)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-12)
    small = engine.predict(model, SETTINGS, pixels, batch_size=5)
    np.testing.assert_allclose(small, probabilities, atol=1e-6)
    with torch.no_grad():
        by_hand = model.eval()(EvalPreset(SETTINGS)(pixels)).softmax(1).numpy()
    np.testing.assert_allclose(probabilities, by_hand, atol=1e-6)


def test_prediction_switches_dropout_off_and_changes_nothing():
    model, _ = train()
    before = copy.deepcopy(model)
    model.train()
    one = engine.predict(model, SETTINGS, TRAIN.pixels)
    assert np.array_equal(one, engine.predict(model, SETTINGS, TRAIN.pixels))
    assert same(model, before)


def test_mixed_precision_keeps_float32_weights_and_nearly_the_same_answers():
    model, history = train(precision="bfloat16")
    assert history.notna().all(axis=None)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    one, other = (
        engine.predict(model, SETTINGS, TRAIN.pixels, precision=p) for p in engine.PRECISIONS
    )
    np.testing.assert_allclose(one, other, atol=0.02)
    assert not np.array_equal(one, other)


def test_an_unknown_precision_is_refused():
    with pytest.raises(BatikError, match="Unknown precision 'float16'"):
        train(precision="float16")
    with pytest.raises(BatikError, match="Unknown precision"):
        engine.predict(network(), SETTINGS, TRAIN.pixels, precision="half")
