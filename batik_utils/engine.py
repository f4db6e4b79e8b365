"""Train a network and predict with it: seeded, one bar, metrics counted over pictures.

Introduced in notebook 02, section "Training".
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from batik_utils.errors import BatikError
from batik_utils.models import Classifier
from batik_utils.preprocessing import Preprocessing
from batik_utils.recipes import Recipe
from batik_utils.transforms import EvalPreset, TrainPreset

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("float32", "bfloat16")
HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
)


class Examples(NamedTuple):
    """Pictures and their labels.

    Attributes:
        pixels: uint8 tensor (N, 3, S, S).
        labels: int64 tensor (N,) of class indices.
    """

    pixels: Tensor
    labels: Tensor


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Args:
        name: ``auto`` (a GPU where there is one), ``cpu``, ``cuda`` or ``mps``.

    Raises:
        BatikError: unknown name, or a GPU that is not there.
    """
    if name not in DEVICES:
        raise BatikError(f"Unknown device '{name}': choose one of {', '.join(DEVICES)}.")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.mps.is_available()}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if there[d]))
    if not there[name]:
        raise BatikError(f"No {name} device here: use device 'auto' or 'cpu'.")
    return torch.device(name)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Make everything random inside depend on the seed, and nothing outside.

    Yields:
        A generator for what takes one; torch's global state (initial weights, dropout) is seeded
        too, and put back afterwards.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


def fit(
    model: Classifier,
    recipe: Recipe,
    preprocessing: Preprocessing,
    train: Examples,
    validation: Examples,
    *,
    generator: torch.Generator,
    precision: str = "float32",
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
) -> pd.DataFrame:
    """Train a network in place.

    Args:
        model: the network, on the device to train on.
        recipe: epochs, batch size, learning rate and so on.
        preprocessing: what the network expects.
        train: pictures to learn from, on the CPU.
        validation: pictures to watch; nothing is chosen by them.
        generator: order of pictures and augmentation; initial weights and dropout follow torch's
            global state (see `seeded`).
        precision: ``float32``, or ``bfloat16`` for mixed precision (weights stay float32).
        progress: show a bar over epochs with loss and validation accuracy.
        on_epoch: called with each history row, e.g. to stop a search early by raising.

    Returns:
        History, one row an epoch, with ``HISTORY_COLUMNS``; losses are mean cross-entropy (nats)
        over pictures, accuracies are shares of pictures. Training figures are gathered while the
        weights change, with dropout and augmentation on.

    Raises:
        BatikError: no training pictures, or the loss is no longer a number.
    """
    if not len(train.pixels) or not len(validation.pixels):
        raise BatikError("Training needs at least one training and one validation picture.")
    last_batch = len(train.pixels) % recipe.batch_size or recipe.batch_size
    if last_batch == 1 and _has_batch_norm(model.head):
        raise BatikError(
            f"A last batch of one picture would break batch norm: {len(train.pixels)} training "
            f"pictures with batch size {recipe.batch_size}. Use another batch size."
        )
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    trained = [p for p in model.parameters() if p.requires_grad]
    # a rate of 0 is a published mistake that is repeated on purpose; see recipes.py
    optimiser = torch.optim.Adam(
        trained, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=device.type != "mps"
    )
    if model.frozen == "backbone":
        forward, batches = _from_features(model, preprocessing, train, recipe, precision, generator)
    else:
        forward, batches = model, _from_pixels(preprocessing, train, recipe, generator, device)
    rows = []
    bar = tqdm(
        range(1, recipe.epochs + 1),
        desc=recipe.name,
        unit="epoch",
        leave=False,
        disable=not progress,
    )
    for epoch in bar:
        model.train()
        loss_sum = right = 0.0
        for inputs, labels in batches():
            optimiser.zero_grad()
            with _autocast(device, precision):
                logits = forward(inputs)
            loss = functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimiser.step()
            loss_sum += loss.item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
        watched = _validate(model, preprocessing, validation, precision)
        # the last step of an epoch shows only in the validation
        if not np.isfinite(loss_sum + watched["validation_loss"]):
            raise BatikError(
                f"Recipe '{recipe.name}' diverged in epoch {epoch} (the loss is no longer a "
                f"number): use a smaller learning rate than {recipe.learning_rate}, or precision "
                f"'float32'."
            )
        row = {
            "epoch": epoch,
            "train_loss": loss_sum / len(train.labels),
            "train_accuracy": right / len(train.labels),
            **watched,
        }
        rows.append(row)
        bar.set_postfix(
            loss=f"{row['train_loss']:.3f}", validation=f"{row['validation_accuracy']:.0%}"
        )
        if on_epoch:
            on_epoch(row)
    return pd.DataFrame(rows, columns=list(HISTORY_COLUMNS))


