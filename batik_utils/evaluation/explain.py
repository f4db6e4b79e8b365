"""Where a network looks: heat maps, and the check that they depend on what it has learned.

    >>> from batik_utils.evaluation import explain
    >>> maps = explain.heat_map(model, preprocessing, pixels)  # (N, S, S), 0 to 1
    >>> explain.randomisation(model, preprocessing, pixels)

Grad-CAM (Selvaraju et al., 2017, https://arxiv.org/abs/1610.02391) by the library
pytorch-grad-cam: the last maps of the convolutions, added up with the weight that each has for one
motif. A heat map tells where the evidence for an answer lies, not what the network saw there, and
not that the answer would change without it: `masking` and `shortcuts` test that.

Introduced in notebook 03, section "Where does it look?".
"""

import copy
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from batik_utils import training as engine
from batik_utils.errors import BatikError
from batik_utils.evaluation import masking
from batik_utils.images.resize import Preprocessing
from batik_utils.transforms import normalise

METHODS = ("grad-cam", "hires-cam")
RANDOMISATION_COLUMNS = (
    "explanation",
    "stage",
    "last_layer",
    "layers",
    "rank_correlation",
    "lower",
    "upper",
    "other_pictures",
    "pictures",
    "flat",
)
Explanation = Callable[[nn.Module, Preprocessing, Tensor, Sequence[int] | None], np.ndarray]


def heat_map(
    model: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    targets: Sequence[int] | None = None,
    *,
    method: str = "grad-cam",
    batch_size: int = 16,
    progress: bool = False,
) -> np.ndarray:
    """Return where the evidence for a motif lies.

    The maps are those of `target_layer`. They work for fixed backbones too: the network is copied,
    so nothing about it changes. Before global pooling and one linear layer Grad-CAM is exact: until
    negative values are cut, a map adds up to the motif's logit without the bias. Where a network
    flattens its maps (``scratch1``, ``scratch3``), weights averaged over all positions are a rough
    guide, and ``hires-cam`` (Draelos and Carin, 2020, https://arxiv.org/abs/2011.08891), which
    weighs every position by its own gradient, is the better one.

    Args:
        model: the network, on the device to compute on.
        preprocessing: what the network expects.
        pixels: uint8 tensor (N, 3, S, S).
        targets: the motif to explain, a class index for each picture; None for the predicted one.
        method: one of ``METHODS``.
        batch_size: pictures a pass.
        progress: show a bar.

    Returns:
        float32 array (N, S, S); in each map the lowest place is 0 and the highest 1, so heat says
        nothing across pictures. A map without any evidence for the motif is 0 everywhere.

    Raises:
        BatikError: unknown method, targets that do not fit, or no layer that keeps positions.
    """
    from pytorch_grad_cam import GradCAM, HiResCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if method not in METHODS:
        raise BatikError(f"Unknown method '{method}': use {' or '.join(METHODS)}.")
    if targets is not None and len(targets) != len(pixels):
        raise BatikError(f"{len(targets)} targets for {len(pixels)} pictures: give one for each.")
    own = _copy(model)
    device = next(own.parameters()).device
    layer = target_layer(own, pixels.shape[-1])
    library = {"grad-cam": GradCAM, "hires-cam": HiResCAM}[method](own, [layer])
    parts = []
    starts = range(0, len(pixels), batch_size)
    bar = tqdm(starts, desc="Heat maps", unit="batch", leave=False, disable=not progress)
    for start in bar:
        chosen = slice(start, start + batch_size)
        # parameters need no gradient, the maps do: it is asked for at the input
        batch = normalise(pixels[chosen].to(device), preprocessing).requires_grad_()
        wanted = None
        if targets is not None:
            wanted = [ClassifierOutputTarget(int(target)) for target in targets[chosen]]
        parts.append(library(batch, wanted))
    library.activations_and_grads.release()
    maps = np.concatenate(parts)
    # the library adds 1e-7 to what it divides by, which flattens the maps of very small gradients
    top = maps.max((1, 2), keepdims=True)
    return np.divide(maps, top, out=maps, where=top > 0)


