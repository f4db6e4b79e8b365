"""Networks: those trained from random weights, and pretrained ones with a new head.

>>> model, provenance = models.build(recipes.get("scratch1"), n_classes=3)

Introduced in notebooks 02 and 03, section "The architecture".
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from batik_utils import weights as pretrained
from batik_utils.errors import BatikError
from batik_utils.images.resize import IMAGENET, Preprocessing
from batik_utils.recipes import Recipe

FROZEN = ("no", "parameters", "backbone")


def _dropout(probability: float) -> list[nn.Module]:
    return [nn.Dropout(probability)] if probability else []


class Classifier(nn.Module):
    """A ``backbone``, from pictures to features (N, F), and a ``head``, from these to logits."""

    backbone: nn.Module
    head: nn.Module

    def forward(self, batch: Tensor) -> Tensor:
        """Return logits (N, K) of a batch (N, 3, S, S)."""
        return self.head(self.backbone(batch))


class TwoConvNet(Classifier):
    """Two convolutions and a hidden layer, as published; pictures of 224 px."""

    def __init__(self, n_classes, filters=(16, 32), n_hidden=512, dropout=0.0, early_dropout=0.0):
        super().__init__()
        self.backbone = nn.Sequential(
            *self._convolution(3, filters[0], early_dropout),
            *self._convolution(*filters, early_dropout),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(filters[1] * 56 * 56, n_hidden),
            nn.ReLU(),
            *_dropout(dropout),
            nn.Linear(n_hidden, n_classes),
        )

    @staticmethod
    def _convolution(n_in: int, n_out: int, dropout: float) -> list[nn.Module]:
        convolution = nn.Conv2d(n_in, n_out, 3, padding=1)
        if dropout:
            return [convolution, nn.ReLU(), nn.Dropout(dropout), nn.MaxPool2d(2)]
        # published as ReLU, then pool: they commute, and ReLU on a quarter of the values is faster
        return [convolution, nn.MaxPool2d(2), nn.ReLU()]


class SmallResNet(Classifier):
    """ResNet-18 (He et al., 2016, https://arxiv.org/abs/1512.03385), dropout after each block."""

    def __init__(self, n_classes: int, dropout: float = 0.0):
        from torchvision.models.resnet import BasicBlock, ResNet

        super().__init__()
        self.backbone = ResNet(BasicBlock, [2, 2, 2, 2])
        self.backbone.fc = nn.Identity()
        for stage in range(1, 5) if dropout else ():
            blocks = self.backbone.get_submodule(f"layer{stage}")
            for k, block in enumerate(blocks):
                blocks[k] = nn.Sequential(block, nn.Dropout(dropout))
        self.head = nn.Linear(512, n_classes)


class OurConvNet(Classifier):
    """Four convolutions with batch norm and global pooling: 62,000 parameters, for 120 pictures."""

    def __init__(self, n_classes: int, dropout: float = 0.0):
        super().__init__()
        self.backbone = nn.Sequential(
            *self._normed(3, 16, size=5, stride=2),
            nn.MaxPool2d(2),
            *self._normed(16, 32),
            nn.MaxPool2d(2),
            *self._normed(32, 64),
            nn.MaxPool2d(2),
            *self._normed(64, 64),
            MeanAndMaximum(),
        )
        self.head = nn.Sequential(*_dropout(dropout), nn.Linear(128, n_classes))

    @staticmethod
    def _normed(n_in: int, n_out: int, size: int = 3, stride: int = 1) -> list[nn.Module]:
        # batch norm brings the bias
        convolution = nn.Conv2d(n_in, n_out, size, stride, size // 2, bias=False)
        return [convolution, nn.BatchNorm2d(n_out), nn.ReLU()]


class MeanAndMaximum(nn.Module):
    """Global pooling (N, C, H, W) to (N, 2 C): how common a shape is, and whether it occurs."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return means, then maxima, over all positions."""
        return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], 1)


class TransferClassifier(Classifier):
    """A pretrained backbone with a new head."""

    def __init__(self, backbone: nn.Module, head: nn.Module, frozen: str = "no"):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.freeze(frozen)

    def freeze(self, how: str) -> None:
        """Freeze the backbone: ``no``, ``parameters`` or ``backbone``.

        With ``parameters``, batch-norm statistics and drop-connect stay active in training, as
        published; with ``backbone`` it is a fixed function of the picture, in evaluation mode.
        """
        if how not in FROZEN:
            raise BatikError(f"Unknown value frozen='{how}': use one of {', '.join(FROZEN)}.")
        self.frozen = how
        self.backbone.requires_grad_(how == "no")
        self.train(self.training)

    def train(self, mode: bool = True) -> "TransferClassifier":
        """Set training mode, of the head alone if the whole backbone is frozen."""
        super().train(mode)
        if self.frozen == "backbone":
            self.backbone.eval()
        return self


# Libraries are imported when a recipe needs them: each takes a second or more.


