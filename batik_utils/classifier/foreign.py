"""Pictures that show no batik, to see whether a model says so; none needs a network.

    >>> from batik_utils.classifier import foreign
    >>> {kind: len(found) for kind, found in foreign.pictures().items()}
    {'photographs': 23, 'textures': 12, 'drawn cloth': 12}

Nothing is ever learned from them. Introduced in notebook 05.
"""

from importlib.resources import files
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from batik_utils.images import cloth as synthetic
from batik_utils.images.motifs import MOTIFS

#: Photographs that come with scikit-image and scikit-learn: people, animals, food, walls, grass,
#: stars, microscopy, a page of text.
_SKIMAGE = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "logo.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
_SKLEARN = ("china.jpg", "flower.jpg")
_SIDE = 448  # px


def pictures(seed: int = 0) -> dict[str, list[Path | Image.Image]]:
    """Return all kinds: files or opened pictures by name of the kind."""
    return {"photographs": photographs(), "textures": textures(seed), "drawn cloth": drawn(seed)}


def photographs() -> list[Path]:
    """Return the sample photographs that are installed with scikit-image and scikit-learn."""
    folders = (
        (files("skimage") / "data", _SKIMAGE),
        (files("sklearn.datasets") / "images", _SKLEARN),
    )
    return [Path(str(folder / name)) for folder, names in folders for name in names]


def textures(seed: int = 0) -> list[Image.Image]:
    """Return plain colours, gradients, noise of several grains, stripes and checks."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:_SIDE, :_SIDE]
    found = [np.full((_SIDE, _SIDE, 3), rng.integers(0, 256, 3)) for _ in range(2)]
    found.append(np.stack([x, y, x + y], 2) * 255 / (2 * _SIDE))
    for grain in (0, 2, 6, 20):
        noise = ndimage.gaussian_filter(rng.normal(size=(_SIDE, _SIDE, 3)), (grain, grain, 0))
        found.append(128 + 50 * noise / noise.std())
    for period in (16, 48):
        found.append(_two_colours(np.sin(2 * np.pi * (x + y / 3) / period) > 0, rng))
        found.append(_two_colours((x // period + y // period) % 2 > 0, rng))
    found.append(_two_colours(np.hypot(x % 64 - 32, y % 64 - 32) < 18, rng))
    return [Image.fromarray(np.uint8(np.clip(values, 0, 255))) for values in found]


def drawn(seed: int = 0, per_motif: int = 4) -> list[Image.Image]:
    """Return synthetic cloth: made to look a little like the motifs, but no batik."""
    return [synthetic.draw(motif, 1000 * seed + i) for motif in MOTIFS for i in range(per_motif)]


def _two_colours(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    dark, light = rng.integers(0, 128, 3), rng.integers(128, 256, 3)
    return np.where(mask[:, :, None], dark, light)
