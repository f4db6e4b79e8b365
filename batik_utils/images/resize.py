"""From an image to the pixels that a network expects, in training and deployed; without torch."""

from dataclasses import asdict, dataclass

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

    def as_dict(self) -> dict:
        """Return plain values for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Preprocessing":
        """Rebuild from `as_dict`; BatikError where a key is missing or a value is impossible."""
        try:
            mean, std = (tuple(values[name]) for name in ("mean", "std"))
            return cls(int(values["size"]), mean, std, values["interpolation"])
        except (KeyError, TypeError, ValueError) as error:
            raise BatikError(f"Preprocessing is incomplete or damaged ({error!r}).") from error


IMAGENET = Preprocessing()


def to_pixels(image: Image.Image, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Squash an RGB image of any size into a square: uint8 (3, size, size)."""
    small = image.resize((size, size), INTERPOLATIONS[interpolation])
    return np.ascontiguousarray(np.asarray(small).transpose(2, 0, 1))
