"""One training by several processes, each with a GPU or a core: Lightning Fabric around `training`.

>>> experiments.run_grid(setup, "scratch1", 3, fit=fabric.Fit(2, setup.device))

Every batch is divided among the processes (distributed data parallel), so the losses are those of
one process, up to rounding, dropout and batch norm, which on GPUs is synchronised.
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
from torch import nn
from torch.nn import functional

from batik_utils import training
from batik_utils.errors import BatikError, need
from batik_utils.recipes import Recipe
from batik_utils.training import Batches


@dataclass(frozen=True)
class Fit:
    """`training.fit` by so many processes on this machine, in place of it."""

    devices: int
    device: torch.device

    def __post_init__(self):
        there = {"mps": 1, "cuda": torch.cuda.device_count()}.get(self.device.type, 64)
        if not 1 <= self.devices <= there:
            raise BatikError(f"devices must be 1 to {there} here, not {self.devices}.")

    def __call__(
        self, model: nn.Module, recipe: Recipe, train: Batches, validation=None, **settings: str
    ) -> pd.DataFrame:
        """Train a network in place; see `training.fit`."""
        if train.sizes[-1] < self.devices:
            rest = f"The last batch has {train.sizes[-1]} pictures"
            raise BatikError(f"{rest}, fewer than processes ({self.devices}): use fewer devices.")
        package = need("lightning_fabric", "--devices")
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        kind, backend = ("cuda", "nccl") if self.device.type == "cuda" else ("cpu", "gloo")
        # new processes, not copies of this one: it may have threads, and a GPU
        strategy = package.strategies.DDPStrategy(
            start_method="spawn", process_group_backend=backend
        )
        fabric = package.Fabric(accelerator=kind, devices=self.devices, strategy=strategy)
        batches = [b and replace(b, inputs=b.inputs.cpu()) for b in (train, validation)]
        # through files: a pipe between processes holds 64 kB
        with tempfile.TemporaryDirectory() as folder:
            given = (copy.deepcopy(model).cpu(), recipe, batches, settings)
            torch.save(given, Path(folder) / "given.pt")
            fabric.launch(_process, Path(folder))
            # of our own making, a second old
            trained = torch.load(Path(folder) / "trained.pt", weights_only=False)
        if isinstance(trained, BatikError):
            raise trained
        history, state, generator, random = trained
        model.load_state_dict(state)
        train.generator.set_state(generator)
        torch.set_rng_state(random)
        return history


def _process(fabric, folder: Path) -> None:
    """Train in one of the processes; the first one keeps what came out."""
    model, recipe, batches, settings = torch.load(folder / "given.pt", weights_only=False)
    train, validation = (b and replace(b, device=fabric.device) for b in batches)
    if fabric.global_rank:
        # dropout of its own; initial weights are there already
        torch.manual_seed(torch.initial_seed() + fabric.global_rank)
        os.environ["TQDM_DISABLE"] = "1"
    if fabric.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    wrapped, optimiser = fabric.setup(model.to(fabric.device), training.adam(model, recipe))
    settings |= {"optimiser": optimiser, "step": partial(_shared_step, fabric)}
    try:
        history = training.fit(wrapped, recipe, train, validation, **settings)
        state = {name: value.cpu() for name, value in model.state_dict().items()}
        trained = (history, state, train.generator.get_state(), torch.get_rng_state())
    except BatikError as error:  # all processes raise it, for all see the same numbers
        trained = error
    if fabric.global_rank == 0:
        torch.save(trained, folder / "trained.pt")
    fabric.barrier()  # a process that ends with open connections may be aborted
    torch.distributed.destroy_process_group()


def _shared_step(fabric, model, batch, labels, optimiser, *, label_smoothing, precision):
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
    return fabric.all_reduce(sums, reduce_op="sum").tolist()
