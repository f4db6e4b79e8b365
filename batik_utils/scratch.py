"""Networks that start from random weights: the three of the published course project, and ours.

Each function turns a recipe into a backbone, its number of features F, and a builder of the
network's own head from the number of motifs K.
Introduced in notebook 02, section "The architecture".
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from batik_utils.recipes import Recipe

Parts = tuple[nn.Module, int, Callable[[int], nn.Module]]


def scratch1(recipe: Recipe) -> Parts:
    """Two convolutions with 16 and 32 filters, hidden layer of 512; dropout after its ReLU."""
    return _two_convolutions((16, 32), 512, recipe.dropout, 0.0)


def scratch3(recipe: Recipe) -> Parts:
    """As `scratch1` with 32 and 64 filters and 128 hidden units; dropout after every ReLU.

    The publication gives the first two dropouts as always 0.2. Our reading: that holds within the
    dropout variants, and the base variants, named for having none, have none anywhere.
    """
    return _two_convolutions((32, 64), 128, recipe.dropout, 0.2 if recipe.dropout else 0.0)


def scratch2(recipe: Recipe) -> Parts:
    """ResNet-18 of basic blocks [2, 2, 2, 2]; dropout, if any, after each block's last ReLU.

    Source: He et al., Deep Residual Learning for Image Recognition, 2016
    (https://arxiv.org/abs/1512.03385), with that paper's initial values, as in torchvision.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    backbone = ResNet(BasicBlock, [2, 2, 2, 2])
    backbone.fc = nn.Identity()
    if recipe.dropout:
        for name in ("layer1", "layer2", "layer3", "layer4"):
            blocks = getattr(backbone, name)
            dropped = (nn.Sequential(block, nn.Dropout(recipe.dropout)) for block in blocks)
            setattr(backbone, name, nn.Sequential(*dropped))
    return backbone, 512, lambda n_classes: nn.Linear(512, n_classes)


def scratch_ours(recipe: Recipe) -> Parts:
    """Four convolutions with batch norm, and pooling over the whole picture: 62,000 parameters.

    Made for 120 pictures. Pooling over positions leaves nothing to learn where a motif lies, as a
    flattening does (nearly all the 51 M parameters of `scratch1`); mean and maximum together tell
    how common a shape is and whether it is there at all. Batch norm lets a high rate converge.
    Sources: Ioffe and Szegedy, Batch Normalization, 2015 (https://arxiv.org/abs/1502.03167); Lin
    et al., Network in Network, 2014 (https://arxiv.org/abs/1312.4400) for the global pooling.
    """
    backbone = nn.Sequential(
        *_normed(3, 16, size=5, stride=2),
        nn.MaxPool2d(2),
        *_normed(16, 32),
        nn.MaxPool2d(2),
        *_normed(32, 64),
        nn.MaxPool2d(2),
        *_normed(64, 64),
        MeanAndMaximum(),
    )

    def head(n_classes: int) -> nn.Sequential:
        return nn.Sequential(*_dropout(recipe.dropout), nn.Linear(128, n_classes))

    return backbone, 128, head


def scratch_texture(recipe: Recipe) -> Parts:
    """Filters that are set by a formula, statistics of their answers, and one learned layer.

    Batik is texture, and 120 pictures are few to learn filters from, while edges of every direction
    and size have a formula. What is kept is how strong the edges of a direction are and how much
    that varies (`OrientedEnergy`), and how often each small pattern occurs (`LocalPatterns`), at
    several octaves. Only the last layer learns. Sources: Bruna and Mallat, Invariant Scattering
    Convolution Networks, 2013 (https://arxiv.org/abs/1203.1513), for filters that are not learned;
    Manjunath and Ma, Texture features for browsing and retrieval of image data, 1996, for mean and
    deviation of Gabor filters.
    """
    backbone = TextureStatistics(OCTAVES)
    return backbone, backbone.n_features, partial(nn.Linear, backbone.n_features)


#: Octaves of `scratch_texture`; directions of its filters, and their side (px).
OCTAVES, DIRECTIONS, FILTER_SIDE = 4, 6, 9
#: Length of the filters' wave and standard deviation of their window (px).
WAVE, WINDOW = 4.5, 2.0

# brightness and two opponent colours from red, green and blue
_OPPONENT = ((1 / 3, 1 / 3, 1 / 3), (1 / 2, -1 / 2, 0.0), (1 / 4, 1 / 4, -1 / 2))
# added before a logarithm: a strength that is as good as none
_DIM = 4e-3


class TextureStatistics(nn.Module):
    """How strong edges are and how often small patterns occur: (N, 3, S, S) to (N, F).

    Args:
        octaves: each sees the picture at half the side of the one before.
    """

    def __init__(self, octaves: int):
        super().__init__()
        self.opponent = nn.Conv2d(3, 3, 1, bias=False)
        with torch.no_grad():
            self.opponent.weight.copy_(torch.tensor(_OPPONENT).view(3, 3, 1, 1))
        self.patterns = nn.ModuleList(LocalPatterns() for _ in range(octaves))
        self.energies = nn.ModuleList(OrientedEnergy() for _ in range(octaves))
        #: Number of features F.
        self.n_features = octaves * 3 * (2 * DIRECTIONS + LocalPatterns.N)

    def forward(self, batch: Tensor) -> Tensor:
        """Return float32 features of normalised pictures."""
        maps = self.opponent(batch).float().contiguous()
        parts = []
        for patterns, energies in zip(self.patterns, self.energies, strict=True):
            energy = energies(maps)
            deviation = (energy.flatten(2).var(2, unbiased=False) + 1e-10).sqrt()
            # light multiplies a strength, and so only shifts its logarithm
            parts += [(energy.mean((2, 3)) + _DIM).log(), (deviation + _DIM).log()]
            parts.append(patterns(maps).sqrt())
            maps = functional.avg_pool2d(maps, 2)
        return torch.cat(parts, 1)


class OrientedEnergy(nn.Module):
    """Strength of edges in each direction: (N, C, H, W) maps to (N, C * ``DIRECTIONS``, H, W).

    A Gabor filter and its copy shifted by a quarter wave; the length of both answers together
    does not depend on where in the wave a pixel lies. Source: Adelson and Bergen, Spatiotemporal
    energy models, 1985.
    """

    def __init__(self):
        super().__init__()
        self.filters = nn.Conv2d(
            1, 2 * DIRECTIONS, FILTER_SIDE, padding="same", padding_mode="replicate", bias=False
        )
        with torch.no_grad():
            self.filters.weight.copy_(gabor_filters())

    def forward(self, maps: Tensor) -> Tensor:
        """Return the strengths, float32."""
        # a few pictures at once: the answers take 24 times the memory of the maps
        return torch.cat([self._strength(part) for part in maps.split(4)])

    def _strength(self, maps: Tensor) -> Tensor:
        n, channels, height, width = maps.shape
        answers = self.filters(maps.reshape(n * channels, 1, height, width)).float()
        pairs = answers.reshape(n, channels * DIRECTIONS, 2, height, width)
        return (pairs.square().sum(2) + 1e-8).sqrt()


class LocalPatterns(nn.Module):
    """Share of each uniform local binary pattern: (N, C, H, W) maps to (N, C * 10).

    A pixel's eight neighbours are brighter or not. If those that are lie side by side, their number
    0 to 8 is the pattern; all else is the tenth one. Source: Ojala, Pietikäinen and Mäenpää,
    Multiresolution gray-scale and rotation invariant texture classification, 2002; as
    scikit-image's ``local_binary_pattern(method="uniform")``, but with the square's own corners.
    """

    #: Number of patterns.
    N = 10
    # row and column of the neighbours in a window of 3 x 3, all around
    _AROUND = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the shares; those of a map sum to 1."""
        height, width = maps.shape[2] - 2, maps.shape[3] - 2
        middle = maps[:, :, 1:-1, 1:-1]
        brighter = torch.stack(
            [maps[:, :, y : y + height, x : x + width] > middle for y, x in self._AROUND]
        )
        changes = (brighter != brighter.roll(1, 0)).sum(0, dtype=torch.uint8)
        count = brighter.sum(0, dtype=torch.uint8)
        pattern = torch.where(changes <= 2, count, self.N - 1).flatten(2)
        return torch.cat([(pattern == k).float().mean(2) for k in range(self.N)], 1)


def gabor_filters() -> Tensor:
    """Return the filters (2 * ``DIRECTIONS``, 1, side, side): of each direction cosine and sine.

    Each has a sum of 0, so plain ground gives no answer, and a length of 1.
    """
    steps = torch.arange(FILTER_SIDE) - FILTER_SIDE // 2
    y, x = torch.meshgrid(steps.float(), steps.float(), indexing="ij")
    window = torch.exp(-(x.square() + y.square()) / (2 * WINDOW**2))
    filters = []
    for k in range(DIRECTIONS):
        angle = math.pi * k / DIRECTIONS
        phase = 2 * math.pi / WAVE * (x * math.cos(angle) + y * math.sin(angle))
        even, odd = window * phase.cos(), window * phase.sin()
        even = even - window * (even.sum() / window.sum())
        filters += [even / even.norm(), odd / odd.norm()]
    return torch.stack(filters).unsqueeze(1)


class MeanAndMaximum(nn.Module):
    """Pool (N, C, H, W) to (N, 2 C): the mean over all positions, then the maximum."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return the pooled maps."""
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)