def _torchvision(name: str, n_features: int) -> tuple[nn.Module, int]:
    from torchvision import models as zoo

    backbone = nn.Sequential()
    backbone.add_module("features", getattr(zoo, name)(weights=None).features)
    return backbone.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()), n_features


def _efficientnet_pytorch(name: str, n_features: int) -> tuple[nn.Module, int]:
    # its drop-connect of up to 0.2, and for B2 its padding for 260 px, belong to the publication
    from efficientnet_pytorch import EfficientNet

    backbone = EfficientNet.from_name(name, include_top=False)
    # without its top the library gives (N, F, 1, 1); the identity gives the last maps a layer of
    # their own for Grad-CAM, as the activation before it is used twice
    backbone._avg_pooling = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return backbone, n_features


def _timm(name: str) -> tuple[nn.Module, int]:
    import timm

    backbone = timm.create_model(name, pretrained=False, num_classes=0)
    return backbone, backbone.num_features


#: Heads by name: (F, K, dropout) to a module from (N, F) features to (N, K) logits.
HEADS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "linear": lambda f, k, p: nn.Sequential(nn.Dropout(p), nn.Linear(f, k)),
    "modified": lambda f, k, p: nn.Sequential(nn.Dropout(p), nn.BatchNorm1d(f), nn.Linear(f, k)),
    "modified_hidden": lambda f, k, p: nn.Sequential(
        nn.Linear(f, 1280), nn.ReLU(), *HEADS["modified"](1280, k, p)
    ),
}


def transfer(backbone: Callable[..., tuple[nn.Module, int]], *arguments):
    """Return a row of ``ARCHITECTURES``: a backbone with F features and the recipe's head."""

    def build_transfer(recipe: Recipe, n_classes: int) -> TransferClassifier:
        network, n_features = backbone(*arguments)
        head = HEADS[recipe.head](n_features, n_classes, recipe.dropout)
        return TransferClassifier(network, head, recipe.frozen)

    return build_transfer


#: Networks by name: a recipe and the number of motifs K to a module. Sources: Sandler et al., 2018
#: (https://arxiv.org/abs/1801.04381); Tan and Le, 2019 (https://arxiv.org/abs/1905.11946).
ARCHITECTURES: dict[str, Callable[[Recipe, int], nn.Module]] = {
    "scratch1": lambda recipe, k: TwoConvNet(k, (16, 32), 512, recipe.dropout),
    "scratch2": lambda recipe, k: SmallResNet(k, recipe.dropout),
    # published: the first two dropouts are always 0.2; the base variants are named for none
    "scratch3": lambda recipe, k: TwoConvNet(
        k, (32, 64), 128, recipe.dropout, 0.2 if recipe.dropout else 0.0
    ),
    "scratch_ours": lambda recipe, k: OurConvNet(k, recipe.dropout),
    "mobilenet_v2": transfer(_torchvision, "mobilenet_v2", 1280),
    "efficientnet_b0": transfer(_efficientnet_pytorch, "efficientnet-b0", 1280),
    "efficientnet_b2": transfer(_efficientnet_pytorch, "efficientnet-b2", 1408),
    "efficientnet_b2_torchvision": transfer(_torchvision, "efficientnet_b2", 1408),
    "efficientnet_lite0": transfer(_timm, "tf_efficientnet_lite0"),
    "efficientnet_lite2": transfer(_timm, "tf_efficientnet_lite2"),
}


def build(recipe: Recipe, n_classes: int) -> tuple[nn.Module, str]:
    """Return a recipe's network, and ``"random"`` or the file of its weights and its hash."""
    if not recipe.weights:
        return build_untrained(recipe, n_classes), "random"
    # fail before the slow part if the weights cannot be had
    state, file, _ = pretrained.load(recipe.weights)
    model = build_untrained(recipe, n_classes)
    _load_backbone(model.backbone, state, file.key_style)
    return model, pretrained.label(file)


def build_untrained(recipe: Recipe, n_classes: int) -> nn.Module:
    """Return a recipe's network with weights from torch's global random state."""
    return ARCHITECTURES[recipe.architecture](recipe, n_classes)


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return what the network expects: as its weights, without any the published 224 px."""
    expected = pretrained.WEIGHTS[recipe.weights].preprocessing if recipe.weights else IMAGENET
    return replace(expected, size=recipe.size) if recipe.size else expected


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def _load_backbone(backbone: nn.Module, state: dict[str, Tensor], key_style: str) -> None:
    """Fill a backbone with all but the file's own ImageNet classifier."""
    classifier = "classifier.1." if key_style == "torchvision" else "_fc."
    given = {k: v for k, v in state.items() if not k.startswith(classifier)}
    wanted = backbone.state_dict()
    if key_style == "lite":  # other names, the same order
        given = dict(zip(wanted, given.values(), strict=True))
    # some old files lack the batch counters, which no evaluation reads
    counters = {k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")}
    backbone.load_state_dict(counters | given)
