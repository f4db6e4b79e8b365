"""A recipe becomes a network: a backbone that gives features, and a head that gives logits.

    >>> from batik_utils import models, recipes
    >>> model, provenance = models.build(recipes.get("scratch1"), n_classes=3)
    >>> models.count_parameters(model)
    51387363

Introduced in notebooks 02 and 03, section "The architecture".
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from batik_utils import weights as pretrained
from batik_utils.errors import BatikError
from batik_utils.preprocessing import IMAGENET, Preprocessing
from batik_utils.recipes import Recipe

FROZEN = ("no", "parameters", "backbone")


class Classifier(nn.Module):
    """A backbone and a head.

    Args:
        backbone: (N, 3, S, S) normalised pictures to (N, F) features.
        head: (N, F) features to (N, K) logits.
        frozen: see `recipes.Recipe`.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, frozen: str = "no"):
        super().__init__()
        if frozen not in FROZEN:
            raise BatikError(f"Unknown value frozen='{frozen}': use one of {', '.join(FROZEN)}.")
        self.backbone = backbone
        self.head = head
        self.frozen = frozen
        if frozen != "no":
            backbone.requires_grad_(False)

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
        super().train(mode)
        if self.frozen == "backbone":
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


def preprocessing_of(recipe: Recipe) -> Preprocessing:
    """Return what the recipe's weights expect; the published 224 px ImageNet one without any."""
    return pretrained.WEIGHTS[recipe.weights].preprocessing if recipe.weights else IMAGENET


def count_parameters(model: nn.Module, trainable_only: bool = False) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trainable_only)


# --- scratch networks -------------------------------------------------------------------------


def _scratch1(recipe: Recipe) -> tuple[nn.Module, int, Callable]:
    """Two convolutions with 16 and 32 filters, hidden layer of 512; dropout after its ReLU."""
    backbone = nn.Sequential(*_conv_block(3, 16), *_conv_block(16, 32), nn.Flatten())
    return backbone, 32 * 56 * 56, lambda k: _hidden_head(32 * 56 * 56, 512, recipe.dropout, k)


def _conv_block(n_in: int, n_out: int) -> list[nn.Module]:
    # published as conv, ReLU, pool; the last two commute, and ReLU on a quarter of the values
    # makes a training step 1.4 times faster with the same loss to the last digit
    return [nn.Conv2d(n_in, n_out, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]


def _hidden_head(n_in: int, n_hidden: int, dropout: float, n_classes: int) -> nn.Sequential:
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(
        nn.Linear(n_in, n_hidden), nn.ReLU(), *drop, nn.Linear(n_hidden, n_classes)
    )


# --- pretrained backbones ---------------------------------------------------------------------


def _mobilenet_v2(recipe: Recipe) -> tuple[nn.Module, int, None]:
    from torchvision.models import mobilenet_v2

    body = mobilenet_v2(weights=None).features
    backbone = nn.Sequential()
    backbone.add_module("features", body)
    backbone.add_module("pool", nn.AdaptiveAvgPool2d(1))
    backbone.add_module("flatten", nn.Flatten())
    return backbone, 1280, None


def _timm(name: str) -> Callable[[Recipe], tuple[nn.Module, int, None]]:
    def build_timm(recipe: Recipe) -> tuple[nn.Module, int, None]:
        import timm

        backbone = timm.create_model(name, pretrained=False, num_classes=0)
        return backbone, backbone.num_features, None

    return build_timm


def _load_backbone(backbone: nn.Module, state: dict[str, Tensor], key_style: str) -> None:
    """Fill a backbone; the file's own classifier is the only thing that may be left over."""
    wanted = backbone.state_dict()
    if key_style == "lite":
        # same tensors in the same order under other names; the last two are the classifier
        values = list(state.values())[: len(wanted)]
        state = dict(zip(wanted, values, strict=True))
    # some old files lack the batch counters, which no evaluation reads
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    unfit = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or unfit:
        raise BatikError(
            f"The weights file does not fit the architecture: {len(missing)} tensors are missing "
            f"and {len(unfit)} have another shape (first: {(missing + unfit)[0]}). Nothing was "
            f"loaded; get the file that belongs to this recipe."
        )
    backbone.load_state_dict({k: state.get(k, wanted[k]) for k in wanted})


# --- heads ------------------------------------------------------------------------------------


def _linear(n_features: int, n_classes: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(n_features, n_classes))


#: Builders by name: a recipe to (backbone, number of features F, own head builder or None).
ARCHITECTURES: dict[str, Callable] = {
    "scratch1": _scratch1,
    "mobilenet_v2": _mobilenet_v2,
    "efficientnet_lite0": _timm("tf_efficientnet_lite0"),
}

#: Heads by name: (F, K, dropout) to a module from (N, F) features to (N, K) logits.
HEADS: dict[str, Callable[[int, int, float], nn.Module]] = {"linear": _linear}
