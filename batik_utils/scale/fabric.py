"""One training by several processes, each with a GPU or a core: Lightning Fabric around `engine`.

    >>> from batik_utils.scale import fabric as distributed
    >>> history = distributed.fit(2, model, recipe, preprocessing, train, None, generator=generator)

Every batch keeps its size and its pictures, augmentation included, and is dealt out among the
processes (distributed data parallel); gradients are averaged by picture before each step. So the
losses are those of one process, up to rounding, for a recipe without batch norm and dropout. What
differs otherwise: dropout draws in each process on its own, and batch norm sees the part of one
process, on GPUs the whole batch again (synchronised batch norm, which torch has for GPUs alone).
Every process augments the whole batch, so it is the network's share of the time that shrinks.
Source: Lightning Fabric, https://lightning.ai/docs/fabric; Li et al., PyTorch Distributed, 2020
(https://arxiv.org/abs/2006.15704).
"""

import copy
import functools
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from batik_utils import training as engine
from batik_utils.errors import BatikError, need
from batik_utils.images.resize import Preprocessing
from batik_utils.models import Classifier
from batik_utils.recipes import Recipe
from batik_utils.training import Examples

#: Names of Lightning for ours.
_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed"}
STRATEGIES = ("ddp",)


def check(devices: int, device: torch.device) -> None:
    """Refuse a number of devices that cannot be had, before any picture is read.

    Args:
        devices: processes that share a batch.
        device: what each of them computes on.

    Raises:
        BatikError: fewer than one, more GPUs than there are, or Fabric is not installed.
    """
    if devices < 1:
        raise BatikError(f"devices must be at least 1, not {devices}.")
    if devices == 1:
        return
    need("lightning_fabric", "Training on several devices")
    if device.type == "mps":
        raise BatikError("An Apple GPU trains alone: use devices 1, or device 'cpu'.")
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise BatikError(
            f"{devices} GPUs were asked for, and {torch.cuda.device_count()} are here: use fewer."
        )


def fit_on(devices: int) -> Callable[..., pd.DataFrame]:
    """Return `fit` with the number of devices fixed, to stand in for `engine.fit`."""
    return functools.partial(fit, devices)


def fit(
    devices: int,
    model: Classifier,
    recipe: Recipe,
    preprocessing: Preprocessing,
    train: Examples,
    validation: Examples | None,
    *,
    generator: torch.Generator,
    precision: str = "float32",
    strategy: str = "ddp",
    progress: bool = True,
    views: Tensor | None = None,
    watched: Tensor | None = None,
) -> pd.DataFrame:
    """Train a network in place, by several processes on this machine.

    Args:
        devices: number of processes; each has one GPU where the model lies on one, otherwise a
            part of the cores.
        model: the network; it is trained on a device of the kind it lies on.
        recipe: as in `engine.fit`; its batch size is that of all processes together.
        preprocessing: what the network expects.
        train: pictures to learn from, on the CPU.
        validation: pictures to watch, or None.
        generator: order of pictures and augmentation; goes on as after `engine.fit`.
        precision: ``float32`` or ``bfloat16``.
        strategy: ``ddp``, distributed data parallel.
        progress: show the bar of the first process.
        views: see `engine.fit`.
        watched: see `engine.fit`.

    Returns:
        History, as `engine.fit` gives it; losses and accuracies are over all processes.

    Raises:
        Diverged: the loss is no longer a number.
        BatikError: a wrong setting, or Fabric is not installed.
    """
    device = next(model.parameters()).device
    check(devices, device)
    if strategy not in STRATEGIES:
        raise BatikError(f"Unknown strategy '{strategy}': use one of {', '.join(STRATEGIES)}.")
    if precision not in _PRECISIONS:
        raise BatikError(f"Unknown precision '{precision}': use one of {', '.join(_PRECISIONS)}.")
    fabric_package = need("lightning_fabric", "Training on several devices")
    strategies = need("lightning_fabric.strategies", "Training on several devices")
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = fabric_package.Fabric(
        accelerator="cuda" if device.type == "cuda" else "cpu",
        devices=devices,
        # new processes, not copies of this one: it may have threads, and a GPU
        strategy=strategies.DDPStrategy(
            start_method="spawn",
            process_group_backend="nccl" if device.type == "cuda" else "gloo",
        ),
        precision=_PRECISIONS[precision],
    )
    given = {
        "model": copy.deepcopy(model).cpu(),
        "what": (recipe, preprocessing, train, validation),
        "settings": {"precision": precision, "progress": progress},
        "generator": generator.get_state(),
        "features": [None if x is None else x.cpu() for x in (views, watched)],
    }
    # through files: a pipe between processes holds 64 kB
    with tempfile.TemporaryDirectory() as folder:
        torch.save(given, Path(folder) / "given.pt")
        fabric.launch(_process, Path(folder))
        # of our own making, a second old
        trained = torch.load(Path(folder) / "trained.pt", weights_only=False)
    if isinstance(trained, BatikError):
        raise trained
    model.load_state_dict(trained["state"])
    generator.set_state(trained["generator"])
    torch.set_rng_state(trained["random"])
    return trained["history"]


def _process(fabric, folder: Path) -> None:
    """Train in one of the processes; the first one keeps what came out."""
    given = torch.load(folder / "given.pt", weights_only=False)
    model, settings = given["model"], given["settings"]
    if fabric.global_rank:
        # dropout of its own; initial weights are there already
        torch.manual_seed(torch.initial_seed() + fabric.global_rank)
        settings["progress"] = False
    generator = torch.Generator()
    generator.set_state(given["generator"])
    if fabric.device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(fabric.device)
    views, watched = (None if x is None else x.to(fabric.device) for x in given["features"])
    settings |= {"views": views, "watched": watched}
    try:
        history = engine.fit(model, *given["what"], generator=generator, fabric=fabric, **settings)
    except BatikError as error:  # all processes raise it, for all see the same numbers
        trained = error
    else:
        trained = {
            "state": {name: value.cpu() for name, value in model.state_dict().items()},
            "history": history,
            "generator": generator.get_state(),
            "random": torch.get_rng_state(),
        }
    if fabric.global_rank == 0:
        torch.save(trained, folder / "trained.pt")
