"""Pictures as tensors: decoded once, then augmented and normalised a batch at a time.

Introduced in notebook 02, section "From pictures to tensors".
"""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor
from torch.nn import functional
from tqdm.auto import tqdm

from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.images import cache as array_cache
from batik_utils.images import files
from batik_utils.images.resize import Preprocessing, to_pixels

#: Raised when the same file would become other pixels, or other augmented views by the same seed,
#: so that nothing is taken from the cache folder that is not what would be computed now.
VERSION = 1
#: Pictures that are decoded ahead of the file they are written to.
_AHEAD = 32


def load_pixels(dataset: Dataset, preprocessing: Preprocessing, *, progress: bool = True) -> Tensor:
    """Decode every picture once, and never again: the pixels stay in the cache folder.

    They are named by the content of the pictures, in order, by size and interpolation and by the
    version of Pillow, which resizes; see `array_cache` for what happens meanwhile. JPEG files are
    decoded in full: at a reduced size (``draft``) they would give other pixels.

    Args:
        dataset: the data set.
        preprocessing: gives size and interpolation.
        progress: show a bar.

    Returns:
        uint8 tensor of shape (N, 3, size, size), in manifest order.

    Raises:
        BatikError: a picture that could be opened before cannot be opened now.
    """
    # `data.load` may have been told to allow larger pictures
    pixels = int((dataset.manifest["width"] * dataset.manifest["height"]).max())

    def one(path: Path) -> np.ndarray:
        try:
            picture = files.open_image(path, max_pixels=max(pixels, files.MAX_PIXELS))
        except files.ImageError as error:
            raise BatikError(f"{path} has changed since it was listed: {error}.") from error
        return to_pixels(picture, preprocessing.size, preprocessing.interpolation)

    def rows() -> Iterator[np.ndarray]:
        paths = iter(dataset.paths)
        bar = tqdm(
            total=len(dataset.manifest),
            desc=f"Decoding to {preprocessing.size} px",
            unit="picture",
            disable=not progress,
        )
        with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            while part := list(itertools.islice(paths, _AHEAD)):
                for row in pool.map(one, part):
                    bar.update()
                    yield row

    parts = what_gives_pixels(dataset, preprocessing)
    return torch.from_numpy(array_cache.cached("pixels", parts, len(dataset.manifest), rows))


def what_gives_pixels(dataset: Dataset, preprocessing: Preprocessing) -> tuple[str, ...]:
    """Return everything that the result of `load_pixels` depends on."""
    return (
        f"{VERSION} Pillow {PIL.__version__} {preprocessing.size} {preprocessing.interpolation}",
        *dataset.manifest["sha256"],
    )