def _normed(n_in: int, n_out: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
    # batch norm brings the bias
    convolution = nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]


def _two_convolutions(
    filters: tuple[int, int], n_hidden: int, dropout: float, early_dropout: float
) -> Parts:
    """Return the parts of scratch1 and scratch3; the flattening fixes the input at 224 px."""
    n_features = filters[1] * 56 * 56
    backbone = nn.Sequential(
        *_convolution(3, filters[0], early_dropout),
        *_convolution(*filters, early_dropout),
        nn.Flatten(),
    )

    def head(n_classes: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Linear(n_features, n_hidden),
            nn.ReLU(),
            *_dropout(dropout),
            nn.Linear(n_hidden, n_classes),
        )

    return backbone, n_features, head


def _convolution(n_in: int, n_out: int, dropout: float) -> list[nn.Module]:
    convolution = nn.Conv2d(n_in, n_out, 3, padding=1)
    if dropout:  # the published order: dropout sees every value before the pool picks the largest
        return [convolution, nn.ReLU(), *_dropout(dropout), nn.MaxPool2d(2)]
    # published as conv, ReLU, pool; the last two commute, and ReLU on a quarter of the values
    # makes a training step 1.4 times faster with the same loss to the last digit
    return [convolution, nn.MaxPool2d(2), nn.ReLU()]


def _dropout(probability: float) -> list[nn.Module]:
    return [nn.Dropout(probability)] if probability else []
