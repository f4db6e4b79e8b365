"""The same cloth, photographed otherwise: changed copies of a picture to learn from and to test on.

    >>> from batik_utils.classifier import views
    >>> other = views.changed(picture, np.random.default_rng([seed, number]))

What a shop does to its pictures must not tell the motif: its watermark, its white background, the
distance, the light. A copy is cropped, put on another ground, turned a little, printed over,
mirrored or given quarter turns, recoloured and blurred, each by chance. A motif survives all of
it: a person still names it (strong changes of colour, which betawi is known by, are rare).
"""

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

_LETTERS = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLM0123456789.@ ")


def changed(picture: Image.Image, rng: Generator) -> Image.Image:
    """Return a changed copy.

    Args:
        picture: mode RGB.
        rng: decides everything; equal states give equal copies.

    Returns:
        RGB picture of another size.
    """
    picture = picture.copy()
    picture.thumbnail((1024, 1024), Image.Resampling.BICUBIC)  # more is never seen
    if rng.random() < 0.2:
        picture = _on_another_ground(picture, rng)
    picture = _cropped(picture, rng)
    if rng.random() < 0.3:
        angle = rng.uniform(-15, 15)
        picture = picture.rotate(angle, Image.Resampling.BICUBIC, fillcolor=_colour(rng))
    if rng.random() < 0.35:
        picture = _printed_over(picture, rng)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        picture = picture.transpose(_TURNS[rng.integers(len(_TURNS))])
    picture = _recoloured(picture, rng)
    if rng.random() < 0.25:
        picture = picture.filter(
            ImageFilter.GaussianBlur(rng.uniform(0.002, 0.005) * picture.width)
        )
    return picture


_TURNS = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)


def _colour(rng: Generator) -> tuple[int, int, int]:
    """White like a studio, or any."""
    if rng.random() < 0.5:
        return (int(rng.integers(225, 256)),) * 3
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def _on_another_ground(picture: Image.Image, rng: Generator) -> Image.Image:
    scale = rng.uniform(1.1, 1.5)
    size = int(picture.width * scale), int(picture.height * scale)
    ground = Image.new("RGB", size, _colour(rng))
    left, top = (int(rng.uniform(0, a - b)) for a, b in zip(size, picture.size, strict=True))
    ground.paste(picture, (left, top))
    return ground


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


def _printed_over(picture: Image.Image, rng: Generator) -> Image.Image:
    """A strip with words, words alone, or a round seal; often two of them."""
    width, height = picture.size
    draw = ImageDraw.Draw(picture, "RGBA")
    words = "".join(rng.choice(_LETTERS, rng.integers(6, 24)))
    kind = rng.random()
    if kind < 0.5:
        thick, top = height * rng.uniform(0.04, 0.08), height * rng.uniform(0.05, 0.9)
        grey = int(rng.integers(0, 80) if rng.random() < 0.7 else rng.integers(180, 256))
        draw.rectangle(
            (0, top, width, top + thick), fill=(grey, grey, grey, int(rng.integers(90, 200)))
        )
        font = ImageFont.load_default(max(6, 0.7 * thick))
        place = (rng.uniform(0, 0.4) * width, top)
        draw.text(place, words, fill=(255 - grey,) * 3 + (200,), font=font)
    elif kind < 0.8:
        font = ImageFont.load_default(max(6, height * rng.uniform(0.04, 0.12)))
        place = (rng.uniform(0, 0.4) * width, rng.uniform(0, 0.9) * height)
        draw.text(place, words, fill=(*_colour(rng), int(rng.integers(110, 256))), font=font)
    if kind > 0.6:
        r, x, y = (rng.uniform(a, b) for a, b in ((0.05, 0.12), (0.05, 0.95), (0.05, 0.95)))
        r, x, y = r * height, x * width, y * height
        draw.ellipse(
            (x - r, y - r, x + r, y + r), fill=(*_colour(rng), int(rng.integers(100, 230)))
        )
    return picture


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
