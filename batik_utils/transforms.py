"""Pictures to tensors: decoded once, then augmented and normalised a batch at a time.

Introduced in notebook 02, section "From pictures to tensors".
"""

import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.images import cache, files
from batik_utils.images.resize import Preprocessing, to_pixels
from batik_utils.recipes import Recipe

#: Part of every cache key: to be raised when the same file or seed gives other pixels than before.
VERSION = 1


def load_pixels(dataset: Dataset, preprocessing: Preprocessing) -> Tensor:
    """Return every picture squashed to the input size, uint8 (N, 3, S, S), from the cache."""

    def one(path: Path) -> np.ndarray:
        try:
            picture = files.open_image(path)
        except files.ImageError as error:
            raise BatikError(f"{path} has changed since it was listed: {error}.") from error
        return to_pixels(picture, preprocessing.size, preprocessing.interpolation)

    def rows() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            title = f"Decoding to {preprocessing.size} px"
            yield from tqdm(pool.map(one, dataset.paths), title, len(dataset.labels))

    parts = what_gives_pixels(dataset, preprocessing)
    return torch.from_numpy(cache.cached("pixels", parts, len(dataset.labels), rows))


def what_gives_pixels(dataset: Dataset, preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return everything that the result of `load_pixels` depends on."""
    decoding = f"{VERSION} Pillow {PIL.__version__} {preprocessing.size}"
    return f"{decoding} {preprocessing.interpolation}", *dataset.manifest["sha256"]


def _statistics(preprocessing: Preprocessing, like: Tensor) -> Tensor:
    values = (preprocessing.mean, preprocessing.std)
    return torch.tensor(values, device=like.device).view(2, 1, 3, 1, 1)


def normalise(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Turn uint8 pixels (N, 3, S, S) into a float32 batch, channels last in memory."""
    mean, std = _statistics(preprocessing, pixels) * 255
    batch = pixels.float().sub_(mean).div_(std)
    return batch.contiguous(memory_format=torch.channels_last)


def to_uint8(batch: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Undo the normalisation of a batch, to show it."""
    mean, std = _statistics(preprocessing, batch)
    return ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def augment(
    pixels: Tensor, preprocessing: Preprocessing, recipe: Recipe, generator: torch.Generator
) -> Tensor:
    """Change pixels (N, 3, S, S) at random as a recipe says, and normalise them.

    Mirroring, ``shape`` and ``colour`` draw from ``generator`` itself, which lies on the CPU. Every
    further change has a generator of its own, so that it leaves all other draws as they are.
    """
    state = zlib.crc32(generator.get_state().numpy())
    mirrored = torch.rand(len(pixels), generator=generator) < recipe.flip
    mirrored = mirrored.to(pixels.device).view(-1, 1, 1, 1)
    pixels = torch.where(mirrored, pixels.flip(-1), pixels).float()
    for name in ("shape", "colour") if recipe.augment else ():
        pixels = AUGMENTATIONS[name](pixels, recipe.augment, generator)
    for name, strength in recipe.extra:
        own = torch.Generator().manual_seed(zlib.crc32(name.encode(), state))
        pixels = AUGMENTATIONS[name](pixels, strength, own)
    return normalise(pixels, preprocessing)


def change_shape(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Crop, stretch, rotate and tilt each picture by a projective map of its own.

    With strength s: crop to at least 1 - 0.7 s of the area, sides stretched by up to (4/3)^s;
    rotation within 15 s degrees, perspective within 0.2 s; upside down and quarter turn, each with
    probability s/2, so that at s = 1 the eight positions of a square are equally likely.
    """
    n, _, _, side = pixels.shape
    chance = torch.rand(n, 9, generator=generator).to(pixels.device)
    spread = 2 * chance - 1
    # half the crop's height and width, on a scale where the picture reaches from -1 to 1
    area = 1 - 0.7 * strength * chance[:, 0]
    stretch = (4 / 3) ** (spread[:, 1] * strength / 2)
    half = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch], 1).clamp(max=1)
    angle = torch.deg2rad(15 * strength * spread[:, 4])
    cos, sin = angle.cos(), angle.sin()
    upside_down = torch.where(chance[:, 5] < strength / 2, -1.0, 1.0)
    quarter = (chance[:, 6] < strength / 2).view(-1, 1, 1)
    # output coordinates (x, y, 1) to input coordinates: turn and mirror, then scale and shift
    turn = torch.stack([cos, -sin, sin * upside_down, cos * upside_down], 1).view(n, 2, 2)
    turn = torch.where(quarter, turn.flip(2), turn)
    maps = torch.ones(n, 3, 3, device=pixels.device)
    maps[:, :2, :2] = half.unsqueeze(2) * turn
    maps[:, :2, 2] = (1 - half) * spread[:, 2:4]
    maps[:, 2, :2] = 0.2 * strength * spread[:, 7:9]
    steps = (torch.arange(side, device=pixels.device) * 2 + 1) / side - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3) @ maps.transpose(1, 2)
    grid = (points[..., :2] / points[..., 2:]).view(n, side, side, 2)
    return functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def change_colour(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change brightness, contrast, saturation (factors 1 ± 0.4 s) and hue (± 18 s degrees)."""
    n = len(pixels)
    spread = strength * (2 * torch.rand(n, 4, generator=generator).to(pixels.device) - 1)
    brightness, contrast, saturation = (1 + 0.4 * spread[:, :3]).unbind(1)
    hue = torch.deg2rad(18 * spread[:, 3])
    cos, sin = saturation * hue.cos(), saturation * hue.sin()
    one, nil = torch.ones_like(hue), torch.zeros_like(hue)
    chroma = torch.stack([one, nil, nil, nil, cos, -sin, nil, sin, cos], 1).view(n, 3, 3)
    yiq = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
    yiq = torch.tensor(yiq, device=pixels.device)
    gain = (brightness * contrast).view(n, 1, 1)
    flat = pixels.flatten(2)
    # contrast around the picture's mean luma
    middle = (yiq[0] @ flat.mean(2, keepdim=True)).view(n, 1, 1)
    offset = middle * (brightness * (1 - contrast)).view(n, 1, 1)
    changed = torch.baddbmm(offset, gain * (yiq.inverse() @ chroma @ yiq), flat)
    return changed.clamp_(0, 255).view_as(pixels)


#: Changes in training by name: float pixels (N, 3, S, S) from 0 to 255, a strength from 0 to 1 and
#: a generator, to such pixels. A new one is one line here; recipes name it in ``extra``.
AUGMENTATIONS: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "shape": change_shape,
    "colour": change_colour,
}
