"""The slow loop and the fast one learn the same: this is what makes their times comparable."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy_backbone

from batik_utils import experiments, models, recipes, splits
from batik_utils import training as engine
from batik_utils.errors import BatikError
from batik_utils.scale import published
from batik_utils.transforms import normalise

pytestmark = pytest.mark.usefixtures("without_batik_settings")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def setup(small_dataset, tmp_path) -> experiments.Setup:
    return experiments.prepare(
        small_dataset, "stratified-0", results=tmp_path / "results", device="cpu"
    )


@pytest.fixture
def plain(toy, monkeypatch):
    """The toy recipe without its convolution's bias, as real networks have it before batch norm.

    Batch norm takes such a bias out again, so its gradient is rounding alone, which Adam blows up
    to full steps: two ways of rounding would then differ in the running means.
    """

    def without_bias():
        backbone, n_features = toy_backbone()
        backbone[0].bias = None
        return backbone, n_features

    monkeypatch.setitem(models.ARCHITECTURES, "toy", models.transfer(without_bias))
    return toy


def both(setup, recipe, seed=0):
    """Return the histories of the published loop and of `experiments.train`."""
    train, validation = (
        splits.indices(setup.split, setup.dataset, name) for name in ("train", "validation")
    )
    with engine.seeded(seed) as generator:
        model, _ = models.build(recipe, len(setup.dataset.classes))
        slow = published.fit(
            model,
            recipe,
            models.preprocessing_of(recipe),
            setup.dataset,
            train,
            validation,
            generator=generator,
        )
    _, fast, _ = experiments.train(setup, recipe, seed, test=False)
    return slow, fast


@pytest.mark.parametrize("frozen", ["no", "parameters", "backbone"])
def test_the_same_losses_as_the_fast_path(setup, plain, frozen):
    slow, fast = both(setup, replace(plain, frozen=frozen, epochs=4))
    assert len(slow) == 4
    for name in ("train_loss", "validation_loss"):
        np.testing.assert_allclose([row[name] for row in slow], fast[name], rtol=1e-5)
    assert slow[0]["train_loss"] != slow[-1]["train_loss"]
    other, _ = both(setup, replace(plain, frozen=frozen, epochs=4), seed=1)
    assert other[0]["train_loss"] != pytest.approx(slow[0]["train_loss"], rel=1e-4)


def test_the_same_losses_of_a_published_scratch_recipe(setup):
    """scratch1 itself at 224 px, 51 million parameters, for two epochs of two batches."""
    recipe = replace(recipes.get("scratch1"), epochs=2, batch_size=9)
    slow, fast = both(setup, recipe)
    for name in ("train_loss", "validation_loss"):
        np.testing.assert_allclose([row[name] for row in slow], fast[name], rtol=1e-4, atol=1e-6)


def test_one_picture_is_what_the_fast_path_sees(setup, toy):
    seen = models.preprocessing_of(toy)
    pixels = setup.pixels(seen)
    plain, mirrored = normalise(pixels, seen), normalise(pixels.flip(-1), seen)
    for index in (0, 7):
        path = setup.dataset.paths[index]
        torch.testing.assert_close(published.open_one(path, seen), plain[index])
        one = published.open_one(path, seen, mirrored=True)
        torch.testing.assert_close(one, mirrored[index])


def test_every_epoch_opens_every_file_again(setup, toy, monkeypatch):
    opened = []
    original = published.files.open_image
    monkeypatch.setattr(
        published.files, "open_image", lambda path: opened.append(path) or original(path)
    )
    model = models.build_untrained(toy, 3)
    seen = models.preprocessing_of(toy)
    arguments = (model, toy, seen, setup.dataset, range(20), range(20, 24))
    published.fit(*arguments, generator=torch.Generator(), epochs=3)
    assert len(opened) == 3 * 24
    assert len(set(opened)) == 24


@pytest.mark.parametrize("change", [{"augment": 0.3}, {"schedule": "cosine"}])
def test_what_the_published_loop_did_not_have_is_refused(setup, toy, change):
    with pytest.raises(BatikError, match="published loop knows no"):
        both(setup, replace(toy, **change))
