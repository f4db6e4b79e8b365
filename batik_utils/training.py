"""Train a network and predict with it: seeded, one bar, metrics counted over pictures.

Introduced in notebook 02, section "Training".
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from batik_utils import linear
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.models import Classifier
from batik_utils.recipes import Recipe
from batik_utils.transforms import EvalPreset, TrainPreset

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("float32", "bfloat16")
#: Views that are drawn of each picture when a fixed backbone runs on augmented pictures.
AUGMENTED_VIEWS = 8
#: The same for a head in closed form, which also learns from the pictures as they are.
CHANGED_COPIES = 2
#: Share of the steps in which the schedule ``cosine`` warms up.
WARM_UP = 0.1
HISTORY_COLUMNS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "validation_loss",
    "validation_accuracy",
)


class Diverged(BatikError):
    """A training whose loss is no longer a number."""


class Examples(NamedTuple):
    """Pictures and their labels.

    Attributes:
        pixels: uint8 tensor (N, 3, S, S); (0, 3, S, S) where features take their place.
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
    validation: Examples | None,
    *,
    generator: torch.Generator,
    precision: str = "float32",
    progress: bool = True,
    on_epoch: Callable[[dict], None] | None = None,
    views: Tensor | None = None,
    watched: Tensor | None = None,
    fabric: "Fabric | None" = None,
) -> pd.DataFrame:
    """Train a network in place.

    Args:
        model: the network, on the device to train on.
        recipe: epochs, batch size, learning rate and so on.
        preprocessing: what the network expects.
        train: pictures to learn from, on the CPU.
        validation: pictures to watch; nothing is chosen by them. None for none: the history's
            validation columns are empty then.
        generator: order of pictures and augmentation; initial weights and dropout follow torch's
            global state (see `seeded`).
        precision: ``float32``, or ``bfloat16`` for mixed precision (weights stay float32).
        progress: show a bar over epochs with loss and validation accuracy.
        on_epoch: called with each history row, e.g. to stop a search early by raising.
        views: `views_of` the training pictures, where they are at hand already.
        watched: `features` (N, F) of the validation pictures of a network with a fixed backbone,
            where they are at hand already.
        fabric: what this process shares every batch with, where it is one of several; see
            `distributed.fit`. None for a process that trains alone.

    Returns:
        History, one row an epoch, with ``HISTORY_COLUMNS``; losses are mean cross-entropy (nats)
        over pictures, accuracies are shares of pictures. Training figures are gathered while the
        weights change, with dropout, augmentation and label smoothing on.

    Raises:
        Diverged: the loss is no longer a number.
        BatikError: no training pictures, or a setting of the recipe is wrong.
    """
    if not len(train.labels) or (validation is not None and not len(validation.labels)):
        raise BatikError("Training needs at least one training and one validation picture.")
    if recipe.schedule not in SCHEDULES:
        raise BatikError(
            f"Unknown schedule '{recipe.schedule}' in recipe '{recipe.name}': use one of "
            f"{', '.join(SCHEDULES)}."
        )
    if not 0 <= recipe.label_smoothing < 1:
        raise BatikError(
            f"The label smoothing must be at least 0 and below 1, not {recipe.label_smoothing}."
        )
    n_processes = 1 if fabric is None else fabric.world_size
    last_batch = (len(train.labels) % recipe.batch_size or recipe.batch_size) // n_processes
    if not last_batch:
        raise BatikError(
            f"The last batch has fewer pictures than there are processes ({n_processes}): "
            f"{len(train.labels)} training pictures with batch size {recipe.batch_size}. Use "
            f"another batch size, or fewer devices."
        )
    if last_batch == 1 and _has_batch_norm(model.head):
        raise BatikError(
            f"A last batch of one picture would break batch norm: {len(train.labels)} training "
            f"pictures with batch size {recipe.batch_size}. Use another batch size."
        )
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    if recipe.ridge:
        if views is None:
            views = views_of(model, preprocessing, train.pixels, recipe, generator, precision)
        row = {"epoch": 1} | _fit_discriminant(model, recipe, views, train.labels)
        row |= _validate(model, preprocessing, validation, precision, watched)
        if on_epoch:
            on_epoch(row)
        return pd.DataFrame([row], columns=list(HISTORY_COLUMNS))
    trained = [p for p in model.parameters() if p.requires_grad]
    # a rate of 0 is a published mistake that is repeated on purpose; see recipes.py
    optimiser = torch.optim.Adam(
        trained, recipe.learning_rate, weight_decay=recipe.weight_decay, fused=device.type != "mps"
    )
    if model.frozen == "backbone":
        if views is None:
            views = views_of(model, preprocessing, train.pixels, recipe, generator, precision)
        forward, batches = model.head, _from_views(views, train.labels, recipe, generator)
    else:
        forward, batches = model, _from_pixels(preprocessing, train, recipe, generator, device)
    if fabric is not None:
        forward, optimiser = fabric.setup(forward, optimiser)
    rows = []
    step, n_steps = 0, recipe.epochs * math.ceil(len(train.labels) / recipe.batch_size)
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
            for group in optimiser.param_groups:
                group["lr"] = recipe.learning_rate * SCHEDULES[recipe.schedule](step / n_steps)
            step += 1
            optimiser.zero_grad()
            n_batch = len(labels)
            if fabric is not None:
                mine = slice(fabric.global_rank, None, n_processes)
                inputs, labels = inputs[mine], labels[mine]
            with _autocast(device, precision):
                logits = forward(inputs)
            loss = functional.cross_entropy(
                logits.float(), labels, label_smoothing=recipe.label_smoothing
            )
            if fabric is None:
                loss.backward()
            else:
                # gradients are averaged over processes, whose parts may differ by one picture
                fabric.backward(loss * (len(labels) * n_processes / n_batch))
            optimiser.step()
            loss_sum += loss.item() * len(labels)
            right += (logits.argmax(1) == labels).sum().item()
        scores = _validate(model, preprocessing, validation, precision, watched)
        if fabric is not None:
            sums = torch.tensor([loss_sum, right], dtype=torch.float64, device=device)
            loss_sum, right = fabric.all_reduce(sums, reduce_op="sum").tolist()
            scores = fabric.broadcast(scores)
        # the last step of an epoch shows only in the validation
        losses = [loss_sum] if validation is None else [loss_sum, scores["validation_loss"]]
        if not np.isfinite(losses).all():
            raise Diverged(
                f"Recipe '{recipe.name}' diverged in epoch {epoch} (the loss is no longer a "
                f"number): use a smaller learning rate than {recipe.learning_rate}, or precision "
                f"'float32'."
            )
        row = {
            "epoch": epoch,
            "train_loss": loss_sum / len(train.labels),
            "train_accuracy": right / len(train.labels),
            **scores,
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


@torch.inference_mode()
def predict_head(model: Classifier, features: Tensor, *, precision: str = "float32") -> np.ndarray:
    """Return class probabilities (N, K) from `features` (N, F); see `predict`."""
    model.eval()
    with _autocast(features.device, precision):
        logits = model.head(features)
    return logits.double().softmax(1).cpu().numpy()


def features(
    model: Classifier,
    preprocessing: Preprocessing,
    pixels: Tensor,
    *,
    precision: str = "float32",
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the backbone's features in evaluation mode.

    Args:
        model: the network.
        preprocessing: what the network expects.
        pixels: uint8 tensor (N, 3, S, S).
        precision: as in `fit`.
        prepare: in place of `EvalPreset`: a batch of pixels to the network's input.

    Returns:
        float32 tensor (N, F), on the network's device.
    """
    model.eval()
    device = next(model.parameters()).device
    prepare = prepare or EvalPreset(preprocessing)
    parts = []
    for batch in pixels.split(64):
        with torch.no_grad(), _autocast(device, precision):
            parts.append(model.features(prepare(batch.to(device))).float())
    return torch.cat(parts)


def views_of(
    model: Classifier,
    preprocessing: Preprocessing,
    pixels: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    precision: str = "float32",
) -> Tensor:
    """Run a fixed backbone once on every view of each picture that its head will learn from.

    Without augmentation these are the picture and its mirror image, so that the head learns
    exactly what it would learn from pixels. With augmentation there are ``AUGMENTED_VIEWS`` views,
    drawn beforehand: fewer than fresh ones in every epoch would be, at a fraction of the cost.
    A head in closed form learns from the picture as it is and ``CHANGED_COPIES`` such views.

    Args:
        model: network with ``frozen="backbone"``.
        preprocessing: what the network expects.
        pixels: uint8 tensor (N, 3, S, S).
        recipe: gives ``flip`` and ``augment``.
        generator: what the views are drawn by.
        precision: as in `fit`.

    Returns:
        float32 tensor (V, N, F), on the network's device.
    """
    if not recipe.augment:
        both = (pixels, pixels.flip(-1))
        return torch.stack([features(model, preprocessing, p, precision=precision) for p in both])
    augment = TrainPreset(preprocessing, recipe.flip, recipe.augment)
    plain = [features(model, preprocessing, pixels, precision=precision)] if recipe.ridge else []
    drawn = [
        features(
            model,
            preprocessing,
            pixels,
            precision=precision,
            prepare=lambda batch: augment(batch, generator),
        )
        for _ in range(n_views(recipe) - len(plain))
    ]
    return torch.stack(plain + drawn)


def n_views(recipe: Recipe) -> int:
    """Return V of `views_of`."""
    if not recipe.augment:
        return 2
    return 1 + CHANGED_COPIES if recipe.ridge else AUGMENTED_VIEWS


def _fit_discriminant(
    model: Classifier, recipe: Recipe, views: Tensor, labels: Tensor
) -> dict[str, float]:
    """Fit a linear head in closed form, see `linear.fit`; return how well it knows the views.

    Args:
        model: a fixed backbone and one linear layer.
        recipe: gives the ridge.
        views: (V, N, F), the pictures as they are first.
        labels: (N,).

    Raises:
        BatikError: the backbone learns, the head is no linear layer, or a motif has no picture.
    """
    if model.frozen != "backbone" or not isinstance(model.head, nn.Linear):
        raise BatikError(
            f"Recipe '{recipe.name}' asks for a head in closed form (ridge {recipe.ridge}): that "
            f"needs frozen='backbone' and a head that is one linear layer."
        )
    rows = views.cpu().double().numpy()
    scaler = linear.Scaler.of(rows[0])
    known = labels.repeat(len(rows))
    head = linear.Head("lda", recipe.ridge)
    fitted = linear.fit(rows.reshape(len(known), -1), known.numpy(), head, scaler)
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(fitted.weight.T))
        model.head.bias.copy_(torch.from_numpy(fitted.bias))
        logits = model.head(views.flatten(0, 1)).cpu()
    return {
        "train_loss": functional.cross_entropy(logits, known).item(),
        "train_accuracy": (logits.argmax(1) == known).double().mean().item(),
    }


def seconds_since(start: float) -> float:
    """Return the seconds since a `time.perf_counter` reading, in milliseconds, at least one."""
    return max(0.001, round(time.perf_counter() - start, 3))


def _cosine(progress: float) -> float:
    """Rise in a straight line, then fall to 0 along half a cosine.

    Sources: Loshchilov and Hutter, SGDR, 2017 (https://arxiv.org/abs/1608.03983); Goyal et al.,
    2017 (https://arxiv.org/abs/1706.02677) for the warm-up.
    """
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


#: From the share of the steps that are done, 0 to below 1, to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": _cosine,
}


def _autocast(device: torch.device, precision: str) -> torch.autocast:
    if precision not in PRECISIONS:
        raise BatikError(f"Unknown precision '{precision}': use one of {', '.join(PRECISIONS)}.")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _validate(
    model: Classifier,
    preprocessing: Preprocessing,
    validation: Examples | None,
    precision: str,
    watched: Tensor | None = None,
) -> dict[str, float]:
    if validation is None:
        return {"validation_loss": math.nan, "validation_accuracy": math.nan}
    if watched is None:
        given = predict(model, preprocessing, validation.pixels, precision=precision)
    else:
        given = predict_head(model, watched, precision=precision)
    probabilities, labels = torch.from_numpy(given), validation.labels
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
    augment = TrainPreset(preprocessing, recipe.flip, recipe.augment)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(train.labels), generator=generator)
        for chosen in order.split(recipe.batch_size):
            inputs = augment(train.pixels[chosen].to(device), generator)
            yield inputs, train.labels[chosen].to(device)

    return batches


def _from_views(
    views: Tensor, labels: Tensor, recipe: Recipe, generator: torch.Generator
) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
    """Serve one view of each picture an epoch; without augmentation as `_from_pixels` draws it."""

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(labels), generator=generator)
        for chosen in order.split(recipe.batch_size):
            if recipe.augment:
                view = torch.randint(len(views), (len(chosen),), generator=generator)
            else:
                view = (torch.rand(len(chosen), generator=generator) < recipe.flip).long()
            chosen = chosen.to(views.device)
            yield views[view.to(views.device), chosen], labels.to(views.device)[chosen]

    return batches


def _has_batch_norm(module: nn.Module) -> bool:
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in module.modules())
