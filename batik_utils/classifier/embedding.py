"""A picture becomes numbers: how strongly, and how unevenly, frozen filters answer across it.

    >>> from batik_utils.classifier import embedding
    >>> network = embedding.build([embedding.Branch("efficientnet_lite0", (3, 5, 6))])
    >>> features = network(torch.zeros(2, 448, 448, 3, dtype=torch.uint8))  # (2, F)

Batik is texture, so what counts is which small patterns a cloth has and how they are spread, not
where in the picture they are: of some layers' maps, the mean and the standard deviation of every
channel. The networks learned on ImageNet and stay as they are; only linear functions of these
numbers are learned (`batik_utils.baselines`).

Sources: Lin et al., Network in Network, 2014 (mean); Xu et al., deep TEN, 2017, and the style
statistics of Huang & Belongie, 2017 (https://arxiv.org/abs/1703.06868), for mean with deviation.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm.auto import tqdm

from batik_utils import models, recipes
from batik_utils.errors import BatikError
from batik_utils.images import files
from batik_utils.images.resize import Preprocessing, to_pixels
from batik_utils.weights import WEIGHTS

#: Side of the square that a picture is squashed to (px).
SIZE = 448
INTERPOLATION = "bicubic"


@dataclass(frozen=True)
class Branch:
    """One backbone, and the places where its maps are read.

    Attributes:
        recipe: name in `batik_utils.recipes`, which gives architecture and weights.
        taps: 0-based numbers of stages after which the maps are read, ascending: of ``blocks`` in
            timm's EfficientNets, of ``features`` in torchvision's MobileNetV2. What comes after
            the last one is cut off.
    """

    recipe: str
    taps: tuple[int, ...]


class Taps(nn.Module):
    """A cut backbone: (N, 3, S, S) pixels of 0 to 255 to a list of maps (N, C, H, W).

    Args:
        stages: the backbone's layers, in order.
        taps: after which of them the maps are read.
        preprocessing: what the backbone's weights expect.
    """

    def __init__(
        self, stages: Sequence[nn.Module], taps: Sequence[int], preprocessing: Preprocessing
    ):
        super().__init__()
        if not taps or sorted(set(taps)) != [*taps] or not 0 <= taps[0] <= taps[-1] < len(stages):
            raise BatikError(f"Taps must ascend from 0 to {len(stages) - 1}, not {taps}.")
        starts = [0, *(tap + 1 for tap in taps)]
        self.pieces = nn.ModuleList(
            nn.Sequential(*stages[a:b]) for a, b in itertools.pairwise(starts)
        )
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
        self.register_buffer("shift", 255 * mean)
        self.register_buffer("scale", 1 / (255 * std))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of a batch."""
        maps, x = [], (pixels - self.shift) * self.scale
        for piece in self.pieces:
            x = piece(x)
            maps.append(x)
        return maps


