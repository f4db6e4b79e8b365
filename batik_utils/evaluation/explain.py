"""Heat maps: which part of a picture speaks for a motif (Grad-CAM).

    >>> maps = explain.heat_map(model, preprocessing, pixels)  # (N, S, S), 0 to 1

It says where the evidence lies, not what it is, nor that the answer would change without it.
"""

import copy
from collections import Counter

import numpy as np
import torch
from torch import Tensor, nn

from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.transforms import normalise


def heat_map(
    model: nn.Module, preprocessing: Preprocessing, pixels: Tensor, batch_size: int = 16
) -> np.ndarray:
    """Grad-CAM of uint8 pictures (N, 3, S, S): float32 (N, S, S), each from 0 to 1.

    Explained is the predicted class. A map without any evidence for it is 0 everywhere. The network
    is copied and not changed. Source: Selvaraju et al., Grad-CAM, 2017.
    """
    from pytorch_grad_cam import GradCAM

    own = copy.deepcopy(model)
    own.frozen = "no"  # otherwise a frozen backbone runs without gradients
    own.eval().requires_grad_(False)
    device = next(own.parameters()).device
    layer = target_layer(own, pixels.shape[-1])
    library = GradCAM(own, [layer])
    parts = []
    for part in pixels.split(batch_size):
        # parameters need no gradient, the maps do: it is asked for at the input
        batch = normalise(part.to(device), preprocessing).requires_grad_()
        parts.append(library(batch, None))  # of the predicted class
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
