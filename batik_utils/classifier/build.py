"""Make the deployed model from the data: test the whole procedure, then learn from all pictures.

Run it::

    python -m batik_utils build --data folder --root path/to/indonesian-batik-motifs

writes ``<results>/<data set>/model/`` (the model and what belongs to it) and
``<results>/<data set>/cv/final/`` (its cross-validation: ``runs.csv`` and ``predictions.csv`` in
the form of all recipes, which candidate each fold chose, how "none of these" was tested).
"""

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from scipy.special import softmax
from threadpoolctl import threadpool_limits

from batik_utils import checkpoints, metrics
from batik_utils.checkpoints import RUN_COLUMNS
from batik_utils.classifier import (
    embedding,
    export,
    final,
    foreign,
    model_card,
    rejection,
    selection,
)
from batik_utils.data import Dataset
from batik_utils.duplicates import audit
from batik_utils.errors import BatikError
from batik_utils.evaluation import calibration, cost, significance
from batik_utils.images import files

log = logging.getLogger(__name__)

RECIPE = cost.FINAL


# with another number of threads sums come out otherwise in the last digits, and so would the file
@threadpool_limits.wrap(limits=1)
def run(
    dataset: Dataset,
    results: Path,
    weights_directory: str | Path | None = None,
    *,
    output: Path | None = None,
    evaluate_only: bool = False,
    progress: bool = True,
) -> Path:
    """Test the procedure by cross-validation, and unless that is all, make the model.

    Args:
        dataset: pictures of the motifs, below a root that also holds other motifs.
        results: the results folder; it must hold ``<data set>/duplicate_groups.csv`` (made by
            ``audit``) and ``<data set>/cv/folds.csv`` (made by ``train --grid cv``).
        weights_directory: folder to look for pretrained weights first.
        output: folder of the model; None for ``<results>/<data set>/model``.
        evaluate_only: write no model.
        progress: show bars.

    Returns:
        Folder of the model, or of the cross-validation if that is all.

    Raises:
        BatikError: a file that is needed is missing or belongs to other pictures.
        weights.WeightsNotFound: pretrained weights are nowhere to be had.
    """
    home = results / dataset.name
    groups, fold_of = divided(dataset, home)
    started = datetime.now(timezone.utc)
    material = final.gather(
        dataset, groups, weights_directory, foreign=foreign.pictures(), progress=progress
    )
    bank = material.bank()
    options = selection.candidates(bank.subsets, final.HEADS, final.COPIES)
    clock = time.perf_counter()
    outcome = selection.nested(bank, fold_of, options, progress=progress)
    seconds = time.perf_counter() - clock
    choice = selection.choose(bank, np.arange(len(material.labels)), options, seed=0)
    log.info("Chosen from all pictures: %s", choice.candidate.name)
    subset = choice.candidate.subset
    columns, scores = material.columns[subset], final.scores_of(material, subset)
    unseen = final.leave_motifs_out(material, fold_of[:, 0], columns, scores)
    tested = final.leave_pictures_out(material, fold_of[:, 0], columns, scores)
    rejected = pd.concat([unseen.table, tested.table], ignore_index=True)
    place = home / "cv" / "final"
    place.mkdir(parents=True, exist_ok=True)
    runs, predictions = rows(dataset, outcome, fold_of, material, seconds, started)
    coverage = coverage_of(outcome.logits[0], material.labels, tested.known["combined"])
    for name, table in (
        ("runs", runs),
        ("predictions", predictions),
        ("choices", outcome.choices),
        ("rejection", rejected),
        ("coverage", coverage),
    ):
        table.to_csv(place / f"{name}.csv", index=False, float_format="%.6g")
    found = summary(dataset, material, outcome, fold_of, rejected, audit.doubted(home) or set())
    if evaluate_only:
        write_json(place / "metrics.json", found)
        return place

    network = final.fit(material, choice, weights_directory)
    folder = output or home / "model"
    folder.mkdir(parents=True, exist_ok=True)
    export.to_onnx(
        network,
        folder / "model.onnx",
        size=embedding.SIZE,
        outputs=("probabilities", "familiarity"),
        notes={"dataset": dataset.digest, "candidate": choice.candidate.name},
    )
    some = dataset.paths[:: max(1, len(dataset.paths) // 4)]
    pixels = np.stack([embedding.pixels_of(files.open_image(path)) for path in some])
    difference = export.check(folder / "model.onnx", network, pixels)
    threshold = rejection.threshold_at_recall(tested.known["combined"], final.RECALL)
    with torch.inference_mode():
        own, _ = network.answer(torch.from_numpy(material.features[:, columns]).float())
    found |= {
        "model": {
            "candidate": choice.candidate.name,
            "temperature": choice.temperature,
            "familiarity_threshold": threshold,
            "megabytes": (folder / "model.onnx").stat().st_size / 1e6,
            "parameters": int(sum(t.numel() for t in network.state_dict().values())),
            "largest_difference_to_torch": difference,
            "accuracy_on_the_pictures_it_learned_from": float(
                (own.numpy().argmax(1) == material.labels).mean()
            ),
            "weights": network.network.provenance,
        }
    }
    write_json(
        folder / "labels.json",
        {
            "classes": list(dataset.classes),
            "familiarity_threshold": threshold,
            "opset": export.OPSET,
        },
    )
    write_json(
        folder / "preprocessing.json",
        {
            "size": embedding.SIZE,
            "fit": "squash",
            "interpolation": embedding.INTERPOLATION,
            "colour": "RGB",
        },
    )
    write_json(folder / "metrics.json", found)
    (folder / "MODEL_CARD.md").write_text(model_card.text(found), encoding="utf-8")
    write_sums(folder)
    return folder


def divided(dataset: Dataset, home: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Return groups of near-twins over all motifs, and the fold of each picture (N, R).

    Args:
        dataset: pictures of the motifs.
        home: ``<results>/<data set>``.

    Raises:
        BatikError: a file is missing or belongs to other pictures.
    """
    groups = read_table(home / "duplicate_groups.csv", "audit")
    folds = read_table(home / "cv" / "folds.csv", "train --grid cv")
    if set(folds["dataset"]) != {dataset.digest}:
        raise BatikError(f"{home / 'cv' / 'folds.csv'} divides other pictures: make it again.")
    folds = folds.set_index("path").loc[dataset.manifest["path"]].reset_index()
    return groups, folds[[c for c in folds if c.startswith("repeat_")]].to_numpy()


def rows(
    dataset: Dataset,
    outcome: selection.Nested,
    fold_of: np.ndarray,
    material: final.Material,
    seconds: float,
    started: datetime,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the cross-validation as rows of ``runs.csv`` and ``predictions.csv``.

    Args:
        dataset: the pictures.
        outcome: predictions of nested selection.
        fold_of: (N, R) fold in which a picture is tested.
        material: for where the backbones' weights come from, and how many there are.
        seconds: wall time of selecting and fitting, all folds together.
        started: when.
    """
    classes, labels = np.asarray(dataset.classes), np.asarray(dataset.labels)
    git = checkpoints.git_commit()
    runs, parts = [], []
    for row in outcome.choices.itertuples():
        tested = np.flatnonzero(fold_of[:, row.repeat] == row.fold)
        probabilities = softmax(outcome.logits[row.repeat, tested], axis=1)
        name = f"{RECIPE}-e0-f{row.fold}-s{row.repeat}"  # as experiments.run_name
        values = {
            "run": name,
            "recipe": RECIPE,
            "family": "ours",
            "weights": " + ".join(material.provenance),
            "split": "cv",
            "fold": row.fold,
            "seed": row.repeat,
            "epochs": 0,
            "n_train": len(labels) - len(tested),
            "n_test": len(tested),
            **metrics.scores(labels[tested], probabilities),
            "train_seconds": seconds / len(outcome.choices),
            "train_images_per_second": np.nan,
            "params": _parameters(material, row.candidate.split()[0], len(classes)),
            "device": "cpu",
            "precision": "float32",
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "git": git,
            "started": started.isoformat(timespec="seconds"),
            "dataset": dataset.digest,
        }
        runs.append({column: values[column] for column in RUN_COLUMNS})
        table = pd.DataFrame(
            {
                "run": name,
                "path": dataset.manifest["path"].to_numpy()[tested],
                "label": classes[labels[tested]],
                "predicted": classes[probabilities.argmax(1)],
            }
        )
        for k, motif in enumerate(classes):
            table[f"p_{motif}"] = probabilities[:, k]
        parts.append(table)
    return pd.DataFrame(runs), pd.concat(parts, ignore_index=True)


def summary(
    dataset: Dataset,
    material: final.Material,
    outcome: selection.Nested,
    fold_of: np.ndarray,
    rejected: pd.DataFrame,
    doubted: set[str],
) -> dict:
    """Return the numbers of ``metrics.json``; every interval is over groups of near-twins."""
    labels, groups = material.labels, material.groups
    right = outcome.logits.argmax(2) == labels  # (R, N)
    per_picture = right.mean(0)
    probabilities = softmax(outcome.logits, axis=-1)
    chance = probabilities[:, np.arange(len(labels)), labels]
    pooled = pd.DataFrame(
        {
            "label": np.tile(np.asarray(dataset.classes)[labels], len(right)),
            **{
                f"p_{motif}": probabilities[:, :, k].ravel()
                for k, motif in enumerate(dataset.classes)
            },
        }
    )
    names, sizes = np.unique(groups, return_counts=True)
    without_largest = groups != names[sizes.argmax()]
    clean = np.array([path not in doubted for path in material.paths])
    return {
        "dataset": dataset.digest,
        "pictures": len(labels),
        "groups": len(names),
        "protocol": f"{len(np.unique(fold_of))} grouped folds x {fold_of.shape[1]} repeats, nested",
        "accuracy": _share(per_picture, groups),
        "accuracy_sd_between_repeats": float(right.mean(1).std(ddof=1)),
        "accuracy_without_largest_group": {
            "group": str(names[sizes.argmax()]),
            "size": int(sizes.max()),
            **_share(per_picture[without_largest], groups[without_largest]),
        },
        "accuracy_without_doubted_labels": {
            "pictures": int(clean.sum()),
            **_share(per_picture[clean], groups[clean]),
        },
        "recall": {
            motif: _share(per_picture[labels == k], groups[labels == k])
            for k, motif in enumerate(dataset.classes)
        },
        "nll": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        "expected_calibration_error": calibration.expected_calibration_error(pooled),
        "chosen_in_folds": outcome.choices["candidate"].value_counts().to_dict(),
        "none_of_these": {
            "other_pictures": len(material.others),
            "rows": rejected.to_dict("records"),
        },
        "wrong_in_most_repeats": [
            str(path)
            for path, share in zip(material.paths, per_picture, strict=True)
            if share < 0.5
        ],
        "git": checkpoints.git_commit(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def _parameters(material: final.Material, subset: str, classes: int) -> int:
    """Return the parameters of the backbones and of the linear head."""
    return material.parameters[subset] + (len(material.columns[subset]) + 1) * classes


def coverage_of(logits: np.ndarray, labels: np.ndarray, familiarity: np.ndarray) -> pd.DataFrame:
    """Return accuracy against coverage, by familiarity and by largest probability."""
    right = logits.argmax(1) == labels
    tables = []
    for by, score in (
        ("familiarity", familiarity),
        ("probability", softmax(logits, axis=1).max(1)),
    ):
        covered, accuracy = rejection.accuracy_coverage(right, score)
        tables.append(pd.DataFrame({"by": by, "coverage": covered, "accuracy": accuracy}))
    return pd.concat(tables, ignore_index=True)


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` over all other files of a folder, as ``sha256sum`` does."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names]
    (folder / "SHA256SUMS").write_text("".join(lines), encoding="utf-8")


def _share(values: np.ndarray, groups: Sequence[str]) -> dict[str, float]:
    lower, upper = significance.group_bootstrap(values, groups)
    return {"value": float(np.mean(values)), "lower": lower, "upper": upper}


def read_table(path: Path, command: str) -> pd.DataFrame:
    """Return a CSV file, or say which command makes it.

    Raises:
        BatikError: there is none.
    """
    if not path.is_file():
        raise BatikError(f"There is no {path}: run 'python -m batik_utils {command}' first.")
    return pd.read_csv(path)


def write_json(path: Path, values: dict) -> None:
    """Write plain values, readable."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
