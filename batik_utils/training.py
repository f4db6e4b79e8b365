"""The training loop: one step, one pass of evaluation, and both repeated over epochs.

    >>> from batik_utils import training
    >>> with training.seeded(0) as generator:
    ...     model, _ = models.build(recipe, n_classes=3)
    ...     batches = training.batches(pixels, labels, recipe, preprocessing, generator)
    ...     history = training.fit(model, recipe, batches)

Introduced in notebook 02, section "Training".
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.lr_scheduler import LambdaLR
from tqdm.auto import tqdm

from batik_utils import transforms
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.recipes import Recipe

PRECISIONS = ("float32", "bfloat16")
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
    """Pixels, uint8 (N, 3, S, S), and their class indices, int64 (N,)."""

    pixels: Tensor
    labels: Tensor


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on: ``auto`` is a GPU where there is one.

    Raises:
        BatikError: unknown name, or a GPU that is not there.
    """
    kind, _, number = name.partition(":")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.mps.is_available())}
    if name == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if there[d]))
    if kind not in there or (number and not number.isdigit()):
        raise BatikError(f"Unknown device '{name}': choose auto, cpu, cuda, cuda:1 or mps.")
    if int(number or 0) >= there[kind]:
        raise BatikError(f"No device {name} here: use device 'auto' or 'cpu'.")
    return torch.device(name)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Make everything random inside depend on the seed, and nothing outside.

    Yields a generator for what takes one. Torch's global state (initial weights, dropout) is seeded
    too, and restored afterwards.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


@dataclass
class Batches:
    """Inputs (N, ...) and labels (N,) a batch at a time, like a ``DataLoader`` on tensors.

    With a ``generator`` each pass has a random order of its own; without, the order of the inputs.
    """

    inputs: Tensor
    labels: Tensor
    size: int
    prepare: Callable[[Tensor], Tensor]
    device: torch.device
    generator: torch.Generator | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=self.generator) if self.generator else torch.arange(n)
        for chosen in order.split(self.size):
            inputs = self.inputs[chosen.to(self.inputs.device)].to(self.device)
            yield self.prepare(inputs), self.labels[chosen].to(self.device)

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / self.size)


def batches(
    examples: Examples,
    recipe: Recipe,
    preprocessing: Preprocessing,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Batches:
    """Return a recipe's batches: with a generator shuffled and augmented, else as they are."""
    if generator is None:
        prepare = partial(transforms.normalise, preprocessing=preprocessing)
        return Batches(*examples, 64, prepare, torch.device(device))
    settings = {"preprocessing": preprocessing, "recipe": recipe, "generator": generator}
    prepare = partial(transforms.augment, **settings)
    return Batches(*examples, recipe.batch_size, prepare, torch.device(device), generator)


def train_step(
    model: nn.Module,
    batch: Tensor,
    labels: Tensor,
    optimiser: torch.optim.Optimizer,
    *,
    label_smoothing: float = 0.0,
    precision: str = "float32",
) -> tuple[float, int]:
    """Take one step of gradient descent; return the summed loss (nats) and the number right."""
    with autocast(batch.device, precision):
        logits = model(batch)
    loss = functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item() * len(labels), int((logits.argmax(1) == labels).sum())


def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "float32"
) -> tuple[float, float]:
    """Return mean loss (nats) and accuracy over all pictures, in evaluation mode."""
    model.eval()
    loss_sum = right = total = 0
    with torch.inference_mode():
        for batch, labels in batches:
            with autocast(batch.device, precision):
                logits = model(batch).double()
            loss_sum += functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
            total += len(labels)
    return loss_sum / total, right / total


