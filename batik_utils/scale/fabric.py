"""One training by several processes, each with a GPU or a core: Lightning Fabric around `training`.

    >>> from batik_utils.scale import fabric
    >>> experiments.run_grid(setup, "scratch1", 3, fit=fabric.Fit(2, setup.device))

Every batch keeps its size and its pictures, augmentation included, and is divided among the
processes (distributed data parallel); gradients are averaged by picture before each step. So the
losses are those of one process, up to rounding, for a recipe without batch norm and dropout.
Otherwise dropout draws in each process on its own, and batch norm sees the part of one process, on
GPUs the whole batch (synchronised batch norm). Every process augments the whole batch.
Source: Lightning Fabric, https://lightning.ai/docs/fabric; Li et al., PyTorch Distributed, 2020
(https://arxiv.org/abs/2006.15704).
"""

import copy
import logging
import os
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from batik_utils import training
from batik_utils.errors import BatikError, need
from batik_utils.recipes import Recipe
from batik_utils.training import Batches

_PURPOSE = "Training on several devices"


@dataclass(frozen=True)
class Fit:
    """`training.fit` by several processes on this machine, in place of it.

    Raises:
        BatikError: fewer than one device, more GPUs than there are, or Fabric is not installed.
    """

    devices: int
    device: torch.device

    def __post_init__(self):
        if self.devices < 1:
            raise BatikError(f"devices must be at least 1, not {self.devices}.")
        need("lightning_fabric", _PURPOSE)
        if self.device.type == "mps":
            raise BatikError("An Apple GPU trains alone: use devices 1, or device 'cpu'.")
        if self.device.type == "cuda" and self.devices > torch.cuda.device_count():
            raise BatikError(
                f"{self.devices} GPUs were asked for, and {torch.cuda.device_count()} are here: "
                f"use fewer."
            )

    def __call__(
        self,
        model: nn.Module,
        recipe: Recipe,
        train: Batches,
        validation: Batches | None = None,
        *,
        precision: str = "float32",
    ) -> pd.DataFrame:
        """Train a network in place; see `training.fit`."""
        last = train.sizes[-1]
        if last < self.devices:
            raise BatikError(
                f"The last batch has fewer pictures ({last}) than there are processes "
                f"({self.devices}): use another batch size, or fewer devices."
            )
        package = need("lightning_fabric", _PURPOSE)
        strategies = need("lightning_fabric.strategies", _PURPOSE)
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        on_gpu = self.device.type == "cuda"
        fabric = package.Fabric(
            accelerator="cuda" if on_gpu else "cpu",
            devices=self.devices,
            # new processes, not copies of this one: it may have threads, and a GPU
            strategy=strategies.DDPStrategy(
                start_method="spawn", process_group_backend="nccl" if on_gpu else "gloo"
            ),
        )
        batches = [
            None if b is None else replace(b, inputs=b.inputs.cpu()) for b in (train, validation)
        ]
        given = (copy.deepcopy(model).cpu(), recipe, batches, precision)
        # through files: a pipe between processes holds 64 kB
        with tempfile.TemporaryDirectory() as folder:
            torch.save(given, Path(folder) / "given.pt")
            fabric.launch(_process, Path(folder))
            # of our own making, a second old
            trained = torch.load(Path(folder) / "trained.pt", weights_only=False)
        if isinstance(trained, BatikError):
            raise trained
        model.load_state_dict(trained["state"])
        train.generator.set_state(trained["generator"])
        torch.set_rng_state(trained["random"])
        return trained["history"]


def _process(fabric, folder: Path) -> None:
    """Train in one of the processes; the first one keeps what came out."""
    model, recipe, batches, precision = torch.load(folder / "given.pt", weights_only=False)
    train, validation = (None if b is None else replace(b, device=fabric.device) for b in batches)
    if fabric.global_rank:
        # dropout of its own; initial weights are there already
        torch.manual_seed(torch.initial_seed() + fabric.global_rank)
        os.environ["TQDM_DISABLE"] = "1"
    if fabric.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.to(fabric.device)
    wrapped, optimiser = fabric.setup(model, training.adam(model, recipe))
    try:
        history = training.fit(
            wrapped,
            recipe,
            train,
            validation,
            precision=precision,
            optimiser=optimiser,
            step=partial(_shared_step, fabric),
        )
    except BatikError as error:  # all processes raise it, for all see the same numbers
        trained = error
    else:
        trained = {
            "state": {name: value.cpu() for name, value in model.state_dict().items()},
            "history": history,
            "generator": train.generator.get_state(),
            "random": torch.get_rng_state(),
        }
    if fabric.global_rank == 0:
        torch.save(trained, folder / "trained.pt")


def _shared_step(
    fabric,
    model: nn.Module,
    batch: Tensor,
    labels: Tensor,
    optimiser: torch.optim.Optimizer,
    *,
    label_smoothing: float,
    precision: str,
) -> tuple[float, float]:
    """Take one step on this process's part of a batch; see `training.train_step`."""
    mine = slice(fabric.global_rank, None, fabric.world_size)
    n, batch, labels = len(labels), batch[mine], labels[mine]
    with training.autocast(batch.device, precision):
        logits = model(batch)
    loss = functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    optimiser.zero_grad()
    # gradients are averaged over processes, whose parts may differ by one picture
    fabric.backward(loss * (len(labels) * fabric.world_size / n))
    optimiser.step()
    right = (logits.argmax(1) == labels).sum()
    sums = torch.stack([loss.detach().double() * len(labels), right.double()])
    return tuple(fabric.all_reduce(sums, reduce_op="sum").tolist())
