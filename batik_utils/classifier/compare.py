"""Comparisons with other designs and other recipes, inside the collection and outside.

Grouped folds test on pictures of the same shops that were learned from, and reward their habits;
photographs of other collections do not. Written by ``build --evaluate``.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from batik_utils import data, experiments, metrics, recipes
from batik_utils.checkpoints import Store
from batik_utils.classifier import features
from batik_utils.classifier.features import BRANCHES, Branch
from batik_utils.classifier.selection import Bank
from batik_utils.data import Dataset
from batik_utils.errors import BatikError

#: Compared on independent photographs, beside the final model.
RECIPES = (
    "majority",
    "file_facts",
    "texture",
    "scratch1_drop02_20ep",
    "mobilenet_v2_probe",
    "efficientnet_lite0",
)
SEEDS = 3
THREE = (Branch("efficientnet_lite0", (3, 5, 6)), Branch("mobilenet_v2", (10, 16, 17)))
_TURNS = (
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
)
#: Name, stages, side (px), copies, square root.
DESIGNS = (
    ("three stages", THREE, 448, "none", False),
    ("three stages, square root", THREE, 448, "none", True),
    ("five stages, square root", BRANCHES, 448, "none", True),
    ("five stages, square root, changed copies (final)", BRANCHES, 448, "changed", True),
    ("turned and mirrored copies instead", BRANCHES, 448, "turned", True),
    ("320 px", BRANCHES, 320, "changed", True),
    ("608 px", BRANCHES, 608, "changed", True),
    ("EfficientNet-Lite0 alone", BRANCHES[:1], 448, "changed", True),
)


def ablation(
    dataset: Dataset,
    groups: np.ndarray,
    fold_of: np.ndarray,
    outside: pd.DataFrame,
    changed: Sequence[Callable],
    weights_directory: str | Path | None = None,
) -> pd.DataFrame:
    """Return accuracy inside (by picture, by group) and outside, and time, of eight designs.

    The head is fixed (ridge 1), features are scaled by the pictures themselves.

    Args:
        dataset: pictures of the motifs.
        groups: (N,) group of near-duplicates of each.
        fold_of: (N, R) fold in which each is tested.
        outside: photographs of other collections: ``path, motif, label``.
        changed: what makes each round of changed copies.
        weights_directory: folder to look for pretrained weights first.
    """
    turned = [lambda image, _, turn=turn: image.transpose(turn) for turn in _TURNS]
    rounds = {"none": [], "changed": list(changed), "turned": turned}
    clear, rows = outside["label"].to_numpy() == "clear", []
    labels = np.array(dataset.labels)
    truth = outside["motif"].map(dataset.classes.index).to_numpy(int)
    for name, branches, size, copies, rooted in DESIGNS:
        network = features.build(branches, weights_directory)
        compute = _squared(network, size, rooted)
        pictures = [compute(dataset.paths)]
        for k, change in enumerate(rounds[copies], 1):
            word = "copy" if copies == "changed" else copies
            pictures.append(compute(dataset.paths, change, f"{word} {k}"))
        bank = Bank.of(pictures, labels, groups, pictures[0][:0], np.array([]))
        share, right = _in_folds(bank, fold_of), np.array([])
        if len(outside):
            fitted = bank.fit_motifs(np.arange(len(labels)), 1.0)
            found = fitted.logits(bank.scaler(compute([*outside["path"]])))
            right = found.argmax(1) == truth
        rows.append(
            {
                "design": name,
                "size": size,
                "copies": len(rounds[copies]),
                "accuracy": share.mean(),
                "accuracy_groups": pd.Series(share).groupby(groups).mean().mean(),
                "accuracy_largest_group": share[_largest(groups)].mean(),
                "accuracy_clear": right[clear].mean() if len(right) else np.nan,
                "accuracy_all": right.mean() if len(right) else np.nan,
                "milliseconds": _milliseconds(network, size),
            }
        )
    return pd.DataFrame(rows)


def _squared(network: features.Features, size: int, rooted: bool) -> Callable[..., np.ndarray]:
    def compute(
        paths: Sequence[Path], change: Callable | None = None, name: str = ""
    ) -> np.ndarray:
        found = features.compute(network, paths, size, change, name)
        return found if rooted else found * np.abs(found)

    return compute


def _in_folds(bank: Bank, fold_of: np.ndarray) -> np.ndarray:
    """Return (N,) share of repeats in which a picture is right while its fold is tested."""
    right = np.zeros(fold_of.shape)
    for repeat in range(fold_of.shape[1]):
        for fold in np.unique(fold_of[:, repeat]):
            tested = fold_of[:, repeat] == fold
            fitted = bank.fit_motifs(np.flatnonzero(~tested), 1.0)
            logits = fitted.logits(bank.scaled[: len(tested)][tested])
            right[tested, repeat] = logits.argmax(1) == bank.labels[tested]
    return right.mean(1)


def _largest(groups: np.ndarray) -> np.ndarray:
    names, sizes = np.unique(groups, return_counts=True)
    return groups == names[sizes.argmax()]


def _milliseconds(network: features.Features, size: int, runs: int = 5) -> float:
    """Return the processor time of one picture in torch on one thread, median of some runs."""
    pixels, found = torch.zeros(1, size, size, 3, dtype=torch.uint8), []
    with torch.inference_mode():
        network(pixels)
        for _ in range(runs):
            start = time.process_time()
            network(pixels)
            found.append(1000 * (time.process_time() - start))
    return float(np.median(found))


def write_independent(
    dataset: Dataset,
    folder: Path,
    outside: pd.DataFrame,
    final: dict[str, np.ndarray | float],
    results: Path,
    weights_directory: str | Path | None = None,
) -> None:
    """Write ``results/independent/``: accuracy of recipes on other collections, and which they are.

    Args:
        dataset: all its pictures are learned from.
        folder: with ``clear/`` and ``doubtful/``.
        outside: photographs below it: ``path, motif, label, sha256, repository, repository_path``.
        final: of the final model, ``right`` (I,) for each photograph, ``accuracy`` in the folds and
            ``accuracy_groups``.
        results: the results folder.
        weights_directory: folder to look for pretrained weights first.
    """
    summary, rows = results / dataset.name / "cv" / "summary.csv", []
    inside = data.read_table(summary).set_index("recipe") if summary.is_file() else pd.DataFrame()
    clear = outside["label"].to_numpy() == "clear"
    setup = _setup(dataset, folder, outside, weights_directory)
    for name in (*RECIPES, "final"):
        known = final if name == "final" else inside.loc[name] if name in inside.index else {}
        right = final["right"] if name == "final" else _right(setup, name, outside)
        n = int(clear.sum())
        lower, upper = metrics.wilson(round(right[clear].sum()), n)
        rows.append(
            {
                "name": name,
                "accuracy_folds": known.get("accuracy", np.nan),
                "accuracy_groups_folds": known.get("accuracy_groups", np.nan),
                "n_clear": n,
                "accuracy_clear": right[clear].mean(),
                "lower": lower,
                "upper": upper,
                "n_all": len(right),
                "accuracy_all": right.mean(),
            }
        )
    data.write_table(pd.DataFrame(rows), results / "independent" / "accuracy.csv")
    named = outside.assign(path=[Path(path).relative_to(folder) for path in outside["path"]])
    data.write_table(named, results / "independent" / "manifest.csv")


def _setup(
    dataset: Dataset, folder: Path, outside: pd.DataFrame, weights_directory: str | Path | None
) -> experiments.Setup:
    """Return a set-up that learns from all pictures and is tested on the independent ones."""
    parts = [dataset.manifest.assign(path=list(map(str, dataset.paths)))]
    for label in outside["label"].unique():
        here = set(outside.loc[outside["label"] == label, "motif"])
        found = data.load("folder", folder / label, [m for m in dataset.classes if m in here])
        parts.append(found.manifest.assign(path=list(map(str, found.paths))))
    manifest = pd.concat(parts, ignore_index=True)
    inside = np.arange(len(manifest)) < len(dataset.manifest)
    split = manifest[["path"]].assign(subset=np.where(inside, "train", "test"))
    digest = hashlib.sha256("".join(manifest["sha256"]).encode()).hexdigest()
    both = replace(dataset, manifest=manifest, digest=digest)
    store = Store(Path(tempfile.gettempdir()) / "unused")
    return experiments.Setup(
        both, "independent", split, store, torch.device("cpu"), "float32", weights_directory
    )


def _right(setup: experiments.Setup, name: str, outside: pd.DataFrame) -> np.ndarray:
    """Return the share of seeds in which each independent photograph is right."""
    recipe = recipes.get(name)
    shares = []
    for seed in range(1 if recipe.family == "baseline" else SEEDS):
        found = experiments.compute(setup, (recipe, seed, 0, 0))
        if isinstance(found, BatikError):
            raise found
        table = found.predictions.set_index("path").loc[list(map(str, outside["path"]))]
        shares.append(table["label"] == table["predicted"])
    return np.mean(shares, axis=0)