class Embedding(nn.Module):
    """Mean and standard deviation of every channel of every tap of every branch.

    Args:
        branches: cut backbones.
        provenance: where each one's weights come from.
    """

    def __init__(self, branches: Sequence[Taps], provenance: Sequence[str] = ()):
        super().__init__()
        self.provenance = tuple(provenance)
        self.branches = nn.ModuleList(branches)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> "Embedding":
        """Stay in evaluation mode: the backbones are frozen, batch norm too."""
        return super().train(False)

    def widths(self) -> list[list[int]]:
        """Return the number of channels at each tap of each branch."""
        with torch.inference_mode():
            small = torch.zeros(1, 3, 64, 64)
            return [[x.shape[1] for x in branch(small)] for branch in self.branches]

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (N, F) float32 features of uint8 pixels (N, S, S, 3), RGB."""
        x = pixels.permute(0, 3, 1, 2).float()
        return torch.cat([part for branch in self.branches for part in _pooled(branch(x))], 1)


def _pooled(maps: list[Tensor]) -> list[Tensor]:
    parts = []
    for x in maps:
        mean = x.mean((2, 3))
        # of the pixels themselves, not an estimate of a population: no division by n - 1
        variance = (x - mean[:, :, None, None]).square().mean((2, 3))
        parts += [mean, variance.sqrt()]
    return parts


def build(
    branches: Sequence[Branch], weights_directory: str | Path | None = None, *, half: bool = True
) -> Embedding:
    """Build the network with pretrained weights.

    Args:
        branches: which backbones, and where they are read.
        weights_directory: folder to look for weights first.
        half: round the weights to float16 (they stay float32 numbers), as they are stored in the
            exported model: so both give the same features.

    Returns:
        The network, in evaluation mode, on the CPU.

    Raises:
        BatikError: unknown recipe, unfit architecture or taps.
        weights.WeightsNotFound: pretrained weights are nowhere to be had.
    """
    built, provenance = [], []
    for branch in branches:
        recipe = recipes.get(branch.recipe)
        classifier, source = models.build(recipe, 2, weights_directory)
        provenance.append(source)
        built.append(
            Taps(
                _stages(recipe.architecture, classifier.backbone),
                branch.taps,
                WEIGHTS[recipe.weights].preprocessing,
            )
        )
    network = Embedding(built, provenance)
    if half:
        for name, tensor in network.state_dict().items():
            if is_stored_half(name, tensor):
                tensor.copy_(tensor.half().float())
    return network


def build_untrained(branches: Sequence[Branch]) -> Embedding:
    """Build the network with random weights, to be filled from a saved model.

    Args:
        branches: which backbones, and where they are read.

    Raises:
        BatikError: unknown recipe, unfit architecture or taps.
    """
    built = []
    for branch in branches:
        recipe = recipes.get(branch.recipe)
        stages = _stages(recipe.architecture, models.build_untrained(recipe, 2).backbone)
        built.append(Taps(stages, branch.taps, WEIGHTS[recipe.weights].preprocessing))
    return Embedding(built)


def is_stored_half(name: str, tensor: Tensor) -> bool:
    """Return whether a tensor is stored as float16: convolution kernels, nearly all there is.

    The few numbers of batch norm stay float32: they span more than float16 can.
    """
    return name.endswith("weight") and tensor.ndim == 4


def _stages(architecture: str, backbone: nn.Module) -> list[nn.Module]:
    for prefix, stages in _STAGES.items():
        if architecture.startswith(prefix):
            return stages(backbone)
    raise BatikError(f"Maps of '{architecture}' cannot be read: use one of {', '.join(_STAGES)}.")


def _timm_stages(backbone: nn.Module) -> list[nn.Module]:
    first, *others = backbone.blocks
    return [nn.Sequential(backbone.conv_stem, backbone.bn1, first), *others]


_STAGES: dict[str, Callable[[nn.Module], list[nn.Module]]] = {
    "efficientnet_lite": _timm_stages,
    "mobilenet_v2": lambda backbone: list(backbone.features),
}


def columns(
    branches: Sequence[Branch], widths: Sequence[Sequence[int]], wanted: Sequence[Branch]
) -> np.ndarray:
    """Return which columns of a network's features a smaller network would give.

    Args:
        branches: of the network.
        widths: of it.
        wanted: branches of the smaller network, in the network's order, with fewer taps.

    Raises:
        BatikError: a branch or tap that the network does not have.
    """
    taps = {branch.recipe: branch.taps for branch in wanted}
    found, start, missing = [], 0, {(b.recipe, tap) for b in wanted for tap in b.taps}
    for branch, channels in zip(branches, widths, strict=True):
        for tap, width in zip(branch.taps, channels, strict=True):
            if tap in taps.get(branch.recipe, ()):
                found.append(np.arange(start, start + 2 * width))
                missing.discard((branch.recipe, tap))
            start += 2 * width
    if missing:
        raise BatikError(f"The network has no tap {sorted(missing)[0]}.")
    return np.concatenate(found)


def parameters(network: Embedding, branches: Sequence[Branch], wanted: Sequence[Branch]) -> int:
    """Return how many parameters a smaller network would have, see `columns`."""
    last = {branch.recipe: branch.taps[-1] for branch in wanted}
    return sum(
        values.numel()
        for branch, taps in zip(branches, network.branches, strict=True)
        for tap, piece in zip(branch.taps, taps.pieces, strict=True)
        if tap <= last.get(branch.recipe, -1)
        for values in piece.parameters()
    )


def pixels_of(picture: Image.Image, size: int = SIZE) -> np.ndarray:
    """Return uint8 pixels (size, size, 3) of an upright RGB picture, squashed to a square."""
    squashed = to_pixels(picture, size, INTERPOLATION)
    return np.ascontiguousarray(squashed.transpose(1, 2, 0))


def features_of(
    network: nn.Module,
    sources: Sequence[Path | Image.Image],
    change: Callable[[Image.Image, int], Image.Image] | None = None,
    *,
    size: int = SIZE,
    batch: int = 4,
    progress: bool = True,
) -> np.ndarray:
    """Open pictures and return their features.

    Args:
        network: of `build`.
        sources: picture files, or opened RGB pictures.
        change: applied to each opened picture, with its number; None leaves them as they are.
        size: side of the square (px).
        batch: pictures at once; it moves nothing but memory.
        progress: show a bar.

    Returns:
        float32 array (N, F).

    Raises:
        ImageError: a file is no whole picture.
    """

    def pixels(index: int) -> np.ndarray:
        picture = sources[index]
        if not isinstance(picture, Image.Image):
            picture = files.open_image(picture)
        return pixels_of(change(picture, index) if change else picture, size)

    rows, threads = [], torch.get_num_threads()
    starts = range(0, len(sources), batch)
    try:
        # sums over several threads differ in the last digits, and a model must come out the same
        torch.set_num_threads(1)
        for start in tqdm(starts, desc="Features", unit="batch", disable=not progress):
            stack = np.stack([pixels(i) for i in range(start, min(start + batch, len(sources)))])
            with torch.inference_mode():
                rows.append(network(torch.from_numpy(stack)).numpy())
    finally:
        torch.set_num_threads(threads)
    return np.concatenate(rows)