def adam(model: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Return Adam over the parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    # fused: all parameters in one pass; a rate of 0 is a published mistake, see recipes.py
    return torch.optim.Adam(
        trained,
        recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=trained[0].device.type != "mps",
    )


def fit(
    model: nn.Module,
    recipe: Recipe,
    train: Batches,
    validation: Batches | None = None,
    *,
    precision: str = "float32",
    on_epoch: Callable[[dict], None] | None = None,
    optimiser: torch.optim.Optimizer | None = None,
    step: Callable[..., tuple[float, int]] = train_step,
) -> pd.DataFrame:
    """Train a network in place; nothing is chosen by the validation pictures.

    Args:
        model: the network, or a head with batches of features.
        recipe: epochs, rate, schedule and label smoothing.
        train: batches to learn from.
        validation: batches to evaluate after each epoch; None leaves these columns empty.
        precision: ``float32``, or ``bfloat16`` for mixed precision.
        on_epoch: called with each row of the history; may raise, to stop early.
        optimiser: in place of `adam`.
        step: in place of `train_step`.

    Returns:
        One row an epoch with ``HISTORY_COLUMNS``: means over pictures. Training figures are
        gathered while the weights change, with dropout, augmentation and label smoothing on.

    Raises:
        Diverged: the loss is no longer a number.
        BatikError: no pictures, or a setting of the recipe is wrong.
    """
    _check(model, recipe, train, validation)
    optimiser = optimiser or adam(model, recipe)
    n, n_steps = len(train.labels), recipe.epochs * len(train)
    rate = SCHEDULES[recipe.schedule]
    schedule = LambdaLR(optimiser, lambda k: rate(k / n_steps))
    rows = []
    bar = tqdm(range(1, recipe.epochs + 1), desc=recipe.name, unit="epoch", leave=False)
    for epoch in bar:
        model.train()
        loss_sum = right = 0.0
        for batch, labels in train:
            loss, correct = step(
                model,
                batch,
                labels,
                optimiser,
                label_smoothing=recipe.label_smoothing,
                precision=precision,
            )
            schedule.step()
            loss_sum, right = loss_sum + loss, right + correct
        found = (
            evaluate(model, validation, precision)
            if validation is not None
            else (math.nan, math.nan)
        )
        # the last step of an epoch shows only in the validation
        if not math.isfinite(loss_sum) or (validation is not None and not math.isfinite(found[0])):
            raise Diverged(
                f"Recipe '{recipe.name}' diverged in epoch {epoch} (the loss is no longer a "
                f"number): use a smaller learning rate than {recipe.learning_rate}, or precision "
                f"'float32'."
            )
        values = (epoch, loss_sum / n, right / n, *found)
        rows.append(dict(zip(HISTORY_COLUMNS, values, strict=True)))
        bar.set_postfix(loss=f"{loss_sum / n:.3f}", validation=f"{found[1]:.0%}")
        if on_epoch:
            on_epoch(rows[-1])
    return pd.DataFrame(rows, columns=list(HISTORY_COLUMNS))


def predict(
    model: nn.Module,
    preprocessing: Preprocessing | None,
    inputs: Tensor,
    *,
    precision: str = "float32",
) -> np.ndarray:
    """Return class probabilities, float64 (N, K), in evaluation mode.

    ``inputs`` are pixels, uint8 (N, 3, S, S); without ``preprocessing`` they go to the model as
    they are.
    """
    logits = _run(model, preprocessing, inputs, precision)
    return logits.double().softmax(1).cpu().numpy()


def features(
    model: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    *,
    precision: str = "float32",
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Return the features (N, F) of a network's backbone in evaluation mode, on its device.

    ``prepare`` turns pixels into the network's input in place of `transforms.normalise`.
    """
    return _run(model.eval().backbone, preprocessing, pixels, precision, prepare).float()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a forward pass in float32 or mixed precision.

    Raises:
        BatikError: unknown precision.
    """
    if precision not in PRECISIONS:
        raise BatikError(f"Unknown precision '{precision}': use one of {', '.join(PRECISIONS)}.")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def _run(model, preprocessing, inputs, precision, prepare=None) -> Tensor:
    model.eval()
    device = next(model.parameters()).device
    if prepare is None and preprocessing is not None:
        prepare = partial(transforms.normalise, preprocessing=preprocessing)
    parts = []
    with torch.no_grad(), autocast(device, precision):
        for part in inputs.split(64):
            part = part.to(device)
            parts.append(model(prepare(part) if prepare else part))
    return torch.cat(parts)


def cosine(progress: float) -> float:
    """Return a factor that rises in a straight line, then falls to 0 along half a cosine.

    Sources: Loshchilov and Hutter, SGDR, 2017 (https://arxiv.org/abs/1608.03983); Goyal et al.,
    2017 (https://arxiv.org/abs/1706.02677) for the warm-up.
    """
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


#: From the share of the steps that are done to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "cosine": cosine,
}


def _check(model: nn.Module, recipe: Recipe, train: Batches, validation: Batches | None) -> None:
    n = len(train.labels)
    if not n or (validation is not None and not len(validation.labels)):
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
    head = getattr(model, "head", model)
    normed = any(isinstance(module, nn.BatchNorm1d) for module in head.modules())
    if normed and (n % train.size or train.size) == 1:
        raise BatikError(
            f"A last batch of one picture would break batch norm: {n} training pictures with batch "
            f"size {train.size}. Use another batch size."
        )
