"""Comparisons with other designs and other recipes, inside the collection and outside.

Grouped folds test on pictures of the same shops that were learned from, and reward their habits;
photographs of other collections do not. Written by ``build --evaluate``.
"""

import hashlib
import itertools
import tempfile
import time
import timeit
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from batik_utils import data, experiments, recipes
from batik_utils.checkpoints import Store
from batik_utils.classifier import features
from batik_utils.classifier.evaluate import share
from batik_utils.classifier.features import BRANCHES, Branch
from batik_utils.classifier.selection import FeatureSet
from batik_utils.data import Dataset
from batik_utils.errors import BatikError

#: Compared on independent photographs, beside the final model.
RECIPES = ("majority", "file_facts", "texture", "scratch1_drop02_20ep")
RECIPES += ("mobilenet_v2_probe", "efficientnet_lite0")
SEEDS, ACCURACIES = 3, ("accuracy", "accuracy_groups")
THREE = (Branch("efficientnet_lite0", (3, 5, 6)), Branch("mobilenet_v2", (10, 16, 17)))
#: Name, stages, side (px), four changed copies, square root.
DESIGNS = (
    ("three stages", THREE, 448, "", False),
    ("three stages, square root", THREE, 448, "", True),
    ("five stages, square root", BRANCHES, 448, "", True),
    ("five stages, square root, changed copies (final)", BRANCHES, 448, "copy", True),
    ("turned and mirrored copies instead", BRANCHES, 448, "turned", True),
    ("320 px", BRANCHES, 320, "copy", True),
    ("608 px", BRANCHES, 608, "copy", True),
    ("EfficientNet-Lite0 alone", BRANCHES[:1], 448, "copy", True),
)


def ablation(
    dataset: Dataset, groups: np.ndarray, fold_of: np.ndarray, outside: pd.DataFrame
) -> pd.DataFrame:
    """Return accuracy inside (by picture, by group) and outside, and time, of the `DESIGNS`.

    The ridge is 1, features are scaled by the pictures themselves. ``groups`` (N,) are those of
    near-duplicates, ``fold_of`` (N, R) the folds in which pictures are tested, ``outside``
    photographs of other collections.
    """
    labels, clear, rows = np.array(dataset.labels), (outside["label"] == "clear").to_numpy(), []
    truth = outside["motif"].map(dataset.classes.index).to_numpy(int)
    for name, branches, size, copies, rooted in DESIGNS:
        network = features.build(branches)
        rounds = [f"{copies} {k}" for k in range(1, 5)] if copies else []
        found = [features.compute(network, dataset.paths, size, r) for r in ("", *rounds)]
        found.append(
            features.compute(network, outside["path"], size) if len(truth) else found[0][:0]
        )
        *pictures, others = found if rooted else [x * np.abs(x) for x in found]
        samples = FeatureSet.of(pictures, labels, groups, pictures[0][:0], np.array([]))

        def right(learned: np.ndarray, tested: np.ndarray, truth: np.ndarray, samples=samples):
            return samples.fit_motifs(learned, 1.0).logits(tested).argmax(1) == truth

        inside = np.zeros(fold_of.shape)
        for repeat, fold in itertools.product(range(fold_of.shape[1]), np.unique(fold_of)):
            learned, tested = (np.flatnonzero((fold_of[:, repeat] == fold) == t) for t in (0, 1))
            inside[tested, repeat] = right(learned, samples.scaled[tested], labels[tested])
        shares = pd.Series(inside.mean(1))
        correct = pd.Series(right(np.arange(len(labels)), samples.scaler(others), truth))
        rows.append(
            {
                "design": name,
                "size": size,
                "copies": len(rounds),
                "accuracy": shares.mean(),
                "accuracy_groups": shares.groupby(groups).mean().mean(),
                "accuracy_largest_group": shares[groups == pd.Series(groups).mode()[0]].mean(),
                "accuracy_clear": correct[clear].mean(),
                "accuracy_all": correct.mean(),
                "milliseconds": _milliseconds(network, size),
            }
        )
    return pd.DataFrame(rows)


def _milliseconds(network: features.Features, size: int) -> float:
    """Return the processor time of one picture in torch on one thread, median of five runs."""
    pixels = torch.zeros(1, size, size, 3, dtype=torch.uint8)
    with torch.inference_mode():
        found = timeit.repeat(lambda: network(pixels), timer=time.process_time, repeat=6, number=1)
    return 1000 * float(np.median(found[1:]))


def write_independent(dataset: Dataset, outside: pd.DataFrame, final: dict, results: Path) -> None:
    """Write ``results/independent/``: accuracy of recipes on other collections, and which they are.

    All pictures of ``dataset`` are learned from. ``outside`` is of `build.independent_pictures`,
    and says which answers of the final model are ``right``; ``final`` holds its accuracy.
    """
    summary, rows = results / dataset.name / "cv" / "summary.csv", []
    known = data.read_table(summary).set_index("recipe").T if summary.is_file() else {}
    known = dict(known) | {"final": {key: final[key]["value"] for key in ACCURACIES}}
    clear, setup = outside["label"] == "clear", _setup(dataset, outside)
    for name in (*RECIPES, "final"):
        right = outside["right"] if name == "final" else _right(setup, name, outside)
        found, inside = share(right[clear]), known.get(name, {})
        rows.append(
            {
                "name": name,
                **{f"{key}_folds": inside.get(key, np.nan) for key in ACCURACIES},
                "n_clear": int(clear.sum()),
                "accuracy_clear": found.pop("value"),
                **found,
                "n_all": len(right),
                "accuracy_all": right.mean(),
            }
        )
    data.write_table(pd.DataFrame(rows), results / "independent" / "accuracy.csv")
    named = outside[["path", "motif", "label", "sha256", "repository", "repository_path"]]
    named = named.assign(path=["/".join(path.parts[-3:]) for path in named["path"]])
    data.write_table(named, results / "independent" / "manifest.csv")


def _setup(dataset: Dataset, outside: pd.DataFrame) -> experiments.Setup:
    """Return a set-up that learns from all pictures and is tested on the independent ones."""
    parts = [dataset]
    for root, table in outside.groupby(outside["path"].map(lambda path: path.parents[1])):
        motifs = [motif for motif in dataset.classes if motif in set(table["motif"])]
        parts.append(data.load("folder", root, motifs))
    manifest = pd.concat([p.manifest.assign(path=[*map(str, p.paths)]) for p in parts])
    manifest = manifest.reset_index(drop=True)
    subset = np.where(manifest.index < len(dataset.manifest), "train", "test")
    digest = hashlib.sha256("".join(manifest["sha256"]).encode()).hexdigest()
    return experiments.Setup(
        replace(dataset, manifest=manifest, digest=digest),
        "independent",
        manifest[["path"]].assign(subset=subset),
        Store(Path(tempfile.gettempdir()) / "unused"),
        torch.device("cpu"),
    )


def _right(setup: experiments.Setup, name: str, outside: pd.DataFrame) -> pd.Series:
    """Return the share of seeds in which each independent photograph is right."""
    recipe, shares = recipes.get(name), []
    for seed in range(1 if recipe.family == "baseline" else SEEDS):
        found = experiments.compute(setup, (recipe, seed, 0))
        if isinstance(found, BatikError):
            raise found
        table = found.predictions.set_index("path").loc[[*map(str, outside["path"])]]
        shares.append(table["label"] == table["predicted"])
    return pd.Series(np.mean(shares, axis=0))
