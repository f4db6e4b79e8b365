"""From a picture to the numbers that a network expects; without torch, so that it starts fast.

The same few lines serve training, evaluation and the deployed model.
"""

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from batik_utils.errors import BatikError

_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


@dataclass(frozen=True)
class Preprocessing:
    """What a set of weights expects of a picture.

    Attributes:
        size: side of the square input (px). The whole picture is squashed to it, as published.
        mean: per channel, on a 0 to 1 scale.
        std: per channel, on a 0 to 1 scale.
        interpolation: ``bilinear`` or ``bicubic``, always with antialiasing.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self):
        if self.interpolation not in _INTERPOLATIONS:
            raise BatikError(
                f"Unknown interpolation '{self.interpolation}': use {' or '.join(_INTERPOLATIONS)}."
            )
        if self.size < 1:
            raise BatikError(f"The input size must be at least 1 px, not {self.size}.")

    def as_dict(self) -> dict:
        """Return plain values for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Preprocessing":
        """Rebuild from `as_dict`.

        Raises:
            BatikError: a key is missing or unknown.
        """
        try:
            return cls(
                size=int(values["size"]),
                mean=tuple(values["mean"]),
                std=tuple(values["std"]),
                interpolation=values["interpolation"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BatikError(f"Preprocessing is incomplete or damaged ({error!r}).") from error


IMAGENET = Preprocessing()


def to_pixels(picture: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Squash a picture to the input size.

    Args:
        picture: PIL image, mode RGB, any size.
        preprocessing: gives size and interpolation.

    Returns:
        uint8 array of shape (3, size, size), channels first.
    """
    side = (preprocessing.size, preprocessing.size)
    small = picture.resize(side, _INTERPOLATIONS[preprocessing.interpolation])
    return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))
