"""Heat maps: which part of a picture speaks for a motif (Grad-CAM).

    >>> maps = explain.heat_map(model, preprocessing, pixels)  # (N, S, S), 0 to 1

It says where the evidence lies, not what it is, nor that the answer would change without it.
"""

import copy
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.transforms import normalise


def heat_map(
    model: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    targets: Sequence[int] | None = None,
    *,
    batch_size: int = 16,
) -> np.ndarray:
    """Grad-CAM of uint8 pictures (N, 3, S, S): float32 (N, S, S), each from 0 to 1.

    ``targets`` gives the class index to explain for each picture; None for the predicted ones. A
    map without any evidence for the motif is 0 everywhere. The network is copied and not changed.
    Source: Selvaraju et al., Grad-CAM, 2017; before global pooling and one linear layer it is CAM.
    """
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if targets is not None and len(targets) != len(pixels):
        raise BatikError(f"{len(targets)} targets for {len(pixels)} pictures: give one for each.")
    own = copy.deepcopy(model)
    own.frozen = "no"  # otherwise a frozen backbone runs without gradients
    own.eval().requires_grad_(False)
    device = next(own.parameters()).device
    layer = target_layer(own, pixels.shape[-1])
    library = GradCAM(own, [layer])
    parts = []
    for start in range(0, len(pixels), batch_size):
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


@torch.no_grad()
def target_layer(model: nn.Module, size: int) -> nn.Module:
    """Layer whose maps are explained: the last one of the backbone that still has positions.

    It is the layer that finishes last among those that run once a pass and give maps (N, C, H, W)
    larger than 1 × 1 for pictures of ``size`` px.
    """
    finished, times = [], Counter()

    def note(module: nn.Module, inputs: tuple, output: object) -> None:
        times[module] += 1
        if isinstance(output, Tensor) and output.ndim == 4 and min(output.shape[2:]) > 1:
            finished.append(module)

    handles = [module.register_forward_hook(note) for module in model.backbone.modules()]
    try:
        model(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    finally:
        for handle in handles:
            handle.remove()
    for module in reversed(finished):
        if times[module] == 1:
            return module
    raise BatikError(
        f"No layer of this network has positions for pictures of {size} px: Grad-CAM needs maps "
        f"larger than 1 × 1 before the pooling."
    )
