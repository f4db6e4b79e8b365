"""Look a data set over before believing a number measured on it; no picture or label is changed.

Pairs of near-duplicates (``duplicates.csv``, whose column ``seen`` holds a person's judgement) and
``missed_pairs.csv`` make ``duplicate_groups.csv``; ``doubts_by_eye.csv`` joins
``doubtful_labels.csv``; ``course_twins.csv``: test pictures with a near-duplicate in training.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from batik_utils import baselines, models, recipes, splits, training, transforms
from batik_utils.data import Dataset, read_table, write_table
from batik_utils.duplicates import pairs
from batik_utils.errors import BatikError, replacing
from batik_utils.images import motifs

log = logging.getLogger(__name__)

SEEN = ("true", "false", "unsure")
DOUBT_COLUMNS = ("path", "motif", "source", "reason")
#: Sources of a doubt that no model's answer was needed for.
INDEPENDENT_DOUBTS = ("twin in other motif", "no cloth", "unfinished cloth", "caption")


def run(dataset: Dataset, results: Path) -> dict[str, int]:
    """Audit a data set, best with all motifs; write what was found, and return what was counted."""
    folder = folder_of(dataset, results)
    there = _read(folder / "duplicate_groups.csv", ("path",))
    if missing := {*there["path"]} - {*dataset.manifest["path"]}:
        raise BatikError(
            f"{folder} holds the audit of {len(there)} pictures, {len(missing)} of which are not "
            f"in {dataset.root} as loaded now: load all classes, choose another results folder, "
            f"or remove {folder / 'duplicate_groups.csv'}."
        )
    judged = _read(folder / "duplicates.csv", ("path_a", "path_b", "seen"))
    if odd := {*judged["seen"]} - {*SEEN, ""}:
        raise BatikError(
            f"{folder / 'duplicates.csv'} has {sorted(odd)} in the column 'seen': use "
            f"{', '.join(SEEN)}, or leave it empty."
        )
    missed = _read(folder / "missed_pairs.csv", ("path_a", "path_b", "reason"))
    by_eye = _read(folder / "doubts_by_eye.csv", ("path", "source", "reason"))
    with replacing(folder / ".try") as partial:  # now rather than after minutes of work
        partial.touch()
    (folder / ".try").unlink()

    edges = pairs.find(dataset)
    edges = edges.merge(judged, "left", ["path_a", "path_b"]).fillna({"seen": ""})
    known = pd.concat([edges, missed[["path_a", "path_b"]].assign(seen="true")])
    groups = pairs.group(dataset, known)
    tables = {"duplicates": edges, "duplicate_groups": groups}
    doubts = [across_motifs(edges), dataset.manifest[["path", "motif"]].merge(by_eye, on="path")]
    if {*motifs.MOTIFS} <= {*dataset.classes}:
        manifest = dataset.manifest[dataset.manifest["motif"].isin(motifs.MOTIFS)]
        three = replace(dataset, classes=motifs.MOTIFS, manifest=manifest.reset_index(drop=True))
        try:
            doubts.append(confident_learning(three, out_of_fold(three, groups)))
        except BatikError as error:
            log.warning("Confident learning left out: %s", error)
        try:
            tables["course_twins"] = in_training(splits.make("course", three), known, groups)
        except BatikError as error:
            log.warning("Near-duplicates in the split 'course' left out: %s", error)
    doubtful = pd.concat(doubts, ignore_index=True)[list(DOUBT_COLUMNS)]
    place = doubtful["path"].map({path: i for i, path in enumerate(dataset.manifest["path"])})
    tables["doubtful_labels"] = doubtful.loc[place.sort_values(kind="stable").index]
    for name, table in tables.items():
        write_table(table, folder / f"{name}.csv", None)
    return _counts(tables)


def _counts(tables: dict[str, pd.DataFrame]) -> dict[str, int]:
    edges, groups = tables["duplicates"], tables["duplicate_groups"]
    sizes = groups["group"].value_counts()
    counts = {
        "pictures": len(groups),
        "pairs of near-duplicates": len(edges),
        "of them across motifs": (edges["motif_a"] != edges["motif_b"]).sum(),
        "groups of two or more": (sizes > 1).sum(),
        "largest group": sizes.max(),
        "doubtful labels": tables["doubtful_labels"]["path"].nunique(),
    }
    if "course_twins" in tables:
        direct = (tables["course_twins"]["direct"] > 0).sum()
        counts["course test pictures with a near-duplicate in training"] = direct
    return counts


def folder_of(dataset: Dataset, results: Path) -> Path:
    """Return where the audit of a data set belongs."""
    return Path(results) / dataset.audited_as


def groups_of(dataset: Dataset, results: Path) -> Path:
    """Return the data set's ``duplicate_groups.csv``, auditing it first where that is missing."""
    path = folder_of(dataset, results) / "duplicate_groups.csv"
    if not path.is_file():
        run(dataset, results)
    return path


