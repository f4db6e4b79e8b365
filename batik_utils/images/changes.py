"""Changed copies of an image: cropped, turned, recoloured, with a watermark.

A classifier learns from such copies and is tested on them, because watermark, background, distance
and light belong to the shop and not to the motif.
"""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

Colour = tuple[int, int, int, int]  # RGBA

_LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLM0123456789.@ ")
_TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def watermark(
    image: Image.Image,
    words: str,
    at: tuple[float, float],
    size: float,
    ink: Colour,
    band: tuple[float, float, Colour] | None = None,
    anchor: str = "la",
) -> None:
    """Print words of ``size`` px onto an RGB image in place, or onto a clear RGBA overlay.

    ``band`` is a strip over the whole width: top, bottom (px) and colour.
    """
    draw = ImageDraw.Draw(image, "RGBA")
    if band:
        top, bottom, colour = band
        draw.rectangle((0, top, image.width, bottom), fill=colour)
    draw.text(at, words, fill=ink, font=ImageFont.load_default(max(6, size)), anchor=anchor)


def changed(image: Image.Image, rng: Generator) -> Image.Image:
    """Return a changed copy of an RGB image, of another size; ``rng`` decides everything."""
    picture = image.copy()
    picture.thumbnail((1024, 1024), Image.Resampling.BICUBIC)  # more is never seen
    if rng.random() < 0.2:  # on another ground
        scale = rng.uniform(1.1, 1.5)
        size = int(picture.width * scale), int(picture.height * scale)
        ground = Image.new("RGB", size, _colour(rng))
        place = (int(rng.uniform(0, a - b)) for a, b in zip(size, picture.size, strict=True))
        ground.paste(picture, tuple(place))
        picture = ground
    picture = _cropped(picture, rng)
    if rng.random() < 0.3:
        picture = picture.rotate(
            rng.uniform(-15, 15), Image.Resampling.BICUBIC, fillcolor=_colour(rng)
        )
    if rng.random() < 0.35:
        _print_over(picture, rng)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        picture = picture.transpose(_TURNS[rng.integers(len(_TURNS))])
    picture = _recoloured(picture, rng)
    if rng.random() < 0.25:
        radius = rng.uniform(0.002, 0.005) * picture.width
        picture = picture.filter(ImageFilter.GaussianBlur(radius))
    return picture


def _colour(rng: Generator) -> tuple[int, int, int]:
    """White like a studio, or any."""
    if rng.random() < 0.5:
        return (int(rng.integers(225, 256)),) * 3
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def _cropped(picture: Image.Image, rng: Generator) -> Image.Image:
    width, height = picture.size
    if rng.random() < 0.6:  # nearly all of it
        share = rng.uniform(0.75, 1)
        w, h = width * share, height * share
    else:
        side = min(width, height) * rng.uniform(0.55, 1)
        stretch = np.exp(rng.uniform(-0.25, 0.25))
        w, h = min(width, side * stretch), min(height, side / stretch)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    right, bottom = max(int(left) + 1, int(left + w)), max(int(top) + 1, int(top + h))
    return picture.crop((int(left), int(top), right, bottom))


def _print_over(picture: Image.Image, rng: Generator) -> None:
    """Add a strip with words, words alone, or a round seal; often two of them."""
    width, height = picture.size
    words = "".join(rng.choice(_LETTERS, rng.integers(6, 24)))
    kind = rng.random()
    if kind < 0.5:
        thick, top = height * rng.uniform(0.04, 0.08), height * rng.uniform(0.05, 0.9)
        grey = int(rng.integers(0, 80) if rng.random() < 0.7 else rng.integers(180, 256))
        band = (top, top + thick, (grey, grey, grey, int(rng.integers(90, 200))))
        place = (rng.uniform(0, 0.4) * width, top)
        watermark(picture, words, place, 0.7 * thick, (255 - grey,) * 3 + (200,), band)
    elif kind < 0.8:
        size = height * rng.uniform(0.04, 0.12)
        place = (rng.uniform(0, 0.4) * width, rng.uniform(0, 0.9) * height)
        watermark(picture, words, place, size, (*_colour(rng), int(rng.integers(110, 256))))
    if kind > 0.6:
        r, x, y = (rng.uniform(a, b) for a, b in ((0.05, 0.12), (0.05, 0.95), (0.05, 0.95)))
        r, x, y = r * height, x * width, y * height
        colour = (*_colour(rng), int(rng.integers(100, 230)))
        ImageDraw.Draw(picture, "RGBA").ellipse((x - r, y - r, x + r, y + r), fill=colour)


def _recoloured(picture: Image.Image, rng: Generator) -> Image.Image:
    chance = rng.random()
    if chance < 0.1:
        picture = picture.convert("L").convert("RGB")
    else:
        turn = rng.uniform(-128, 128) if chance < 0.25 else rng.uniform(-10, 10)
        h, s, v = picture.convert("HSV").split()
        h = h.point([(i + round(turn)) % 256 for i in range(256)])
        picture = Image.merge("HSV", (h, s, v)).convert("RGB")
        picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.5, 1.4))
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.75, 1.3))
    return ImageEnhance.Contrast(picture).enhance(rng.uniform(0.75, 1.3))
