"""Texture features: mean and deviation of the maps of frozen ImageNet layers, square-rooted.

Batik is texture: what counts is which small patterns a cloth has and how unevenly, not where.
Sources: Lin et al., Network in Network, 2014 (mean); Huang & Belongie, 2017 (deviation); Perronnin
et al., 2010, and Arandjelović & Zisserman, 2012 (signed square root).
"""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from batik_utils import models, recipes
from batik_utils.images import cache, changes, files
from batik_utils.images.resize import Preprocessing, squash
from batik_utils.weights import WEIGHTS

INTERPOLATION = "bicubic"
_TURNS = ("FLIP_LEFT_RIGHT", "ROTATE_90", "ROTATE_180", "ROTATE_270")
TURNS = [Image.Transpose[name] for name in _TURNS]
#: Below this a mean or deviation is no signal (and the square root has no slope).
TINY = 1e-6


@dataclass(frozen=True)
class Branch:
    """A backbone, by its recipe, and the stages at which it is read.

    ``taps`` ascend from 0: of ``blocks`` in timm's EfficientNets, of ``features`` in MobileNetV2.
    """

    recipe: str
    taps: tuple[int, ...]


#: Of the deployed model.
BRANCHES = (
    Branch("efficientnet_lite0", (2, 3, 4, 5, 6)),
    Branch("mobilenet_v2", (6, 10, 13, 16, 17)),
)


class Taps(nn.Module):
    """A cut backbone: (N, 3, S, S) pixels of 0 to 255 to a list of maps (N, C, H, W)."""

    def __init__(
        self, stages: Sequence[nn.Module], taps: Sequence[int], preprocessing: Preprocessing
    ):
        super().__init__()
        ends = [0, *(tap + 1 for tap in taps)]
        self.pieces = nn.ModuleList(
            nn.Sequential(*stages[a:b]) for a, b in itertools.pairwise(ends)
        )
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        self.register_buffer("shift", 255 * mean)
        self.register_buffer("scale", 1 / (255 * std))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of a batch, shallow ones first."""
        maps, x = [], (x - self.shift) * self.scale
        for piece in self.pieces:
            x = piece(x)
            maps.append(x)
        return maps


class Features(nn.Module):
    """Rooted mean and standard deviation of every channel of every tap of every branch."""

    def __init__(self, branches: Sequence[Taps], provenance: Sequence[str] = ()):
        super().__init__()
        self.provenance = tuple(provenance)
        self.branches = nn.ModuleList(branches)
        self.requires_grad_(False)
        self.eval()

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """Return all maps (N, C, H, W) of uint8 pixels (N, S, S, 3)."""
        x = pixels.permute(0, 3, 1, 2).float()
        return [maps for branch in self.branches for maps in branch(x)]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (N, F) float32 features of uint8 pixels (N, S, S, 3), RGB."""
        return pool(self.maps(pixels))


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and standard deviation (N, C) of maps, and squared distances from the mean."""
    mean = x.mean((2, 3))
    squares = (x - mean[:, :, None, None]).square()
    return mean, squares.mean((2, 3)).sqrt(), squares


def pool(maps: Sequence[Tensor]) -> Tensor:
    """Return (N, F): signed square roots of mean and standard deviation of every channel."""
    values = torch.cat([part for x in maps for part in moments(x)[:2]], 1)
    return values.sign() * values.abs().sqrt()


def evidence(maps: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Split linear functions of the features exactly into what each place of the picture adds.

    A square root of a mean is the mean of the map over that root, and the root of a deviation is
    the mean of squared distances over its third power; so both are sums over places. ``weight`` is
    (F, K); ``bias`` (K,) is spread evenly. The sum over places of what is returned, (N, K, S/32,
    S/32), is ``pool(maps) @ weight + bias``.
    """
    grid = maps[-1].shape[-1]
    start, total = 0, (bias / grid**2)[None, :, None, None]
    for x in maps:
        n, c, side, _ = x.shape
        mean, deviation, squares = moments(x)
        of_mean, of_deviation = weight[start : start + 2 * c].T.split(c, 1)  # (K, C)
        start += 2 * c
        by_mean = of_mean * mean.abs().clamp(min=TINY).rsqrt()[:, None]  # (N, K, C)
        by_deviation = of_deviation * deviation.clamp(min=TINY).pow(-1.5)[:, None]
        places = by_mean @ x.reshape(n, c, -1) + by_deviation @ squares.reshape(n, c, -1)
        places = places.reshape(n, -1, side, side)
        total = total + nn.functional.avg_pool2d(places, side // grid) / grid**2
    return total


def build(branches: Sequence[Branch], *, filled: bool = True) -> Features:
    """Build the network; ``filled=False`` leaves random weights, to be filled from a saved model.

    Kernels are rounded to float16 (still float32 numbers), as the exported model stores them.
    """
    built, provenance = [], []
    for branch in branches:
        recipe = recipes.get(branch.recipe)
        classifier, source = models.build_untrained(recipe, 2), "none"
        if filled:
            classifier, source = models.build(recipe, 2)
        provenance.append(source)
        seen = WEIGHTS[recipe.weights].preprocessing
        built.append(Taps(_stages(classifier.backbone), branch.taps, seen))
    network = Features(built, provenance)
    for name, tensor in network.state_dict().items():
        if is_stored_half(name, tensor):
            tensor.copy_(tensor.half().float())
    return network


def is_stored_half(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is stored as float16: kernels; batch norm spans more than it can."""
    return name.endswith("weight") and tensor.ndim == 4


def _stages(backbone: nn.Module) -> list[nn.Module]:
    if not hasattr(backbone, "blocks"):
        return list(backbone.features)
    first, *others = backbone.blocks  # of timm's EfficientNets
    return [nn.Sequential(backbone.conv_stem, backbone.bn1, first), *others]


def pixels_of(image: Image.Image, size: int) -> np.ndarray:
    """Return uint8 pixels (size, size, 3) of an upright RGB picture, squashed to a square."""
    return squash(image, size, INTERPOLATION)


def changed(image: Image.Image, change: str, number: int) -> Image.Image:
    """Return a picture, given its number, changed: "", "copy 1" and so on, "turned 1" to 4."""
    kind, _, k = change.partition(" ")
    if kind == "copy":
        return changes.changed(image, np.random.default_rng([int(k), number]))
    return image.transpose(TURNS[int(k) - 1]) if kind == "turned" else image


def compute(network: nn.Module, paths: Sequence[Path], size: int, change: str = "") -> np.ndarray:
    """Return float32 features (N, F) of picture files; known ones come from the cache."""

    def rows() -> Iterator[np.ndarray]:
        for number, path in enumerate(tqdm(paths, desc="Features", disable=None)):
            image = changed(files.open_image(path), change, number)
            with torch.inference_mode():
                yield network(torch.from_numpy(pixels_of(image, size)[None]))[0].numpy()

    numbers = hashlib.sha256()
    for key, tensor in network.state_dict().items():
        numbers.update(key.encode())
        numbers.update(tensor.numpy().tobytes())
    contents = (hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths)
    parts = [numbers.hexdigest(), f"{size} {INTERPOLATION} {change}", *contents]
    return np.array(cache.cached("features", parts, len(paths), rows))
