"""The last block of the frozen network learns on, from the linear classifier: does it help?

Run it::

    python -m batik_utils ablate finetune --data folder --root path/to/indonesian-batik-motifs

Everything before the last block stays frozen, so its maps are computed once. In each fold the head
starts as the linear discriminant on the frozen features (linear probing, then fine-tuning: Kumar et
al., 2022, https://arxiv.org/abs/2202.10054), then block 7 and head are trained with small steps.
Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) mix the maps that go into the block, not
the pictures. A step of `batik_utils.ablation`.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from batik_utils import calibration, embedding, linear
from batik_utils.ablation import Trial, row
from batik_utils.data import Dataset
from batik_utils.embedding import Branch
from batik_utils.errors import BatikError
from batik_utils.linear import Head

#: Backbone and places of the set ``efficientnet_lite0/three``; the last piece is trained.
BRANCH = Branch("efficientnet_lite0", (3, 5, 6))
MIXES = ("plain", "mixup", "cutmix")
COPIES = 2


@dataclass(frozen=True)
class Settings:
    """How the last block is trained.

    Attributes:
        mix: of `MIXES`.
        rate: AdamW's step size; of the head a tenth of it, since its numbers are small.
        epochs: each shows every picture once, as it is or as one of its copies, by chance.
        batch: pictures a step.
        alpha: of the Beta distribution that mixing shares come from.
    """

    mix: str = "plain"
    rate: float = 2e-4
    epochs: int = 8
    batch: int = 15
    alpha: float = 0.4

    def __post_init__(self):
        if self.mix not in MIXES:
            raise BatikError(f"There is no mix '{self.mix}': use one of {', '.join(MIXES)}.")


def mixed(
    maps: Tensor, early: Tensor, targets: Tensor, settings: Settings, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return maps (N, C, H, W), early features (N, E) and targets (N, K) of mixed pictures.

    CutMix gives early features, which have no place, the share of the area.
    """
    if settings.mix == "plain":
        return maps, early, targets
    order = torch.from_numpy(rng.permutation(len(maps)))
    share = float(rng.beta(settings.alpha, settings.alpha))
    if settings.mix == "mixup":
        maps = share * maps + (1 - share) * maps[order]
    else:
        height, width = maps.shape[2:]
        tall, wide = (max(1, round(s * np.sqrt(1 - share))) for s in (height, width))
        top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
        maps = maps.clone()
        window = (..., slice(top, top + tall), slice(left, left + wide))
        maps[window] = maps[order][window]
        share = 1 - tall * wide / (height * width)
    return (
        maps,
        share * early + (1 - share) * early[order],
        share * targets + (1 - share) * targets[order],
    )


def features(block: nn.Module, maps: Tensor, early: Tensor) -> Tensor:
    """Return (N, F): features before the block, then mean and deviation of the block's maps."""
    x = block(maps)
    mean = x.mean((2, 3))
    variance = (x - mean[:, :, None, None]).square().mean((2, 3))
    return torch.cat([early, mean, (variance + 1e-6).sqrt()], 1)


