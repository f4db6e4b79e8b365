"""From an image to the pixels that a network expects; without torch.

The same few lines serve training, evaluation and the deployed model.
"""

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from batik_utils.errors import BatikError

#: How an image may be squashed, always with antialiasing, as Pillow's ``resize`` does it.
INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
}


def _check(size: int, interpolation: str) -> None:
    if interpolation not in INTERPOLATIONS:
        raise BatikError(
            f"Unknown interpolation '{interpolation}': use one of {', '.join(INTERPOLATIONS)}."
        )
    if not 1 <= size <= 4096:
        raise BatikError(f"The input size must be 1 to 4096 px, not {size}.")


@dataclass(frozen=True)
class Preprocessing:
    """What a set of weights expects: the whole image squashed to a square, then normalised.

    ``size`` is the side in px; ``mean`` and ``std`` are per channel on a 0 to 1 scale.
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"

    def __post_init__(self):
        _check(self.size, self.interpolation)

    def as_dict(self) -> dict:
        """Return plain values for JSON and checkpoints."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict) -> "Preprocessing":
        """Rebuild from `as_dict`; BatikError where a key is missing or a value is impossible."""
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


def to_pixels(image: Image.Image, size: int, interpolation: str = "bilinear") -> np.ndarray:
    """Squash an RGB image of any size into a square: uint8 (3, size, size)."""
    _check(size, interpolation)
    small = image.resize((size, size), INTERPOLATIONS[interpolation])
    return np.ascontiguousarray(np.asarray(small, dtype=np.uint8).transpose(2, 0, 1))


# Until the deployed model and its page squash only:


FITS = ("squash", "cover", "contain")


@dataclass(frozen=True)
class Framing:
    """How an exported model wants a picture framed: the content of ``preprocessing.json``.

    Attributes:
        size: side of the square (px).
        fit: ``squash`` the whole picture into the square, ``cover`` the square with the picture's
            centre (short side to ``size``), or ``contain`` the whole picture in proportion (long
            side to ``size``) on white.
        interpolation: ``bilinear``, ``bicubic`` or ``box``, always with antialiasing, as Pillow's
            ``resize`` does it.
    """

    size: int
    fit: str = "squash"
    interpolation: str = "bilinear"

    def __post_init__(self):
        if self.interpolation not in INTERPOLATIONS:
            raise BatikError(
                f"Unknown interpolation '{self.interpolation}': "
                f"use one of {', '.join(INTERPOLATIONS)}."
            )
        if self.fit not in FITS:
            raise BatikError(f"Unknown fit '{self.fit}': use one of {', '.join(FITS)}.")
        if not 1 <= self.size <= 4096:
            raise BatikError(f"The input size must be 1 to 4096 px, not {self.size}.")

    def as_dict(self) -> dict:
        """Return plain values for ``preprocessing.json``."""
        return {**asdict(self), "colour": "RGB"}

    @classmethod
    def from_dict(cls, values: dict) -> "Framing":
        """Rebuild from `as_dict`.

        Raises:
            BatikError: a key is missing, or a value is not one that this program can do.
        """
        try:
            if values["colour"] != "RGB":
                raise BatikError(f"Unknown colour order '{values['colour']}': only RGB is known.")
            return cls(
                size=int(values["size"]),
                fit=values["fit"],
                interpolation=values["interpolation"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BatikError(f"The preprocessing is incomplete or damaged ({error!r}).") from error


def frame(picture: Image.Image, framing: Framing) -> np.ndarray:
    """Resize a picture into the model's square.

    ``cover`` resamples the centre of the picture alone, which gives the pixels of a resize followed
    by a crop without ever making the large picture: a strip of 1 × 10,000 px stays cheap.

    Args:
        picture: PIL image, mode RGB, upright, any size.
        framing: see `Framing`.

    Returns:
        uint8 array of shape (size, size, 3).
    """
    size, method = framing.size, INTERPOLATIONS[framing.interpolation]
    width, height = picture.size
    if framing.fit == "squash":
        return np.asarray(picture.resize((size, size), method))
    if framing.fit == "cover":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
        return np.asarray(picture.resize((size, size), method, box=box))
    scale = size / max(width, height)
    inner = max(1, round(width * scale)), max(1, round(height * scale))
    square = np.full((size, size, 3), 255, np.uint8)
    left, top = (size - inner[0]) // 2, (size - inner[1]) // 2
    square[top : top + inner[1], left : left + inner[0]] = picture.resize(inner, method)
    return square
