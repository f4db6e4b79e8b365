"""Pictures with something taken away (or put in), to learn what a network lives on.

    >>> from batik_utils.evaluation import masking
    >>> hidden = masking.masked(pixels, "band masked")  # same shape and type

What is hidden takes the mean colour of what is left to see, so that nothing of it shines through.
Introduced in notebook 04, section "What do the models look at?".
"""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from batik_utils.errors import BatikError

#: What can be done to a picture, and what that leaves of it.
KINDS = {
    "whole": "the picture as it is",
    "band masked": "without the strip at half height where shops print their watermark",
    "watermarks masked": "without that strip and without the corner at the lower right (a seal)",
    "centre only": "the middle half of the area alone",
    "border only": "the outer half of the area alone",
    "colour removed": "in grey",
    "blurred": "smoothed until the motif is gone: colours and coarse layout remain",
    "shuffled tiles": "cut into 4 × 4 tiles that change places: texture without layout",
    "watermark added": "with a watermark of ours printed on it",
}
#: Where the strip lies, as shares of the height; 6.5 % of it is watermark, the rest a margin.
BAND = (0.45, 0.55)
#: Where the seal begins, as shares of height and width; it ends in the corner.
SEAL = (0.78, 0.78)
#: Tiles a side.
TILES = 4
#: Standard deviation of the blur as a share of the side: 8 px of 224.
BLUR = 1 / 28
# ITU-R BT.601
_LUMA = (0.299, 0.587, 0.114)


def masked(pixels: Tensor, kind: str, *, seed: int = 0) -> Tensor:
    """Return the pictures with something taken away or put in.

    Args:
        pixels: uint8 tensor (N, 3, S, S).
        kind: a key of ``KINDS``.
        seed: of the order of tiles, which is another one for each picture.

    Returns:
        uint8 tensor of the same shape; the input is left as it is.

    Raises:
        BatikError: unknown kind, or a side that cannot be cut into tiles.
    """
    if kind not in KINDS:
        raise BatikError(f"Unknown kind of masking '{kind}': choose one of {', '.join(KINDS)}.")
    side = pixels.shape[-1]
    where = regions(side)
    hidden = {
        "band masked": where["band"],
        "watermarks masked": where["band"] | where["seal"],
        "centre only": where["border"],
        "border only": where["centre"],
    }
    if kind in hidden:
        return _hide(pixels, torch.from_numpy(hidden[kind]).to(pixels.device))
    if kind == "colour removed":
        luma = torch.tensor(_LUMA, device=pixels.device).view(1, 3, 1, 1)
        grey = (pixels * luma).sum(1, keepdim=True)
        return grey.round().to(torch.uint8).expand_as(pixels).contiguous()
    if kind == "blurred":
        from torchvision.transforms.v2 import functional

        sigma = BLUR * side
        return functional.gaussian_blur(pixels, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma] * 2)
    if kind == "shuffled tiles":
        return _shuffle(pixels, seed)
    if kind == "watermark added":
        return _print_on(pixels)
    return pixels.clone()


def regions(side: int) -> dict[str, np.ndarray]:
    """Return named parts of a square picture.

    Args:
        side: S (px).

    Returns:
        Boolean arrays (S, S): ``band``, ``seal``, ``centre`` and ``border``. The last two hold
        half of the area each (to a row of pixels), so that they can be compared.
    """
    y, x = np.mgrid[:side, :side]
    # the middle of a pixel decides where it belongs
    y, x = (y + 0.5) / side, (x + 0.5) / side
    centre = np.maximum(abs(y - 0.5), abs(x - 0.5)) < math.sqrt(0.5) / 2
    return {
        "band": (y >= BAND[0]) & (y < BAND[1]),
        "seal": (y >= SEAL[0]) & (x >= SEAL[1]),
        "centre": centre,
        "border": ~centre,
    }


def _hide(pixels: Tensor, hidden: Tensor) -> Tensor:
    seen = (~hidden).float()
    mean = (pixels * seen).sum((2, 3), keepdim=True) / seen.sum()
    return torch.where(hidden, mean.round().to(torch.uint8), pixels)


def _shuffle(pixels: Tensor, seed: int) -> Tensor:
    n, channels, side, _ = pixels.shape
    if side % TILES:
        raise BatikError(f"A side of {side} px cannot be cut into {TILES} equal tiles.")
    tile = side // TILES
    tiles = pixels.view(n, channels, TILES, tile, TILES, tile).permute(0, 2, 4, 1, 3, 5)
    tiles = tiles.reshape(n, TILES**2, channels, tile, tile)
    rng = np.random.default_rng(seed)
    order = np.stack([rng.permutation(TILES**2) for _ in range(n)])
    moved = tiles[torch.arange(n)[:, None], torch.from_numpy(order)]
    moved = moved.view(n, TILES, TILES, channels, tile, tile).permute(0, 3, 1, 4, 2, 5)
    return moved.reshape(n, channels, side, side)


def _print_on(pixels: Tensor) -> Tensor:
    """Print a dark, half transparent strip with light words, as shops do."""
    side = pixels.shape[-1]
    middle, height = sum(BAND) / 2 * side, 0.065 * side
    overlay = Image.new("RGBA", (side, side))
    draw = ImageDraw.Draw(overlay)
    draw.rectangle((0, middle - height / 2, side, middle + height / 2 - 1), fill=(0, 0, 0, 165))
    font = ImageFont.load_default(max(6, round(0.6 * height)))
    words = "0123.456.789   /   BATIK SHOP"
    draw.text((side / 2, middle), words, fill=(255, 255, 255, 165), font=font, anchor="mm")
    values = torch.from_numpy(np.asarray(overlay).astype(np.float32)).permute(2, 0, 1)
    values = values.to(pixels.device)
    alpha = values[3] / 255
    return (pixels * (1 - alpha) + values[:3] * alpha).round().to(torch.uint8)
