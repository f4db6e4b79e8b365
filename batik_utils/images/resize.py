"""From an image to the pixels that a network expects, in training and deployed; without torch."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from batik_utils.errors import BatikError

#: How an image may be squashed, always with antialiasing, as Pillow's ``resize`` does it.
INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in ("bilinear", "bicubic", "box")}


@dataclass(frozen=True)
class Preprocessing:
    """What a set of weights expects: the whole image squashed to a square, then normalised."""

    size: int = 224  # side in px
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # per channel, on a 0 to 1 scale
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self):
        if self.interpolation not in INTERPOLATIONS:
            known = ", ".join(INTERPOLATIONS)
            raise BatikError(f"Unknown interpolation '{self.interpolation}': use one of {known}.")
        if not 1 <= self.size <= 4096:
            raise BatikError(f"The input size must be 1 to 4096 px, not {self.size}.")


IMAGENET = Preprocessing()


def squash(image: Image.Image, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Squash an RGB image of any size into a square: uint8 (size, size, 3)."""
    return np.array(image.resize((size, size), INTERPOLATIONS[interpolation]))


def to_pixels(image: Image.Image, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Return the same with channels first: uint8 (3, size, size)."""
    return np.ascontiguousarray(squash(image, size, interpolation).transpose(2, 0, 1))