def target_layer(model: nn.Module, size: int) -> nn.Module:
    """Return the layer whose maps are explained: the last one that still knows positions.

    The rule: of all layers of the backbone, blocks of layers included, the one that finishes last
    among those that run once a pass and give maps (N, C, H, W) larger than 1 × 1. Layers used
    twice (one ReLU for several places) are passed over, as their maps could not be told apart.
    What follows is pooling or flattening.

    Args:
        model: the network.
        size: side of its input (px).

    Raises:
        BatikError: there is none.
    """
    finished, times = [], Counter()

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        times[module] += 1
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            finished.append(module)

    _watch(model, model.backbone.modules(), note, size)
    for module in reversed(finished):
        if times[module] == 1:
            return module
    raise BatikError(
        f"No layer of this network keeps positions for pictures of {size} px: Grad-CAM needs "
        f"maps larger than 1 × 1 before the pooling."
    )


def edge_map(
    model: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    targets: Sequence[int] | None = None,
) -> np.ndarray:
    """Return the edges of each picture, dressed up as an explanation.

    It takes the arguments of `heat_map` and ignores the network: what `randomisation` has to
    unmask (Adebayo et al., 2018, compare with an edge detector too).

    Returns:
        float32 array (N, S, S): length of the Sobel gradient of the grey picture, 0 to 1.
    """
    grey = pixels.float().mean(1, keepdim=True)
    sobel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]], device=pixels.device)
    kernels = torch.stack([sobel, sobel.T]).unsqueeze(1)
    padded = functional.pad(grey, (1, 1, 1, 1), mode="replicate")
    length = functional.conv2d(padded, kernels).norm(dim=1)
    top = length.amax((1, 2), keepdim=True).clamp_min(1e-7)
    return (length / top).cpu().numpy()


