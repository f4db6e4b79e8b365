"""Pictures as tensors, against torchvision's own transforms."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from batik_utils import data, pictures, transforms
from batik_utils.errors import BatikError
from batik_utils.preprocessing import IMAGENET, Preprocessing
from batik_utils.transforms import EvalPreset, TrainPreset

PIXELS = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))


@pytest.mark.parametrize(("size", "interpolation"), [(16, "bilinear"), (40, "bicubic")])
def test_pixels_are_those_of_torchvision(small_dataset, size, interpolation):
    settings = Preprocessing(size=size, interpolation=interpolation)
    pixels = transforms.load_pixels(small_dataset, settings, progress=False)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (24, 3, size, size))
    for index, path in enumerate(small_dataset.paths):
        with Image.open(path) as picture:
            small = functional.resize(
                picture, [size, size], InterpolationMode(interpolation), antialias=True
            )
        assert torch.equal(pixels[index], functional.pil_to_tensor(small))


def test_values_are_normalised_as_torchvision_does():
    settings = Preprocessing(8, (0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    before = PIXELS.clone()
    batch = EvalPreset(settings)(PIXELS)
    wanted = functional.normalize(PIXELS.float() / 255, settings.mean, settings.std)
    torch.testing.assert_close(batch, wanted, rtol=1e-5, atol=1e-5)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(PIXELS, before)


def test_about_half_of_the_pictures_are_mirrored_and_the_rest_left():
    batch = TrainPreset(IMAGENET)(PIXELS, torch.Generator().manual_seed(0))
    plain, mirrored = EvalPreset(IMAGENET)(PIXELS), EvalPreset(IMAGENET)(PIXELS.flip(-1))
    is_plain = (batch == plain).flatten(1).all(1)
    is_mirrored = (batch == mirrored).flatten(1).all(1)
    assert (is_plain ^ is_mirrored).all()
    assert 16 < is_mirrored.sum() < 48


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_never_and_always_mirrored(flip):
    batch = TrainPreset(IMAGENET, flip)(PIXELS, torch.Generator().manual_seed(0))
    wanted = PIXELS.flip(-1) if flip else PIXELS
    assert torch.equal(batch, EvalPreset(IMAGENET)(wanted))


def test_mirrors_depend_on_the_generator_alone():
    def batch(seed: int, outside: int) -> torch.Tensor:
        torch.manual_seed(outside)
        np.random.seed(outside)  # noqa: NPY002  the old global state is what must not matter
        return TrainPreset(IMAGENET)(PIXELS, torch.Generator().manual_seed(seed))

    assert torch.equal(batch(0, outside=1), batch(0, outside=2))
    assert not torch.equal(batch(0, outside=1), batch(1, outside=1))


def test_a_picture_that_was_lost_meanwhile_is_named(small_dataset):
    lost = small_dataset.paths[5]
    lost.unlink()
    with pytest.raises(BatikError, match=lost.name):
        transforms.load_pixels(small_dataset, IMAGENET, progress=False)


def test_a_larger_limit_holds_for_decoding_too(picture_tree, monkeypatch):
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    dataset = data.load("folder", picture_tree(), max_pixels=10_000, progress=False)
    settings = Preprocessing(size=4)
    assert len(transforms.load_pixels(dataset, settings, progress=False)) == 24
