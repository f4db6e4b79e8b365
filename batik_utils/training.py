"""The training loop: one step, one pass of evaluation, and both repeated over epochs.

>>> batches = training.batches(examples, recipe, preprocessing, generator)
>>> history = training.fit(model, recipe, batches)

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
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.images import cache
from batik_utils.images.resize import Preprocessing
from batik_utils.recipes import Recipe

PRECISIONS = ("float32", "bfloat16")
HISTORY_COLUMNS = (
    *("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy"),
)
#: Views of each picture from which the head of a frozen backbone learns, if pictures are augmented.
AUGMENTED_VIEWS = 8
#: Share of the steps in which the schedule ``cosine`` warms up.
WARM_UP = 0.1


class Diverged(BatikError):
    """A training whose loss is no longer a number."""


class Examples(NamedTuple):
    """Pixels, uint8 (N, 3, S, S), or features, and class indices, int64 (N,)."""

    pixels: Tensor
    labels: Tensor


def choose_device(name: str = "auto") -> torch.device:
    """Return ``cpu``, ``mps``, ``cuda`` or ``cuda:1``, or for ``auto`` a GPU where there is one."""
    there = {"cuda": torch.cuda.device_count(), "mps": int(torch.mps.is_available()), "cpu": 1}
    if name == "auto":
        return torch.device(next(kind for kind in there if there[kind]))
    kind, _, number = name.partition(":")
    if kind not in there or (number and not number.isdigit()):
        raise BatikError(f"Unknown device '{name}': choose auto, cpu, cuda, cuda:1 or mps.")
    if int(number or 0) >= there[kind]:
        raise BatikError(f"No device {name} here: use device 'auto' or 'cpu'.")
    return torch.device(name)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[torch.Generator]:
    """Seed torch's global state (initial weights, dropout) and a generator; restore it after."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield torch.Generator().manual_seed(seed)


@dataclass
class Batches:
    """Inputs and labels a batch at a time, like a ``DataLoader``; shuffled with a generator."""

    inputs: Tensor
    labels: Tensor
    size: int
    prepare: Callable[[Tensor], Tensor]
    device: torch.device
    generator: torch.Generator | None = None

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=self.generator) if self.generator else torch.arange(n)
        for chosen in order.split(self.sizes):
            inputs = self.inputs[chosen.to(self.inputs.device)].to(self.device)
            yield self.prepare(inputs), self.labels[chosen].to(self.device)

    @property
    def sizes(self) -> list[int]:
        """Number of inputs in each batch; a last one alone joins the batch before it."""
        whole, rest = divmod(len(self.labels), self.size)
        if rest == 1 and whole:  # batch norm cannot do with one
            return [self.size] * (whole - 1) + [self.size + 1]
        return [self.size] * whole + [rest] * (rest > 0)


def _normaliser(preprocessing: Preprocessing | None) -> Callable[[Tensor], Tensor]:
    if preprocessing is None:
        return nn.Identity()
    return partial(transforms.normalise, preprocessing=preprocessing)