@dataclass(frozen=True)
class EvalPreset:
    """Normalise a batch for evaluation; nothing random.

    Attributes:
        preprocessing: gives mean and standard deviation.
    """

    preprocessing: Preprocessing

    def __call__(self, pixels: Tensor) -> Tensor:
        """Turn uint8 (N, 3, S, S) into float32 of the same shape, channels last in memory."""
        mean = torch.tensor(self.preprocessing.mean, device=pixels.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.preprocessing.std, device=pixels.device).view(1, 3, 1, 1) * 255
        batch = pixels.float().sub_(mean).div_(std)
        return batch.contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class TrainPreset:
    """Augment and normalise a batch for training.

    With a strength s above 0, each picture is also turned, cropped, tilted and recoloured by its
    own random numbers. Cloth can be hung, folded, lit and photographed in all these ways and
    keeps its motif; what would not keep it is left out (strong hue turns, cut-outs, blending).

    - crop to 1 to 1 - 0.7 s of the area, sides stretched by up to (4/3)^s; anywhere inside
    - rotation within 15 s degrees, perspective within 0.2 s; corners are filled by reflection
    - upside down and quarter turn, each with probability s/2: at s = 1 (and ``flip`` 0.5) the eight
      positions of a square are equally likely
    - brightness, contrast and saturation by factors within 1 ± 0.4 s, hue within 18 s degrees

    Attributes:
        preprocessing: gives mean and standard deviation.
        flip: probability that a picture is mirrored left to right.
        augment: strength s of everything else, 0 (none) to 1.
    """

    preprocessing: Preprocessing
    flip: float = 0.5
    augment: float = 0.0

    def __post_init__(self):
        if not 0 <= self.augment <= 1:
            raise BatikError(f"The augmentation strength must be 0 to 1, not {self.augment}.")

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Turn uint8 (N, 3, S, S) into float32 of the same shape, channels last in memory.

        Args:
            pixels: a batch.
            generator: source of every random number, on the CPU.
        """
        mirrored = torch.rand(len(pixels), generator=generator) < self.flip
        mirrored = mirrored.to(pixels.device).view(-1, 1, 1, 1)
        pixels = torch.where(mirrored, pixels.flip(-1), pixels)
        if self.augment:
            shape = torch.rand(len(pixels), 9, generator=generator).to(pixels.device)
            colour = torch.rand(len(pixels), 4, generator=generator).to(pixels.device)
            pixels = _recoloured(
                _reshaped(pixels.float(), shape, self.augment), colour, self.augment
            )
        return EvalPreset(self.preprocessing)(pixels)


def _reshaped(pixels: Tensor, chance: Tensor, strength: float) -> Tensor:
    """Return float (N, 3, S, S) seen through one projective map a picture.

    Args:
        pixels: float (N, 3, S, S).
        chance: (N, 9) uniform random numbers in [0, 1).
        strength: see `TrainPreset`.
    """
    n, _, _, side = pixels.shape
    spread = 2 * chance - 1
    # half the crop's height and width, on a scale where the picture reaches from -1 to 1
    area = 1 - 0.7 * strength * chance[:, 0]
    stretch = (4 / 3) ** (spread[:, 1] * strength / 2)
    half = torch.stack([area.sqrt() * stretch, area.sqrt() / stretch], 1).clamp(max=1)
    centre = (1 - half) * spread[:, 2:4]
    angle = torch.deg2rad(15 * strength * spread[:, 4])
    cos, sin = angle.cos(), angle.sin()
    upside_down = torch.where(chance[:, 5] < strength / 2, -1.0, 1.0)
    quarter = (chance[:, 6] < strength / 2).view(-1, 1, 1)

    # output coordinates (x, y, 1) to input coordinates: turn and mirror, then scale and shift
    turn = torch.stack([cos, -sin, sin * upside_down, cos * upside_down], 1).view(n, 2, 2)
    turn = torch.where(quarter, turn.flip(2), turn)
    maps = torch.zeros(n, 3, 3, device=pixels.device)
    maps[:, :2, :2] = half.unsqueeze(2) * turn
    maps[:, :2, 2] = centre
    maps[:, 2, :2] = 0.2 * strength * spread[:, 7:9]
    maps[:, 2, 2] = 1
    steps = (torch.arange(side, device=pixels.device) * 2 + 1) / side - 1
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(1, -1, 3) @ maps.transpose(1, 2)
    grid = (points[..., :2] / points[..., 2:]).view(n, side, side, 2)
    return functional.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


#: RGB to luma and two chroma axes (YIQ of NTSC television): hue is an angle, saturation a length.
_YIQ = ((0.299, 0.587, 0.114), (0.596, -0.274, -0.322), (0.211, -0.523, 0.312))


def _recoloured(pixels: Tensor, chance: Tensor, strength: float) -> Tensor:
    """Return float (N, 3, S, S) within 0 to 255, colours changed by one linear map a picture.

    Args:
        pixels: float (N, 3, S, S), 0 to 255.
        chance: (N, 4) uniform random numbers in [0, 1).
        strength: see `TrainPreset`.
    """
    n = len(pixels)
    spread = strength * (2 * chance - 1)
    brightness, contrast, saturation = (1 + 0.4 * spread[:, :3]).unbind(1)
    hue = torch.deg2rad(18 * spread[:, 3])
    chroma = torch.zeros(n, 3, 3, device=pixels.device)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = saturation * hue.cos()
    chroma[:, 2, 1] = saturation * hue.sin()
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    yiq = torch.tensor(_YIQ, device=pixels.device)
    gain = (brightness * contrast).view(n, 1, 1)
    flat = pixels.flatten(2)
    # contrast around the picture's mean luma
    middle = (yiq[0] @ flat.mean(2, keepdim=True)).view(n, 1, 1)
    offset = middle * (brightness * (1 - contrast)).view(n, 1, 1)
    changed = torch.baddbmm(offset, gain * (yiq.inverse() @ chroma @ yiq), flat)
    return changed.clamp_(0, 255).view_as(pixels)


def to_uint8(batch: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Undo the normalisation, to look at what a network is shown.

    Args:
        batch: float (N, 3, S, S), as a preset returns it.
        preprocessing: gives mean and standard deviation.

    Returns:
        uint8 tensor of the same shape.
    """
    mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    return ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
