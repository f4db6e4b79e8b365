"""Which places of a picture an answer rests on: hide them one after another, and look.

    >>> from batik_utils.app.server import occlusion
    >>> heat = occlusion.heat_map(predictor, picture, "tambal")
    >>> occlusion.overlay(picture, heat, predictor.framing).size
    (512, 512)

Occlusion after Zeiler & Fergus, "Visualizing and Understanding Convolutional Networks" (2014). It
asks the exported model itself and needs neither torch nor gradients. Introduced in notebook 05.
"""

import numpy as np
from PIL import Image

from batik_utils.app.predict import Predictor
from batik_utils.errors import BatikError
from batik_utils.images.resize import Framing, frame

#: Drops in probability under this stay pale in the overlay, whatever the largest is.
LEAST = 0.05
#: Places a side; a place is hidden with half of each neighbour.
GRID = 6


def heat_map(
    predictor: Predictor, picture: Image.Image, motif: str, *, grid: int = GRID, batch: int = 8
) -> np.ndarray:
    """Measure how much hiding a place lowers a motif's probability.

    What hides is the picture's own mean colour, in windows twice as wide as a place, so that two
    neighbours overlap by half.

    Args:
        predictor: the model.
        picture: RGB, upright.
        motif: whose probability is watched.
        grid: places a side.
        batch: pictures that go through the model at once.

    Returns:
        float array (grid, grid): probability whole minus probability hidden; negative where hiding
        helps.

    Raises:
        BatikError: a motif that the model does not know.
    """
    if motif not in predictor.classes:
        raise BatikError(f"The model knows {', '.join(predictor.classes)}, not '{motif}'.")
    column = predictor.classes.index(motif)
    pixels = frame(picture, predictor.framing)
    size = len(pixels)
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    cell = size / grid
    spans = [
        slice(max(0, round((k - 0.5) * cell)), min(size, round((k + 1.5) * cell)))
        for k in range(grid)
    ]
    windows = [(rows, columns) for rows in spans for columns in spans]
    whole = predictor.run(pixels[None])[0][0, column]
    found = []
    for start in range(0, len(windows), batch):
        hidden = np.repeat(pixels[None], len(windows[start : start + batch]), axis=0)
        for one, (rows, columns) in zip(hidden, windows[start : start + batch], strict=True):
            one[rows, columns] = colour
        found.append(predictor.run(hidden)[0][:, column])
    return (whole - np.concatenate(found)).reshape(grid, grid).astype(np.float64)


def overlay(
    picture: Image.Image, heat: np.ndarray, framing: Framing, *, side: int = 512
) -> Image.Image:
    """Lay a heat map over what the model saw of the picture.

    Args:
        picture: RGB, upright.
        heat: from `heat_map`; only what is above zero is shown, relative to the largest
            (but no less than ``LEAST``).
        framing: the model's, so that heat and picture lie on each other.
        side: of the result (px).

    Returns:
        RGB picture; grey where nothing mattered, warm where most did.
    """
    seen = frame(picture, Framing(side, framing.fit, "bilinear")).astype(np.float32)
    warm = np.clip(heat, 0, None) / max(heat.max(), LEAST)
    large = Image.fromarray(warm.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    warm = np.clip(np.asarray(large), 0, 1)[..., None]
    grey = seen.mean(axis=2, keepdims=True) * 0.6 + 70
    # from yellow to red, which eyes that cannot tell red from green still see getting darker
    colour = np.array([255, 225, 60]) * (1 - warm) + np.array([190, 0, 30]) * warm
    strength = np.minimum(1, warm * 1.5) * 0.6
    return Image.fromarray(
        (grey * (1 - strength) + colour * strength).clip(0, 255).astype(np.uint8)
    )
