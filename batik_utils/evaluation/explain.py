"""Heat maps: which part of a picture speaks for a motif (Grad-CAM).

    >>> maps = explain.heat_map(model, preprocessing, pixels)  # (N, S, S), 0 to 1

It says where the evidence lies, not what it is, nor that the answer would change without it.
"""

import copy

import numpy as np
from torch import Tensor, nn

from batik_utils.images.resize import Preprocessing
from batik_utils.transforms import normalise


def heat_map(model: nn.Module, preprocessing: Preprocessing, pixels: Tensor) -> np.ndarray:
    """Grad-CAM of uint8 pictures (N, 3, S, S): float32 (N, S, S), each from 0 to 1.

    Explained is the predicted class, by what the backbone's last convolution or batch norm gives,
    which must run once a pass. A map without any evidence is 0 everywhere. The network is copied
    and not changed. Source: Selvaraju et al., Grad-CAM, 2017.
    """
    from pytorch_grad_cam import GradCAM

    own = copy.deepcopy(model)
    own.frozen = "no"  # otherwise a frozen backbone runs without gradients
    own.eval().requires_grad_(False)
    device = next(own.parameters()).device
    last = [m for m in own.backbone.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)][-1]
    library = GradCAM(own, [last])
    parts = []
    for part in pixels.split(16):
        # parameters need no gradient, the maps do: it is asked for at the input
        batch = normalise(part.to(device), preprocessing).requires_grad_()
        parts.append(library(batch, None))  # of the predicted class
    library.activations_and_grads.release()
    maps = np.concatenate(parts)
    # the library adds 1e-7 to what it divides by, which flattens the maps of very small gradients
    top = maps.max((1, 2), keepdims=True)
    return np.divide(maps, top, out=maps, where=top > 0)