def batches(
    examples: Examples,
    recipe: Recipe,
    preprocessing: Preprocessing | None,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> Batches:
    """Return batches of pictures, augmented with a generator.

    Without preprocessing, of features (N, F); with a generator one view of each in (N, V, F).
    """
    if generator is None:
        return Batches(*examples, 64, _normaliser(preprocessing), torch.device(device))
    prepare = partial(_draw_views, recipe=recipe, generator=generator)
    if preprocessing:
        given = {"preprocessing": preprocessing, "recipe": recipe, "generator": generator}
        prepare = partial(transforms.augment, **given)
    return Batches(*examples, recipe.batch_size, prepare, torch.device(device), generator)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of a forward pass in float32 or mixed precision."""
    if precision not in PRECISIONS:
        raise BatikError(f"Unknown precision '{precision}': use one of {', '.join(PRECISIONS)}.")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


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


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], precision: str = "float32"
) -> tuple[float, float]:
    """Return mean loss (nats) and accuracy over all pictures, in evaluation mode."""
    model.eval()
    loss_sum = right = total = 0
    for batch, labels in batches:
        with autocast(batch.device, precision):
            logits = model(batch).double()
        loss_sum += functional.cross_entropy(logits, labels, reduction="sum").item()
        right += int((logits.argmax(1) == labels).sum())
        total += len(labels)
    return loss_sum / total, right / total


def cosine(progress: float) -> float:
    """Return a factor that rises in a straight line, then falls to 0 along half a cosine."""
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


#: From the share of the steps that are done to a factor of the learning rate.
SCHEDULES: dict[str, Callable[[float], float]] = {"constant": lambda _: 1.0, "cosine": cosine}


def adam(model: nn.Module, recipe: Recipe) -> torch.optim.Adam:
    """Return Adam over the parameters that are trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    settings = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    return torch.optim.Adam(trained, **settings, fused=trained[0].device.type != "mps")


def fit(
    model: nn.Module,
    recipe: Recipe,
    train: Batches,
    validation: Batches | None = None,
    *,
    precision: str = "float32",
    optimiser: torch.optim.Optimizer | None = None,
    step: Callable[..., tuple[float, int]] = train_step,
) -> pd.DataFrame:
    """Train a network, or a head with batches of features, in place.

    Returns ``HISTORY_COLUMNS`` of each epoch: means over pictures, NaN without ``validation``; in
    training they are gathered while the weights change. Raises `Diverged`.
    """
    optimiser = optimiser or adam(model, recipe)
    n, n_steps = len(train.labels), recipe.epochs * len(train.sizes)
    rate = SCHEDULES[recipe.schedule]
    schedule = LambdaLR(optimiser, lambda k: rate(k / n_steps))
    settings = {"label_smoothing": recipe.label_smoothing, "precision": precision}
    rows = []
    for epoch in tqdm(range(1, recipe.epochs + 1), desc=recipe.name, unit="epoch", leave=False):
        model.train()
        loss_sum = right = 0.0
        for batch, labels in train:
            loss, correct = step(model, batch, labels, optimiser, **settings)
            schedule.step()
            loss_sum, right = loss_sum + loss, right + correct
        found = evaluate(model, validation, precision) if validation else (math.nan, math.nan)
        # the last step of an epoch shows only in the validation
        if not math.isfinite(loss_sum + (found[0] if validation else 0.0)):
            raise Diverged(
                f"Recipe '{recipe.name}' diverged in epoch {epoch}: the loss is not finite. "
                f"Give it a smaller learning rate than {recipe.learning_rate}."
            )
        rows.append((epoch, loss_sum / n, right / n, *found))
    return pd.DataFrame(rows, columns=list(HISTORY_COLUMNS))


def predict(
    model: nn.Module, preprocessing: Preprocessing | None, inputs: Tensor, precision="float32"
) -> np.ndarray:
    """Return class probabilities, float64 (N, K); without preprocessing, of features."""
    logits = _run(model, _normaliser(preprocessing), inputs, precision)
    return logits.double().softmax(1).cpu().numpy()


def features(
    model: nn.Module, preprocessing: Preprocessing, pixels: Tensor, precision: str = "float32"
) -> Tensor:
    """Return the features (N, F) of a network's backbone."""
    return _run(model.backbone, _normaliser(preprocessing), pixels, precision).float()


@torch.no_grad()
def _run(model, prepare, inputs: Tensor, precision: str) -> Tensor:
    device = next(model.eval().parameters()).device
    with autocast(device, precision):
        return torch.cat([model(prepare(part.to(device))) for part in inputs.split(64)])


def is_augmented(recipe: Recipe) -> bool:
    """Return whether pictures are changed at random in training, beyond mirroring."""
    return bool(recipe.augment or recipe.extra)


def views_of(
    model: nn.Module,
    preprocessing: Preprocessing,
    pixels: Tensor,
    recipe: Recipe,
    generator: torch.Generator,
    precision: str = "float32",
) -> Tensor:
    """Return a frozen backbone's features (V, N, F) of every view from which its head learns.

    Without augmentation the picture and its mirror image, as from pixels; else views drawn before.
    """
    plain, given = _normaliser(preprocessing), {"recipe": recipe, "generator": generator}
    drawn = partial(transforms.augment, preprocessing=preprocessing, **given)
    views = [(plain, pixels), (plain, pixels.flip(-1))]
    if is_augmented(recipe):
        views = [(drawn, pixels)] * AUGMENTED_VIEWS
    return torch.stack([_run(model.backbone, *view, precision).float() for view in views])


def cached_views(
    model: nn.Module,
    preprocessing: Preprocessing,
    dataset: Dataset,
    pixels: Tensor,
    recipe: Recipe,
    seed: int = 0,
    precision: str = "float32",
) -> Tensor:
    """Return `views_of` all pictures of a data set, drawn by the seed, from the cache folder."""
    drawn = (recipe.augment, recipe.extra, recipe.flip, seed)
    device, weights = next(model.parameters()).device, model.backbone.state_dict().values()
    parts = (
        f"views {drawn if is_augmented(recipe) else ''} {recipe.architecture} {precision}",
        f"{device.type} {preprocessing} torch {torch.__version__}",
        *(tensor.cpu().contiguous().numpy().tobytes() for tensor in weights),
        *transforms.what_gives_pixels(dataset, preprocessing),
    )

    def rows() -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        found = views_of(model, preprocessing, pixels, recipe, generator, precision)
        return found.transpose(0, 1).cpu().numpy()

    found = cache.cached("features", parts, len(dataset.labels), rows)
    return torch.from_numpy(found).to(device).transpose(0, 1)


def _draw_views(views: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    n, number = len(views), views.shape[1]
    if is_augmented(recipe):
        chosen = torch.randint(number, (n,), generator=generator)
    else:
        chosen = (torch.rand(n, generator=generator) < recipe.flip).long()
    return views[torch.arange(n), chosen.to(views.device)]
