"""The work of the published training loop, plainly: the slow side of `bench`, and its yardstick.

    >>> from batik_utils.scale import published
    >>> losses = published.fit(model, recipe, preprocessing, dataset, train, generator=generator)

The published notebook gives a ``DataLoader`` a folder of photographs: every epoch opens each file
again, decodes it in full, squashes it, mirrors it by chance and normalises it, one picture at a
time. Every batch goes through the whole network, whether its backbone is frozen or not, in torch's
usual memory layout with torch's usual Adam. This is written anew from that description; no line
is copied. With the same seed it gives the losses of `engine.fit` (tested), so the two can be timed
against each other.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.images import files
from batik_utils.images.resize import Preprocessing, to_pixels
from batik_utils.recipes import Recipe


def open_one(path: Path, preprocessing: Preprocessing, *, mirrored: bool = False) -> Tensor:
    """Decode one file, squash, mirror and normalise it: float32 (3, S, S)."""
    pixels = to_pixels(files.open_image(path), preprocessing.size, preprocessing.interpolation)
    if mirrored:
        pixels = np.ascontiguousarray(pixels[:, :, ::-1])
    mean = torch.tensor(preprocessing.mean).view(3, 1, 1)
    std = torch.tensor(preprocessing.std).view(3, 1, 1)
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


def fit(
    model: nn.Module,
    recipe: Recipe,
    preprocessing: Preprocessing,
    dataset: Dataset,
    train: Sequence[int],
    validation: Sequence[int] = (),
    *,
    generator: torch.Generator,
    epochs: int = 0,
) -> list[dict[str, float]]:
    """Train a network in place, as slowly as it was published.

    Args:
        model: the network, on the CPU.
        recipe: batch size, learning rate and so on; without augmentation or schedule, which the
            published loop does not have.
        preprocessing: what the network expects.
        dataset: where the files are.
        train: positions in the manifest of the pictures to learn from.
        validation: of those to watch after each epoch.
        generator: order and mirrors, drawn as `engine.fit` draws them.
        epochs: 0 for as many as the recipe says.

    Returns:
        One row an epoch: ``train_loss`` and, with validation pictures, ``validation_loss``; mean
        cross-entropy (nats) over pictures.

    Raises:
        BatikError: a recipe that the published loop cannot do.
    """
    if recipe.augment or recipe.schedule != "constant" or recipe.label_smoothing:
        raise BatikError(
            f"The published loop knows no augmentation, schedule or label smoothing, which "
            f"'{recipe.name}' has: choose a recipe as published."
        )
    paths, labels = dataset.paths, torch.tensor(dataset.labels)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.Adam(trained, recipe.learning_rate, weight_decay=recipe.weight_decay)
    rows = []
    for _ in range(epochs or recipe.epochs):
        model.train()
        loss_sum = 0.0
        order = torch.tensor(train)[torch.randperm(len(train), generator=generator)]
        for chosen in order.split(recipe.batch_size):
            mirrored = torch.rand(len(chosen), generator=generator) < recipe.flip
            batch = torch.stack(
                [
                    open_one(paths[i], preprocessing, mirrored=bool(m))
                    for i, m in zip(chosen.tolist(), mirrored, strict=True)
                ]
            )
            optimiser.zero_grad()
            loss = functional.cross_entropy(model(batch), labels[chosen])
            loss.backward()
            optimiser.step()
            loss_sum += loss.item() * len(chosen)
        row = {"train_loss": loss_sum / len(train)}
        if len(validation):
            row["validation_loss"] = _watch(model, recipe, preprocessing, dataset, validation)
        rows.append(row)
    return rows


def _watch(
    model: nn.Module,
    recipe: Recipe,
    preprocessing: Preprocessing,
    dataset: Dataset,
    validation: Sequence[int],
) -> float:
    """Return the mean loss of pictures, which are opened again too."""
    model.eval()
    labels, loss_sum = torch.tensor(dataset.labels), 0.0
    with torch.no_grad():
        for chosen in torch.tensor(validation).split(recipe.batch_size):
            batch = torch.stack([open_one(dataset.paths[i], preprocessing) for i in chosen])
            losses = functional.cross_entropy(model(batch), labels[chosen], reduction="sum")
            loss_sum += losses.item()
    return loss_sum / len(validation)
