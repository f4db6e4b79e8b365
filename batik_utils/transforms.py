"""Pictures as tensors: decoded once, then augmented and normalised a batch at a time.

Introduced in notebook 02, section "From pictures to tensors".
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from batik_utils import pictures
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.preprocessing import Preprocessing, to_pixels


def load_pixels(dataset: Dataset, preprocessing: Preprocessing, *, progress: bool = True) -> Tensor:
    """Decode every picture once.

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
            picture = pictures.open_picture(path, max_pixels=max(pixels, pictures.MAX_PIXELS))
        except pictures.PictureError as error:
            raise BatikError(f"{path} has changed since it was listed: {error}.") from error
        return to_pixels(picture, preprocessing)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = tqdm(
            pool.map(one, dataset.paths),
            total=len(dataset.manifest),
            desc=f"Decoding to {preprocessing.size} px",
            unit="picture",
            disable=not progress,
        )
        return torch.from_numpy(np.stack(list(bar)))


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

    Attributes:
        preprocessing: gives mean and standard deviation.
        flip: probability that a picture is mirrored left to right.
    """

    preprocessing: Preprocessing
    flip: float = 0.5

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Turn uint8 (N, 3, S, S) into float32 of the same shape, channels last in memory.

        Args:
            pixels: a batch.
            generator: source of every random number, on the CPU.
        """
        mirrored = torch.rand(len(pixels), generator=generator) < self.flip
        mirrored = mirrored.to(pixels.device).view(-1, 1, 1, 1)
        return EvalPreset(self.preprocessing)(torch.where(mirrored, pixels.flip(-1), pixels))


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