def tune(
    block: nn.Module,
    head: nn.Linear,
    maps: Sequence[Tensor],
    early: Sequence[Tensor],
    labels: np.ndarray,
    scaler: tuple[Tensor, Tensor],
    settings: Settings,
    seed: int,
) -> None:
    """Train block and head in place.

    Args:
        block: in evaluation mode (its batch norm keeps ImageNet's averages).
        head: on scaled features.
        maps: of the pictures and of each copy, (N, C, H, W), what goes into the block.
        early: likewise (N, E).
        labels: (N,).
        scaler: mean and scale of the features.
        settings: how.
        seed: of the order, the copies and the mixing.
    """
    rng = np.random.default_rng(seed)
    n, k = len(labels), head.out_features
    onehot = torch.eye(k)[torch.from_numpy(labels)]
    block.requires_grad_(True)
    optimiser = torch.optim.AdamW(
        [
            {"params": block.parameters(), "lr": settings.rate},
            {"params": head.parameters(), "lr": settings.rate / 10},
        ],
        weight_decay=0.01,
    )
    steps = settings.epochs * -(-n // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(settings.epochs):
        order, version = rng.permutation(n), rng.integers(len(maps), size=n)
        for start in range(0, n, settings.batch):
            chosen = order[start : start + settings.batch]
            x = torch.stack([maps[version[i]][i] for i in chosen]).float()
            e = torch.stack([early[version[i]][i] for i in chosen])
            x, e, target = mixed(x, e, onehot[chosen], settings, rng)
            values = (features(block, x, e) - scaler[0]) / scaler[1]
            loss = functional.cross_entropy(head(values), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()


def rows(
    trial: Trial, dataset: Dataset, weights_directory: str | None, *, progress: bool = True
) -> Iterator[dict]:
    """Yield rows of ``ablation.csv``: frozen, and tuned with each mix, in the first repeat's folds.

    Args:
        trial: what steps work on.
        dataset: its pictures.
        weights_directory: folder to look for pretrained weights first.
        progress: show bars.
    """
    network = embedding.build([BRANCH], weights_directory)
    frozen, block = network.branches[0], network.branches[0].pieces[-1]
    kept = [
        _before_the_block(frozen, dataset, copy, progress=progress) for copy in range(COPIES + 1)
    ]
    maps, early = [m for m, _ in kept], [e for _, e in kept]
    labels, fold_of = trial.material.labels, trial.fold_of[:, :1]
    reference = linear.Scaler.of(
        trial.material.other_features[:, trial.material.columns["efficientnet_lite0/three"]]
    )
    scaler = tuple(torch.tensor(v, dtype=torch.float32) for v in (reference.mean, reference.scale))
    with torch.inference_mode():
        found = [features(block, m.float(), e) for m, e in zip(maps, early, strict=True)]
    scaled = np.concatenate([((x - scaler[0]) / scaler[1]).double().numpy() for x in found])
    settings = [None, *(Settings(mix) for mix in MIXES), Settings("cutmix", rate=1e-3)]
    for setting in settings:
        logits = np.full((1, 1, len(labels), labels.max() + 1), np.nan)
        folds = tqdm(np.unique(fold_of), desc=f"{setting}", disable=not progress)
        for fold in folds:
            train, test = (
                np.flatnonzero(x) for x in (fold_of[:, 0] != fold, fold_of[:, 0] == fold)
            )
            head = _probe(scaled, labels, train)
            own = deepcopy(block).eval()
            if setting is not None:
                tune(
                    own,
                    head,
                    [m[train] for m in maps],
                    [e[train] for e in early],
                    labels[train],
                    scaler,
                    setting,
                    int(fold),
                )
            with torch.inference_mode():
                values = features(own, maps[0][test].float(), early[0][test])
                logits[0, 0, test] = head((values - scaler[0]) / scaler[1]).double().numpy()
        text = "efficientnet_lite0/three, ridge 0.3, 2 copies, one repeat: "
        text += (
            "frozen"
            if setting is None
            else f"last block tuned, {setting.mix}, AdamW {setting.rate:g}, {setting.epochs} epochs"
        )
        yield row(trial, "17 fine-tuning", text, logits, 6.4)


def _probe(scaled: np.ndarray, labels: np.ndarray, train: np.ndarray) -> nn.Linear:
    """Return the discriminant as a layer, its logits calibrated on the training pictures' folds."""
    n = len(labels)

    def fitted(some: np.ndarray) -> linear.Linear:
        rows_ = np.concatenate([some + n * k for k in range(COPIES + 1)])
        x = scaled[rows_]
        dual, bias = linear.fit_dual(
            x @ x.T, labels[rows_ % n], Head("lda", 0.3), linear.copy_weights(len(some), COPIES)
        )
        return linear.Linear(x.T @ dual, bias)

    part = np.arange(len(train)) % 3
    held = np.concatenate([train[part == f] for f in range(3)])
    logits = np.concatenate(
        [fitted(train[part != f]).logits(scaled[train[part == f]]) for f in range(3)]
    )
    t = calibration.temperature_of(logits, labels[held])
    whole = fitted(train)
    head = nn.Linear(*whole.weight.shape)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(whole.weight.T / t))
        head.bias.copy_(torch.from_numpy(whole.bias / t))
    return head


def _before_the_block(
    branch: embedding.Taps, dataset: Dataset, copy: int, *, progress: bool
) -> tuple[Tensor, Tensor]:
    """Return float16 maps (N, C, H, W) before the last piece, and features (N, E) up to there."""
    from batik_utils import pictures
    from batik_utils.final import changed_copy

    maps, early = [], []
    for i, path in enumerate(tqdm(dataset.paths, desc="Maps", disable=not progress)):
        picture = pictures.open_picture(path)
        if copy:
            picture = changed_copy(picture, copy, i)
        pixels = torch.from_numpy(embedding.pixels_of(picture)[None]).permute(0, 3, 1, 2).float()
        with torch.inference_mode():
            x, parts = (pixels - branch.shift) * branch.scale, []
            for piece in branch.pieces[:-1]:
                x = piece(x)
                mean = x.mean((2, 3))
                parts += [mean, (x - mean[:, :, None, None]).square().mean((2, 3)).sqrt()]
        maps.append(x.half())
        early.append(torch.cat(parts, 1))
    return torch.cat(maps), torch.cat(early)
