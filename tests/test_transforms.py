"""Pictures as tensors, against torchvision's own transforms; changes and their random draws."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, functional

from batik_utils import transforms
from batik_utils.errors import BatikError
from batik_utils.images.resize import IMAGENET, Preprocessing
from batik_utils.recipes import Recipe

PIXELS = torch.randint(0, 256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(0))
CLOTH = torch.randint(0, 256, (40, 3, 8, 8), dtype=torch.uint8, generator=torch.manual_seed(1))
CLOTH = CLOTH.repeat_interleave(4, 2).repeat_interleave(4, 3)  # 32 px, blocks of 4
PLAIN = Recipe("any", "ours", "toy", flip=0.0)
NO_CHANGE = Preprocessing(size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def augmented(pixels=CLOTH, seed=0, **change) -> torch.Tensor:
    """Return pixels (0 to 255) after augmentation, by default without the mirror."""
    generator = torch.Generator().manual_seed(seed)
    return transforms.augment(pixels, NO_CHANGE, replace(PLAIN, **change), generator) * 255


@pytest.mark.parametrize(("size", "interpolation"), [(16, "bilinear"), (40, "bicubic")])
def test_pixels_are_those_of_torchvision(small_dataset, size, interpolation):
    settings = Preprocessing(size=size, interpolation=interpolation)
    pixels = transforms.load_pixels(small_dataset, settings)
    assert (pixels.dtype, tuple(pixels.shape)) == (torch.uint8, (24, 3, size, size))
    for index, path in enumerate(small_dataset.paths):
        with Image.open(path) as picture:
            small = functional.resize(
                picture, [size, size], InterpolationMode(interpolation), antialias=True
            )
        assert torch.equal(pixels[index], functional.pil_to_tensor(small))


def test_a_picture_that_was_lost_meanwhile_is_named(small_dataset):
    lost = small_dataset.paths[5]
    lost.unlink()
    with pytest.raises(BatikError, match=lost.name):
        transforms.load_pixels(small_dataset, IMAGENET)


def test_pixels_need_no_shared_memory(small_dataset, monkeypatch):
    """A container may lack /dev/shm, and with it the semaphores of processes."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    assert len(transforms.load_pixels(small_dataset, IMAGENET)) == 24


def test_values_are_normalised_as_torchvision_does_and_back():
    settings = Preprocessing(8, (0.1, 0.5, 0.9), (0.2, 0.3, 0.4))
    before = PIXELS.clone()
    batch = transforms.normalise(PIXELS, settings)
    wanted = functional.normalize(PIXELS.float() / 255, settings.mean, settings.std)
    torch.testing.assert_close(batch, wanted, rtol=1e-5, atol=1e-5)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(PIXELS, before)
    assert torch.equal(transforms.to_uint8(batch, settings), PIXELS)


def test_half_of_the_pictures_are_mirrored_and_the_rest_left():
    found = {}
    for flip in (0.0, 0.5, 1.0):
        batch = augmented(PIXELS, flip=flip).round()
        found[flip] = (batch == PIXELS.flip(-1)).flatten(1).all(1)
        assert ((batch == PIXELS).flatten(1).all(1) ^ found[flip]).all()
    assert not found[0.0].any() and found[1.0].all()
    assert 16 < found[0.5].sum() < 48


# --- random draws -----------------------------------------------------------------------------


def test_the_draws_of_committed_results():
    """Mirror, then shape, then colour, from one generator: what was trained depends on it."""
    generator, expected = (torch.Generator().manual_seed(3) for _ in range(2))
    transforms.augment(CLOTH, NO_CHANGE, replace(PLAIN, augment=0.5), generator)
    transforms.augment(CLOTH, NO_CHANGE, PLAIN, generator)
    for shape in ((40,), (40, 9), (40, 4), (40,)):
        torch.rand(shape, generator=expected)
    assert torch.equal(generator.get_state(), expected.get_state())


def test_a_further_change_is_one_line_and_leaves_all_other_draws_as_they_are(monkeypatch):
    drawn = []

    def brighter(pixels, strength, generator):
        drawn.append(torch.rand(len(pixels), generator=generator))
        return pixels + 255 * strength

    monkeypatch.setitem(transforms.AUGMENTATIONS, "brighter", brighter)
    one, other = (torch.Generator().manual_seed(5) for _ in range(2))
    recipe = replace(PLAIN, flip=0.5, augment=0.4)
    more = replace(recipe, extra=(("brighter", 0.2),))
    for _ in range(2):
        before = transforms.augment(CLOTH, NO_CHANGE, recipe, one)
        after = transforms.augment(CLOTH, NO_CHANGE, more, other)
        torch.testing.assert_close(after, before + 0.2)
        assert torch.equal(one.get_state(), other.get_state())
    # numbers of its own in every batch, the same by the same seed
    assert not torch.equal(*drawn)
    augmented(seed=5, flip=0.5, extra=(("brighter", 0.2),))
    assert torch.equal(drawn[2], drawn[0])


def test_changes_depend_on_the_generator_alone_and_differ_by_picture():
    same_picture = CLOTH[:1].expand(20, -1, -1, -1)
    one, other = (augmented(same_picture, augment=0.5, seed=seed) for seed in (0, 1))
    torch.manual_seed(2)
    assert torch.equal(one, augmented(same_picture, augment=0.5))
    assert len(torch.cat([one, other]).flatten(1).unique(dim=0)) == 40


# --- what the changes do to cloth -------------------------------------------------------------


def test_at_full_strength_all_eight_positions_of_a_square_are_equally_likely():
    """One corner is marked; which corner it lies in, and along which side, tells the position."""
    picture = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    picture[..., :16, :16] = 255
    picture[..., :16, 16:] = 120
    batch = augmented(picture.expand(1600, -1, -1, -1), flip=0.5, augment=1.0)
    quarters = torch.nn.functional.adaptive_avg_pool2d(batch.mean(1, keepdim=True), 2).flatten(1)
    order = quarters.argsort(1, descending=True)[:, :2]
    counts = torch.stack([order[:, 0] * 4 + order[:, 1]]).unique(return_counts=True)[1]
    common = counts.sort(descending=True)[0][:8]
    assert common.sum() > 0.9 * 1600
    assert common.min() > 0.6 * 200 and common.max() < 1.4 * 200


def test_cloth_stays_cloth():
    """Plain stays plain, grey nearly grey, and the greater part stays in sight."""
    plain = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    batch = augmented(plain, augment=1.0)
    assert batch.amax((2, 3)).sub(batch.amin((2, 3))).max() < 0.1
    grey = batch.mean((2, 3))
    assert (grey.amax(1) - grey.amin(1)).max() < 1
    assert grey.min() > 128 * 0.59 and grey.max() < 128 * 1.41
    # a ramp tells how much of the width can still be seen: at least half of it
    ramp = torch.linspace(0, 255, 32).expand(50, 3, 32, 32)
    seen = transforms.change_shape(ramp, 1.0, torch.Generator().manual_seed(0))
    assert ((seen.amax((1, 2, 3)) - seen.amin((1, 2, 3))) / 255).min() > 0.45
