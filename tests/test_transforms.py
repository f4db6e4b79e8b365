"""Pictures as tensors, against torchvision's own transforms."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from batik_utils import data, transforms
from batik_utils.errors import BatikError
from batik_utils.images import files
from batik_utils.images.resize import IMAGENET, Preprocessing
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
    monkeypatch.setattr(files, "MAX_PIXELS", 100)
    dataset = data.load("folder", picture_tree(), max_pixels=10_000, progress=False)
    settings = Preprocessing(size=4)
    assert len(transforms.load_pixels(dataset, settings, progress=False)) == 24


# --- augmentation -----------------------------------------------------------------------------

CLOTH = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(1))
CLOTH = CLOTH.repeat_interleave(4, 2).repeat_interleave(4, 3)  # 32 px, blocks of 4


def augmented(strength: float, seed: int = 0, pixels: torch.Tensor = CLOTH) -> torch.Tensor:
    """Return float pixels (0 to 255) after augmentation without the mirror."""
    batch = TrainPreset(NO_CHANGE, 0.0, strength)(pixels, torch.Generator().manual_seed(seed))
    return batch * 255


NO_CHANGE = Preprocessing(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def test_strength_0_draws_and_changes_nothing_beyond_the_mirror():
    one, other = (torch.Generator().manual_seed(0) for _ in range(2))
    batch = TrainPreset(IMAGENET, 0.5, 0.0)(PIXELS, one)
    mirrored = (torch.rand(len(PIXELS), generator=other) < 0.5).view(-1, 1, 1, 1)
    wanted = EvalPreset(IMAGENET)(torch.where(mirrored, PIXELS.flip(-1), PIXELS))
    assert torch.equal(batch, wanted)
    assert torch.equal(one.get_state(), other.get_state())


@pytest.mark.parametrize("strength", [0.01, 0.5, 1.0])
def test_augmented_values_stay_in_range_and_the_batch_is_left_alone(strength):
    before = CLOTH.clone()
    batch = augmented(strength)
    assert torch.equal(CLOTH, before)
    assert (batch.shape, batch.dtype) == (CLOTH.shape, torch.float32)
    assert batch.isfinite().all()
    assert batch.min() >= 0 and batch.max() <= 255.001
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_depends_on_the_generator_alone_and_differs_by_picture():
    torch.manual_seed(1)
    one = augmented(0.5)
    torch.manual_seed(2)
    assert torch.equal(one, augmented(0.5))
    assert not torch.equal(one, augmented(0.5, seed=1))
    same_picture = augmented(0.5, pixels=CLOTH[:1].expand(20, -1, -1, -1))
    assert len(same_picture.flatten(1).unique(dim=0)) == 20


def test_a_weak_augmentation_is_nearly_none_and_a_strong_one_changes_more():
    original = CLOTH.float()
    # a picture that is not turned upside down or by a quarter: the median one
    change = [(augmented(s) - original).abs().mean((1, 2, 3)).median() for s in (0.001, 0.2, 1)]
    assert change[0] < 1
    assert change[0] < change[1] < change[2]


def test_at_full_strength_all_eight_positions_of_a_square_are_equally_likely():
    """One corner is marked; which corner it lies in, and along which side, tells the position."""
    picture = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    picture[..., :16, :16] = 255
    picture[..., :16, 16:] = 120
    batch = TrainPreset(NO_CHANGE, 0.5, 1.0)(
        picture.expand(1600, -1, -1, -1), torch.Generator().manual_seed(0)
    )
    quarters = torch.nn.functional.adaptive_avg_pool2d(batch.mean(1, keepdim=True), 2).flatten(1)
    order = quarters.argsort(1, descending=True)[:, :2]
    counts = torch.stack([order[:, 0] * 4 + order[:, 1]]).unique(return_counts=True)[1]
    common = counts.sort(descending=True)[0][:8]
    assert common.sum() > 0.9 * 1600
    assert common.min() > 0.6 * 200 and common.max() < 1.4 * 200


def test_cloth_stays_cloth():
    """A plain cloth stays plain, grey stays nearly grey, and the greater part stays in sight."""
    plain = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    batch = augmented(1.0, pixels=plain)
    assert batch.amax((2, 3)).sub(batch.amin((2, 3))).max() < 0.1
    grey = batch.mean((2, 3))
    assert (grey.amax(1) - grey.amin(1)).max() < 1  # hue and saturation leave grey alone
    assert grey.min() > 128 * 0.59 and grey.max() < 128 * 1.41
    # a ramp tells how much of the width can still be seen: at least half of it
    ramp = torch.linspace(0, 255, 32).round().to(torch.uint8).expand(50, 3, 32, 32)
    seen = transforms._reshaped(
        ramp.float(), torch.rand(50, 9, generator=torch.manual_seed(0)), 1.0
    )
    width = (seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))) / 255
    assert width.min() > 0.45


def test_colours_move_little():
    red = torch.zeros(200, 3, 4, 4, dtype=torch.uint8)
    red[:, 0] = 200
    batch = augmented(1.0, pixels=red).mean((2, 3))
    assert (batch.argmax(1) == 0).all()
    assert (batch[:, 0] > 1.5 * batch[:, 1:].amax(1)).all()


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_an_impossible_strength_is_refused(strength):
    with pytest.raises(BatikError, match="strength must be 0 to 1"):
        TrainPreset(IMAGENET, 0.5, strength)