def doubted(folder: Path, *, by_any: bool = False) -> set[str] | None:
    """Return the paths with doubtful labels; None where there was no audit.

    Confident learning counts with ``by_any`` only, as it doubts what models get wrong.
    """
    path = folder / "doubtful_labels.csv"
    if not path.is_file():
        return None
    table = read_table(path, ("path", "source"))
    return set(table.loc[by_any | table["source"].isin(INDEPENDENT_DOUBTS), "path"])


def across_motifs(edges: pd.DataFrame) -> pd.DataFrame:
    """Return both pictures of every pair filed under two motifs, unless it was judged false."""
    across = edges[(edges["motif_a"] != edges["motif_b"]) & (edges["seen"] != "false")]
    rows = []
    for a, b in (("a", "b"), ("b", "a")):
        for row in across.to_dict("records"):
            reason = f"also filed as {row[f'path_{b}']} ({row['method']} {row['score']})"
            rows.append((row[f"path_{a}"], row[f"motif_{a}"], "twin in other motif", reason))
    return pd.DataFrame(rows, columns=list(DOUBT_COLUMNS))


def in_training(split: pd.DataFrame, edges: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Count test pictures' near-duplicates in training: ``direct`` (``twins``), ``by_group``."""
    train = {*split.loc[split["subset"] == "train", "path"]}
    test = split.loc[split["subset"] == "test", ["path", "motif"]]
    ends = edges.loc[edges["seen"] != "false", ["path_a", "path_b"]].to_numpy().tolist()
    near = {*map(tuple, ends), *((b, a) for a, b in ends)}
    direct = [sorted(b for a, b in near if a == path and b in train) for path in test["path"]]
    group = dict(zip(groups["path"], groups["group"], strict=True))
    members = groups.loc[groups["path"].isin(train), "group"].value_counts()
    return test.assign(
        direct=[len(others) for others in direct],
        by_group=[int(members.get(group.get(path), 0)) for path in test["path"]],
        twins=[" ".join(others) for others in direct],
    ).reset_index(drop=True)


def out_of_fold(dataset: Dataset, groups: pd.DataFrame) -> np.ndarray:
    """Return a linear probe's probabilities (N, K) of pictures it was not fitted on.

    The mean of five divisions into at most ten folds that keep near-duplicates together.
    """
    values, labels = _features(dataset), np.array(dataset.labels)
    part = groups[groups["path"].isin(dataset.manifest["path"])]
    folds = min(10, int(part.groupby("motif")["group"].nunique().min()))
    table = splits.make_folds(dataset, groups, folds=folds)
    sums = np.zeros((len(labels), len(dataset.classes)))
    for repeat in range(splits.n_repeats(table)):
        for fold in range(folds):
            test = (table[f"repeat_{repeat}"] == fold).to_numpy()
            probe = baselines.linear_probe().fit(values[~test], labels[~test])
            sums[test] += probe.predict_proba(values[test])
    return sums / splits.n_repeats(table)


def confident_learning(dataset: Dataset, probabilities: np.ndarray) -> pd.DataFrame:
    """Return the labels that confident learning doubts, with ``DOUBT_COLUMNS``, the worst first.

    Northcutt et al., 2021 (https://arxiv.org/abs/1911.00068), by cleanlab.
    """
    from cleanlab.filter import find_label_issues

    labels, how = np.array(dataset.labels), {"return_indices_ranked_by": "self_confidence"}
    # one process: it takes milliseconds, and starting more takes seconds
    worst = find_label_issues(labels, probabilities, n_jobs=1, **how)
    table = dataset.manifest.loc[worst, ["path", "motif"]].assign(source="confident learning")
    return table.assign(
        reason=[
            f"read as {dataset.classes[p.argmax()]} ({p.max():.2f}), its label has {p[label]:.2f}"
            for p, label in zip(probabilities[worst], labels[worst], strict=True)
        ]
    )


def _features(dataset: Dataset) -> np.ndarray:
    recipe = recipes.get("efficientnet_lite0")
    model, _ = models.build(recipe, len(dataset.classes))
    preprocessing = models.preprocessing_of(recipe)
    pixels = transforms.load_pixels(dataset, preprocessing)
    return training.features(model, preprocessing, pixels).numpy()


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read some columns of a CSV file that may not be there yet."""
    if not path.exists():
        return pd.DataFrame(columns=list(columns), dtype=str)
    return read_table(path, columns)[list(columns)]