def randomisation(
    model: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    targets: Sequence[int] | None = None,
    *,
    explanation: Explanation = heat_map,
    name: str = "Grad-CAM",
    stages: int = 7,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Forget what the network has learned, from the head downwards, and watch the heat maps.

    If a map stays the same while the weights become random, it shows the picture, not the network
    (Adebayo et al., Sanity Checks for Saliency Maps, 2018, https://arxiv.org/abs/1810.03292).
    Layers drawn anew get torch's initial values; batch norms among them take their statistics from
    these pictures, as signals would die out on the way otherwise.

    Args:
        model: the network; it is copied.
        preprocessing: what the network expects.
        pixels: uint8 tensor (N, 3, S, S), at least 2 pictures.
        targets: the motif to explain, the same at each stage; None for the one first predicted.
        explanation: what is checked, e.g. `heat_map` or `edge_map`.
        name: of the explanation, for the table.
        stages: steps from the head alone to the whole network.
        seed: of the random weights.
        progress: show a bar.

    Returns:
        One row a stage with ``RANDOMISATION_COLUMNS``; stage 0 is the network as it is.
        ``last_layer``: the deepest layer drawn anew; ``layers``: how many are. The mean Spearman
        correlation over pictures with the maps of stage 0, and its ``lower`` and ``upper``
        quartile. ``other_pictures``: the same between stage 0's maps of two different pictures,
        what maps share without looking at the picture at all. ``flat``: maps without any
        contrast, which have no ranks and count as 0.

    Raises:
        BatikError: fewer than 2 pictures, or a layer that cannot be drawn anew.
    """
    if len(pixels) < 2 or stages < 1:
        raise BatikError(f"Needs 2 pictures and 1 stage at least, not {len(pixels)} and {stages}.")
    own = _copy(model)
    if targets is None:
        targets = engine.predict(own, preprocessing, pixels).argmax(1)
    first = explanation(own, preprocessing, pixels, targets)
    others = [_rank_correlation(a, b) for a, b in zip(first, np.roll(first, 1, 0), strict=True)]
    head, body = _layers_from_the_top(own, pixels.shape[-1])
    steps = [head] if head else []
    steps += [part.tolist() for part in _chunks(body, stages - len(steps))]
    rows, drawn = [], []
    bar = tqdm(
        [[], *steps], desc=f"{name}: drawing weights anew", leave=False, disable=not progress
    )
    with engine.seeded(seed):
        for stage, layers in enumerate(bar):
            for _, layer in layers:
                layer.reset_parameters()
            drawn += layers
            _measure_batch_norm(own, [layer for _, layer in drawn], preprocessing, pixels)
            maps = first if stage == 0 else explanation(own, preprocessing, pixels, targets)
            values = [_rank_correlation(a, b) for a, b in zip(first, maps, strict=True)]
            rows.append(
                {
                    "explanation": name,
                    "stage": stage,
                    "last_layer": drawn[-1][0] if drawn else "",
                    "layers": len(drawn),
                    "rank_correlation": np.mean(values),
                    "lower": np.quantile(values, 0.25),
                    "upper": np.quantile(values, 0.75),
                    "other_pictures": np.mean(others),
                    "pictures": len(pixels),
                    "flat": int(sum(np.ptp(heat) == 0 for heat in maps)),
                }
            )
    return pd.DataFrame(rows, columns=list(RANDOMISATION_COLUMNS))


def where(maps: np.ndarray) -> pd.DataFrame:
    """Return the share of each map's heat that lies in the parts of the picture.

    Args:
        maps: float (N, S, S), of `heat_map`.

    Returns:
        One row a map, in order: a column for each of `masking.regions`. An even map has the parts'
        shares of the area, which `areas` gives. A map without heat has NaN.
    """
    parts = masking.regions(maps.shape[-1])
    total = maps.sum((1, 2))
    total = np.where(total > 0, total, np.nan)
    return pd.DataFrame({name: maps[:, part].sum(1) / total for name, part in parts.items()})


def areas(side: int = 224) -> pd.Series:
    """Return each part's share of the area."""
    return pd.Series({name: part.mean() for name, part in masking.regions(side).items()})


def describe_randomisation(table: pd.DataFrame) -> str:
    """Say in words what the sanity check shows, in Markdown.

    Args:
        table: of `randomisation`, of one network; several explanations may be stacked.
    """
    lines = []
    for name, rows in table.groupby("explanation", sort=False):
        rows = rows.sort_values("stage")
        last, other = rows.iloc[-1], rows["other_pictures"].iloc[0]
        text = (
            f"- **{name}**: with all {last['layers']} layers random, its maps correlate "
            f"{last['rank_correlation']:.2f} with the original ones (1.00 before; maps of two "
            f"different pictures {other:.2f})."
        )
        if passes(rows):
            text += " It passes: the maps depend on what the network has learned."
        else:
            text += (
                " **It fails**: the maps hardly notice, so they show the picture and not the "
                "network."
            )
        if flat := int(rows["flat"].max()):
            text += f" Up to {flat} of {last['pictures']} maps had no contrast at a stage."
        lines.append(text)
    return "\n".join(lines)


def passes(rows: pd.DataFrame, half: float = 0.5) -> bool:
    """Return whether at most half of the rank correlation is left with all weights random.

    Args:
        rows: of `randomisation`, of one network and explanation.
        half: the limit; a convention of ours, Adebayo et al. draw none.
    """
    return bool(rows.sort_values("stage")["rank_correlation"].iloc[-1] <= half)


def _copy(model: nn.Module) -> nn.Module:
    """Return a copy whose backbone lets gradients through, with no parameter that needs one."""
    own = copy.deepcopy(model)
    return own.eval().requires_grad_(False)


def _watch(model: nn.Module, modules, note: Callable, size: int) -> None:
    """Run one grey picture through a network while a function watches some of its layers."""
    handles = [module.register_forward_hook(note) for module in modules]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()


def _layers_from_the_top(model: nn.Module, size: int) -> tuple[list, list]:
    """Return names and layers with parameters, of head and backbone, the last to run first."""
    names = {module: name for name, module in model.named_modules()}
    ran: dict[nn.Module, None] = {}

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        ran[module] = None

    own = [m for m in names if next(m.parameters(recurse=False), None) is not None]
    _watch(model, own, note, size)
    for module in ran:
        if not hasattr(module, "reset_parameters"):
            raise BatikError(
                f"The layer {names[module]} ({type(module).__name__}) has no reset_parameters, so "
                f"its weights cannot be drawn anew."
            )
    layers = [(names[module], module) for module in reversed(ran)]
    head = [layer for layer in layers if layer[0].startswith("head")]
    return head, [layer for layer in layers if not layer[0].startswith("head")]


def _chunks(layers: list, n: int) -> list:
    """Divide a list into n parts, or fewer if it is short."""
    cells = np.empty(len(layers), dtype=object)
    cells[:] = layers
    return np.array_split(cells, min(max(n, 0), len(layers))) if layers and n > 0 else []


@torch.no_grad()
def _measure_batch_norm(
    model: nn.Module, layers: list[nn.Module], preprocessing: Preprocessing, pixels: Tensor
) -> None:
    """Give some batch norms the statistics of these pictures."""
    norms = [m for m in layers if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches; there is one batch
        norm.train()
    model(normalise(pixels.to(next(model.parameters()).device), preprocessing))
    model.eval()


def _rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a.ravel(), b.ravel()).statistic)
