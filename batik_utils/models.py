"""A recipe becomes a network: a backbone that gives features, and a head that gives logits.

    >>> from batik_utils import models, recipes
    >>> model, provenance = models.build(recipes.get("scratch1"), n_classes=3)
    >>> models.count_parameters(model)
    51387363

Introduced in notebooks 02 and 03, section "The architecture".
"""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from batik_utils import scratch
from batik_utils import weights as pretrained
from batik_utils.errors import BatikError
from batik_utils.images.resize import IMAGENET, Preprocessing
from batik_utils.recipes import Recipe

FROZEN = ("no", "parameters", "backbone")
Parts = tuple[nn.Module, int, Callable[[int], nn.Module] | None]


class Classifier(nn.Module):
    """A backbone and a head.

    Args:
        backbone: (N, 3, S, S) normalised pictures to (N, F) features.
        head: (N, F) features to (N, K) logits.
        frozen: see `recipes.Recipe`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, frozen: str = "no"):
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.freeze(frozen)

    def freeze(self, frozen: str) -> None:
        """Change what of the backbone is frozen; see `recipes.Recipe`.

        Raises:
            BatikError: unknown value.
        """
        if frozen not in FROZEN:
            raise BatikError(f"Unknown value frozen='{frozen}': use one of {', '.join(FROZEN)}.")
        self.frozen = frozen
        self.backbone.requires_grad_(frozen == "no")
        self.train(self.training)

    def features(self, batch: Tensor) -> Tensor:
        """Return (N, F) features of a batch (N, 3, S, S)."""
        if self.frozen == "no":
            return self.backbone(batch)
        with torch.no_grad():
            return self.backbone(batch)

    def forward(self, batch: Tensor) -> Tensor:
        """Return (N, K) logits of a batch (N, 3, S, S)."""
        return self.head(self.features(batch))

    def train(self, mode: bool = True) -> "Classifier":
        """Set training mode; a ``frozen="backbone"`` stays in evaluation mode, batch norm too."""
        if self.frozen != "backbone":
            return super().train(mode)
        # an epoch of a head takes milliseconds; so does a walk through all of a backbone
        self.training = mode
        self.head.train(mode)
        if self.backbone.training:
            self.backbone.eval()
        return self


def build(
    recipe: Recipe, n_classes: int, weights_directory: str | Path | None = None
) -> tuple[Classifier, str]:
    """Build a recipe's network; random parts come from torch's current random state.

    Args:
        recipe: what to build.
        n_classes: number of motifs K.
        weights_directory: folder to look for pretrained weights first.

    Returns:
        The network, and where its weights come from (``"random"`` or the file and its hash).

    Raises:
        BatikError: unknown architecture or head.
        weights.WeightsNotFound: pretrained weights are nowhere to be had.
    """
    # fail before the slow part if the weights cannot be had
    loaded = pretrained.load(recipe.weights, weights_directory) if recipe.weights else None
    model = build_untrained(recipe, n_classes)
    if not loaded:
        return model, "random"
    state, file, _ = loaded
    _load_backbone(model.backbone, state, file.key_style)
    return model, pretrained.label(file)


def build_untrained(recipe: Recipe, n_classes: int) -> Classifier:
    """Build a recipe's network with random weights, to be filled from a checkpoint.

    Args:
        recipe: what to build.
        n_classes: number of motifs K.

    Raises:
        BatikError: unknown architecture or head.
    """
    if recipe.architecture not in ARCHITECTURES:
        raise BatikError(
            f"Unknown architecture '{recipe.architecture}' in recipe '{recipe.name}': choose from "
            f"{', '.join(ARCHITECTURES)}."
        )
    backbone, n_features, own_head = ARCHITECTURES[recipe.architecture](recipe)
    if own_head is not None:
        head = own_head(n_classes)
    elif recipe.head in HEADS:
        head = HEADS[recipe.head](n_features, n_classes, recipe.dropout)
    else:
        raise BatikError(
            f"Unknown head '{recipe.head}' in recipe '{recipe.name}': choose from "
            f"{', '.join(HEADS)}."
        )
    return Classifier(backbone, head, recipe.frozen)


def stages(recipe: Recipe) -> list[tuple[Recipe, Preprocessing]]:
    """Return the steps of training in order, each with what the network sees in it.

    One step for most recipes. With ``fine_tune_epochs`` a second one follows at ``fine_tune_size``,
    where only the head and the batch-norm statistics learn: the train-test resolution fix of
    Touvron et al., 2019 (https://arxiv.org/abs/1906.06423). Theirs mends object sizes too, which
    random crops change and squashing does not; here it is the finer cloth that is left to gain.
    """
    # the published 224 px ImageNet one without any weights
    expected = pretrained.WEIGHTS[recipe.weights].preprocessing if recipe.weights else IMAGENET
    if recipe.size:
        expected = replace(expected, size=recipe.size)
    first = (replace(recipe, fine_tune_size=0, fine_tune_epochs=0), expected)
    if not recipe.fine_tune_epochs:
        return [first]
    second = replace(first[0], epochs=recipe.fine_tune_epochs, frozen="parameters")
    return [first, (second, replace(expected, size=recipe.fine_tune_size))]


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return what the finished network expects."""
    return stages(recipe)[-1][1]


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


def fingerprint(module: nn.Module) -> str:
    """Return a sha256 over the names and numbers of everything that a module holds."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        found.update(tensor.detach().cpu().contiguous().numpy())
    return found.hexdigest()


# --- pretrained backbones ---------------------------------------------------------------------


# Each builder turns a recipe into a backbone, its number of features F, and None: the head comes
# from HEADS. Libraries are imported when a recipe needs them, as each takes a second or more.


def _torchvision(name: str, n_features: int) -> Callable[[Recipe], Parts]:
    """Return a builder of torchvision's convolutional layers with global average pooling.

    Sources: Sandler et al., MobileNetV2, 2018 (https://arxiv.org/abs/1801.04381); Tan and Le,
    EfficientNet, 2019 (https://arxiv.org/abs/1905.11946).
    """

    def build_torchvision(recipe: Recipe) -> Parts:
        from torchvision import models as zoo

        backbone = nn.Sequential()
        backbone.add_module("features", getattr(zoo, name)(weights=None).features)
        backbone.add_module("pool", nn.AdaptiveAvgPool2d(1))
        backbone.add_module("flatten", nn.Flatten())
        return backbone, n_features, None

    return build_torchvision


def _efficientnet_pytorch(name: str, n_features: int) -> Callable[[Recipe], Parts]:
    """Return a builder of lukemelas' EfficientNet (Tan and Le, 2019).

    Two of its habits belong to the publication and stay: drop-connect of up to 0.2 in training
    mode, and for B2 a padding computed for 260 px though the pictures have 224.
    """

    def build_efficientnet(recipe: Recipe) -> Parts:
        from efficientnet_pytorch import EfficientNet

        backbone = EfficientNet.from_name(name, include_top=False)
        # without its top the library pools to (N, F, 1, 1) and stops there; the identity gives
        # the last maps a place of their own, as the activation before it is used twice (explain)
        backbone._avg_pooling = nn.Sequential(nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        return backbone, n_features, None

    return build_efficientnet


def _timm(name: str, **settings: float) -> Callable[[Recipe], Parts]:
    """Return a builder of timm's network without its classifier."""

    def build_timm(recipe: Recipe) -> Parts:
        import timm

        backbone = timm.create_model(name, pretrained=False, num_classes=0, **settings)
        return backbone, backbone.num_features, None

    return build_timm


#: What a file may hold beside the backbone, by key style: its maker's ImageNet classifier.
_CLASSIFIER_KEYS = {
    "torchvision": {"classifier.1.weight", "classifier.1.bias"},
    "efficientnet_pytorch": {"_fc.weight", "_fc.bias"},
    "timm": {"classifier.weight", "classifier.bias"},
    "lite": {"_fc.weight", "_fc.bias"},
}


def _load_backbone(backbone: nn.Module, state: dict[str, Tensor], key_style: str) -> None:
    """Fill a backbone; the file's own classifier is the only thing that may be left over.

    Raises:
        BatikError: a tensor is missing, has another shape, or belongs to no part of the network.
    """
    wanted = backbone.state_dict()
    given = {k: v for k, v in state.items() if k not in _CLASSIFIER_KEYS[key_style]}
    if key_style == "lite":
        given = _renamed_in_order(given, wanted)
    # some old files lack the batch counters, which no evaluation reads
    missing = [k for k in wanted if k not in given and not k.endswith("num_batches_tracked")]
    unfit = [k for k in wanted if k in given and given[k].shape != wanted[k].shape]
    surplus = [k for k in given if k not in wanted]
    if missing or unfit or surplus:
        raise BatikError(
            f"The weights file does not fit the architecture: {len(missing)} tensors are missing, "
            f"{len(unfit)} have another shape and {len(surplus)} belong nowhere (first: "
            f"{(missing + unfit + surplus)[0]}). Nothing was loaded; get the file that belongs to "
            f"this recipe."
        )
    backbone.load_state_dict({k: given.get(k, wanted[k]) for k in wanted})


def _renamed_in_order(given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors the names of the wanted ones in the same place.

    A name that ends otherwise than its place's (weight, bias, running_mean...), or that has no
    place, stays as it is, and the caller finds it left over.
    """
    renamed = {}
    for index, (name, tensor) in enumerate(given.items()):
        place = list(wanted)[index] if index < len(wanted) else name
        same_kind = name.rsplit(".", 1)[-1] == place.rsplit(".", 1)[-1]
        renamed[place if same_kind else name] = tensor
    return renamed


# --- heads ------------------------------------------------------------------------------------


def _linear(n_features: int, n_classes: int, dropout: float) -> nn.Sequential:
    """The library's own head with new outputs."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(n_features, n_classes))


def _modified(n_features: int, n_classes: int, dropout: float) -> nn.Sequential:
    """The publication's head for its modified EfficientNets."""
    return nn.Sequential(
        nn.Dropout(dropout), nn.BatchNorm1d(n_features), nn.Linear(n_features, n_classes)
    )


def _modified_hidden(n_features: int, n_classes: int, dropout: float) -> nn.Sequential:
    """The publication's head for its modified MobileNetV2: a hidden layer of 1280 units."""
    return nn.Sequential(
        nn.Linear(n_features, 1280), nn.ReLU(), *_modified(1280, n_classes, dropout)
    )


#: Builders by name: a recipe to (backbone, number of features F, own head builder or None).
ARCHITECTURES: dict[str, Callable[[Recipe], Parts]] = {
    "scratch1": scratch.scratch1,
    "scratch2": scratch.scratch2,
    "scratch3": scratch.scratch3,
    "scratch_ours": scratch.scratch_ours,
    "scratch_texture": scratch.scratch_texture,
    "mobilenet_v2": _torchvision("mobilenet_v2", 1280),
    "efficientnet_b0": _efficientnet_pytorch("efficientnet-b0", 1280),
    "efficientnet_b2": _efficientnet_pytorch("efficientnet-b2", 1408),
    "efficientnet_b2_torchvision": _torchvision("efficientnet_b2", 1408),
    # drop-connect and batch-norm momentum as in efficientnet_b2, so that recipes with the one and
    # the other differ in their weights, and only by a pixel in padding, which timm fits to the
    # picture; Xie et al., Noisy Student, 2020 (https://arxiv.org/abs/1911.04252)
    "noisy_student_b2": _timm("tf_efficientnet_b2", drop_path_rate=0.2, bn_momentum=0.01),
    # Google's EfficientNet without squeeze-and-excitation and with ReLU6
    "efficientnet_lite0": _timm("tf_efficientnet_lite0"),
    "efficientnet_lite1": _timm("tf_efficientnet_lite1"),
    "efficientnet_lite2": _timm("tf_efficientnet_lite2"),
}

#: Heads by name: (F, K, dropout) to a module from (N, F) features to (N, K) logits.
HEADS: dict[str, Callable[[int, int, float], nn.Module]] = {
    "linear": _linear,
    "modified": _modified,
    "modified_hidden": _modified_hidden,
}
