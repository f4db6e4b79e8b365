"""Planted duplicates: copies whose source is known, to measure what an audit finds.

    >>> from batik_utils.duplicates.pairs import planted
    >>> from batik_utils.images import cloth as synthetic
    >>> copy = planted.plant("crop", synthetic.draw("betawi", seed=1), seed=0)

Each kind is what a picture goes through on its way between two web shops. Used by `duplicates`.
"""

import io
import zlib
from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

from batik_utils.errors import BatikError


def plant(kind: str, picture: Image.Image, seed: int) -> Image.Image:
    """Return a changed copy of a picture.

    Args:
        kind: one of ``KINDS``.
        picture: PIL image, mode RGB.
        seed: of the strength, place and angle.

    Raises:
        BatikError: unknown kind.
    """
    if kind not in KINDS:
        raise BatikError(f"Unknown kind of planting '{kind}': use one of {', '.join(KINDS)}.")
    return KINDS[kind](picture, np.random.default_rng([zlib.crc32(kind.encode()), seed]))


def _crop(picture: Image.Image, rng: Generator) -> Image.Image:
    """Keep 25 to 64 % of the area."""
    share = rng.uniform(0.5, 0.8, 2)
    width, height = (max(1, round(side * s)) for side, s in zip(picture.size, share, strict=True))
    left = int(rng.integers(0, picture.width - width + 1))
    top = int(rng.integers(0, picture.height - height + 1))
    return picture.crop((left, top, left + width, top + height))


def _scale(picture: Image.Image, rng: Generator) -> Image.Image:
    """Shrink each side on its own to 30 to 60 %."""
    width, height = (
        max(1, round(side * s))
        for side, s in zip(picture.size, rng.uniform(0.3, 0.6, 2), strict=True)
    )
    return picture.resize((width, height), Image.Resampling.BILINEAR)


def _rotate(picture: Image.Image, rng: Generator) -> Image.Image:
    """Turn by 5 to 85 degrees and keep the middle, so that no corner is empty."""
    angle = float(rng.uniform(5, 85))
    turned = picture.rotate(angle, Image.Resampling.BICUBIC)
    side = round(min(picture.size) / 2**0.5)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return turned.crop((left, top, left + side, top + side))


def _turn(picture: Image.Image, rng: Generator) -> Image.Image:
    """Turn by one, two or three right angles."""
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return picture.transpose(turns[rng.integers(3)])


def _mirror(picture: Image.Image, rng: Generator) -> Image.Image:
    """Flip left to right or top to bottom."""
    return ImageOps.mirror(picture) if rng.random() < 0.5 else ImageOps.flip(picture)


def _recolour(picture: Image.Image, rng: Generator) -> Image.Image:
    """Exchange the colours' channels and bend their tone curves."""
    pixels = np.asarray(picture)[..., rng.permutation([[1, 2, 0], [2, 0, 1], [2, 1, 0]])[0]] / 255
    pixels = pixels ** rng.uniform(0.5, 1.8, 3) * rng.uniform(0.6, 1.0, 3)
    return Image.fromarray(np.uint8(255 * pixels.clip(0, 1)))


def _jpeg(picture: Image.Image, rng: Generator) -> Image.Image:
    """Store at quality 10 to 30."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=int(rng.integers(10, 31)))
    return Image.open(file).convert("RGB")


def _watermark(picture: Image.Image, rng: Generator) -> Image.Image:
    """Write a shop's name across the middle and frame the picture."""
    picture = picture.copy()
    draw = ImageDraw.Draw(picture, "RGBA")
    font = ImageFont.load_default(max(8, picture.width // 7))
    height = picture.height * float(rng.uniform(0.4, 0.6))
    draw.rectangle((0, height, picture.width, height + picture.height / 6), fill=(0, 0, 0, 90))
    draw.text((picture.width // 20, height), "toko batik.com", (255, 255, 255, 200), font)
    return ImageOps.expand(picture, max(1, picture.width // 25), "white")


def _perspective(picture: Image.Image, rng: Generator) -> Image.Image:
    """Look at it from aside: each corner moves inwards by up to 18 % of the sides."""
    width, height = picture.size
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    inwards = np.float32([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [width, height]
    seen = np.float32(corners + inwards * rng.uniform(0, 0.18, (4, 2)))
    matrix = cv2.getPerspectiveTransform(seen, corners)
    return Image.fromarray(cv2.warpPerspective(np.asarray(picture), matrix, picture.size))


def _shot(picture: Image.Image, rng: Generator) -> Image.Image:
    """Photograph the cloth again: other angle, part, light, sharpness and size."""
    picture = _crop(_perspective(picture.rotate(float(rng.uniform(-8, 8))), rng), rng)
    slope = np.linspace(rng.uniform(0.5, 0.8), 1.1, picture.width)[:, None]
    picture = Image.fromarray(np.uint8((np.asarray(picture) * slope).clip(0, 255)))
    picture = ImageEnhance.Color(picture).enhance(float(rng.uniform(0.5, 1.4)))
    picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.0))))
    return _jpeg(picture, rng)


#: Every kind by name.
KINDS: dict[str, Callable[[Image.Image, Generator], Image.Image]] = {
    "crop": _crop,
    "scale": _scale,
    "rotate": _rotate,
    "turn": _turn,
    "mirror": _mirror,
    "recolour": _recolour,
    "jpeg": _jpeg,
    "watermark": _watermark,
    "perspective": _perspective,
    "shot": _shot,
}