@torch.inference_mode()
def predict(
    model: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    *,
    precision: str = "float32",
    batch_size: int = 64,
) -> np.ndarray:
    """Return class probabilities.

    Args:
        model: network to logits.
        preprocessing: what the network expects.
        pixels: uint8 tensor (N, 3, S, S).
        precision: as in `fit`.
        batch_size: pictures a pass.

    Returns:
        float64 array (N, K); rows sum to 1.
    """
    model.eval()
    device = next(model.parameters()).device
    prepare = EvalPreset(preprocessing)
    parts = []
    for batch in pixels.split(batch_size):
        with _autocast(device, precision):
            logits = model(prepare(batch.to(device)))
        parts.append(logits.double().softmax(1).cpu())
    return torch.cat(parts).numpy()


def seconds_since(start: float) -> float:
    """Return the seconds since a `time.perf_counter` reading, to a millisecond."""
    return round(time.perf_counter() - start, 3)


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    if precision not in PRECISIONS:
        raise BatikError(f"Unknown precision '{precision}': use one of {', '.join(PRECISIONS)}.")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _validate(
    model: Classifier, preprocessing: Preprocessing, validation: Examples, precision: str
) -> dict[str, float]:
    probabilities = torch.from_numpy(
        predict(model, preprocessing, validation.pixels, precision=precision)
    )
    labels = validation.labels
    return {
        "validation_loss": functional.nll_loss(probabilities.clamp_min(1e-12).log(), labels).item(),
        "validation_accuracy": (probabilities.argmax(1) == labels).double().mean().item(),
    }


def _from_pixels(
    preprocessing: Preprocessing,
    train: Examples,
    recipe: Recipe,
    generator: torch.Generator,
    device: torch.device,
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    augment = TrainPreset(preprocessing, recipe.flip)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(train.labels), generator=generator)
        for chosen in order.split(recipe.batch_size):
            inputs = augment(train.pixels[chosen].to(device), generator)
            yield inputs, train.labels[chosen].to(device)

    return batches


def _from_features(
    model: Classifier,
    preprocessing: Preprocessing,
    train: Examples,
    recipe: Recipe,
    precision: str,
    generator: torch.Generator,
) -> tuple[Callable[[Tensor], Tensor], Callable[[], Iterator[tuple[Tensor, Tensor]]]]:
    """Run a fixed backbone once on each picture and its mirror image; only the head is trained.

    The random numbers are drawn as in `_from_pixels`, so both ways learn from the same views.
    """
    device = next(model.parameters()).device
    prepare = EvalPreset(preprocessing)
    model.eval()

    def features_of(pixels: Tensor) -> Tensor:
        parts = []
        for batch in pixels.split(64):
            with _autocast(device, precision):
                parts.append(model.features(prepare(batch.to(device))).float())
        return torch.cat(parts)

    views = torch.stack([features_of(train.pixels), features_of(train.pixels.flip(-1))])

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(train.labels), generator=generator)
        for chosen in order.split(recipe.batch_size):
            mirrored = (torch.rand(len(chosen), generator=generator) < recipe.flip).long()
            yield views[mirrored.to(device), chosen.to(device)], train.labels[chosen].to(device)

    return model.head, batches


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
