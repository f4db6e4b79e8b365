"""Look a data set over before believing a number measured on it; no picture or label is changed.

Written are pairs of near-duplicates (``duplicates.csv``; a judgement in the column ``seen``
is kept), what they connect with ``missed_pairs.csv`` (``duplicate_groups.csv``), doubtful labels
with ``doubts_by_eye.csv`` (``doubtful_labels.csv``), and test pictures of the split ``course`` with
a near-duplicate in training (``course_twins.csv``).
"""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from batik_utils import baselines, models, recipes, splits, training, transforms
from batik_utils.data import Dataset, read_table, write_table
from batik_utils.duplicates import pairs
from batik_utils.errors import BatikError
from batik_utils.images import motifs
from batik_utils.weights import WeightsNotFound

log = logging.getLogger(__name__)

SEEN = ("true", "false", "unsure")
DOUBT_COLUMNS = ("path", "motif", "source", "reason")
#: Sources of a doubt that no model's answer was needed for.
INDEPENDENT_DOUBTS = ("twin in other motif", "no cloth", "unfinished cloth", "caption")
#: The frozen network whose features confident learning uses.
PROBE = "efficientnet_lite0"


@dataclass(frozen=True)
class Audit:
    """What an audit found; every table is written as a CSV file of its name."""

    folder: Path
    duplicates: pd.DataFrame  # `pairs.EDGE_COLUMNS` and ``seen``
    duplicate_groups: pd.DataFrame  # ``path, motif, group``
    doubtful_labels: pd.DataFrame  # ``DOUBT_COLUMNS``
    course_twins: pd.DataFrame  # one row a test picture; empty if there is no split ``course``

    def counts(self) -> dict[str, int]:
        """Return the numbers of the summary, by name."""
        edges, sizes = self.duplicates, self.duplicate_groups["group"].value_counts()
        counts = {
            "pictures": len(self.duplicate_groups),
            "pairs": len(edges),
            "pairs across motifs": (edges["motif_a"] != edges["motif_b"]).sum(),
            **{f"pairs by {m}": (edges["method"] == m).sum() for m in pairs.METHODS},
            **{f"pairs seen {seen}": (edges["seen"] == seen).sum() for seen in SEEN},
            "groups of two or more": (sizes > 1).sum(),
            "pictures in such groups": sizes[sizes > 1].sum(),
            "largest group": sizes.max(),
            "doubtful labels": self.doubtful_labels["path"].nunique(),
        }
        if len(self.course_twins):
            direct = (self.course_twins["direct"] > 0).sum()
            counts["course test pictures with a near-duplicate in training"] = direct
        return {name: int(count) for name, count in counts.items()}

    def __str__(self) -> str:
        lines = [f"{name}: {count}" for name, count in self.counts().items()]
        return "\n".join([*lines, "", str(self.folder)])


def run(dataset: Dataset, results: Path, *, weights_directory: str | None = None) -> Audit:
    """Audit a data set, best with all motifs, and write what was found; repeatable.

    Raises:
        BatikError: the folder holds the audit of more pictures, or a file made by hand is damaged.
    """
    folder = folder_of(dataset, results)
    _refuse_smaller(dataset, folder)
    judged = _read(folder / "duplicates.csv", ("path_a", "path_b", "seen"))
    if odd := set(judged["seen"]) - {*SEEN, ""}:
        raise BatikError(
            f"{folder / 'duplicates.csv'} has {sorted(odd)} in the column 'seen': use "
            f"{', '.join(SEEN)}, or leave it empty."
        )
    missed = _read(folder / "missed_pairs.csv", ("path_a", "path_b", "reason"))
    by_eye = _read(folder / "doubts_by_eye.csv", ("path", "source", "reason"))

    edges = pairs.find(dataset)
    edges = edges.merge(judged, "left", ["path_a", "path_b"]).fillna({"seen": ""})
    known = pd.concat([edges, missed[["path_a", "path_b"]].assign(seen="true")])
    groups = pairs.group(dataset, known)
    doubts, twins = [across_motifs(edges), _by_eye(dataset, by_eye)], pd.DataFrame()
    three = only(dataset, motifs.MOTIFS)
    if three.classes == motifs.MOTIFS:
        try:
            doubts.append(confident_learning(three, out_of_fold(three, groups, weights_directory)))
        except WeightsNotFound as error:
            log.warning("Confident learning left out: %s", error)
        try:
            twins = in_training(splits.make("course", three), known, groups)
        except BatikError as error:
            log.warning("Near-duplicates in the split 'course' left out: %s", error)
    place = {path: i for i, path in enumerate(dataset.manifest["path"])}
    doubtful = pd.concat(doubts, ignore_index=True)
    doubtful = doubtful.sort_values("path", key=lambda p: p.map(place), kind="stable")

    found = Audit(folder, edges, groups, doubtful.reset_index(drop=True), twins)
    for name, table in vars(found).items():
        if isinstance(table, pd.DataFrame) and len(table.columns):
            write_table(table, folder / f"{name}.csv", None)
    return found


def folder_of(dataset: Dataset, results: Path) -> Path:
    """Return where an audit belongs: the Kaggle set has one, whatever classes were loaded."""
    name = dataset.name
    return Path(results) / (re.sub(r"-\d+motifs", "", name) if name.startswith("kaggle") else name)


def groups_of(dataset: Dataset, results: Path, weights_directory: str | None = None) -> Path:
    """Return the data set's ``duplicate_groups.csv``, auditing it first where that is missing."""
    path = folder_of(dataset, results) / "duplicate_groups.csv"
    if not path.is_file():
        run(dataset, results, weights_directory=weights_directory)
    return path


def doubted(folder: Path, *, by_any: bool = False) -> set[str] | None:
    """Return the paths with doubtful labels; None where there was no audit.

    Confident learning counts with ``by_any`` only: it doubts what models get wrong, so an accuracy
    without such pictures is inflated.
    """
    path = folder / "doubtful_labels.csv"
    if not path.is_file():
        return None
    table = read_table(path, ("path", "source"))
    return set(table.loc[by_any | table["source"].isin(INDEPENDENT_DOUBTS), "path"])


def only(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Return the part of a data set that belongs to some motifs."""
    manifest = dataset.manifest[dataset.manifest["motif"].isin(classes)].reset_index(drop=True)
    there = tuple(motif for motif in dataset.classes if motif in classes)
    return replace(dataset, classes=there, manifest=manifest)


def across_motifs(edges: pd.DataFrame) -> pd.DataFrame:
    """Return both pictures of every pair filed under two motifs, unless it was judged false."""
    across = edges[(edges["motif_a"] != edges["motif_b"]) & (edges["seen"] != "false")]
    rows = []
    for one, other in (("a", "b"), ("b", "a")):
        for row in across.to_dict("records"):
            reason = f"also filed as {row[f'path_{other}']} ({row['method']} {row['score']})"
            rows.append((row[f"path_{one}"], row[f"motif_{one}"], "twin in other motif", reason))
    return pd.DataFrame(rows, columns=list(DOUBT_COLUMNS))


def in_training(split: pd.DataFrame, edges: pd.DataFrame, groups: pd.DataFrame) -> pd.DataFrame:
    """Count each test picture's near-duplicates in training: by an edge, and by the group.

    ``path, motif, direct, by_group`` and ``twins``, the paths of the direct ones.
    """
    edges = edges[edges["seen"] != "false"]
    train = set(split.loc[split["subset"] == "train", "path"])
    near: dict[str, set[str]] = {}
    for a, b in zip(edges["path_a"], edges["path_b"], strict=True):
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    group = dict(zip(groups["path"], groups["group"], strict=True))
    members = groups.loc[groups["path"].isin(train), "group"].value_counts()
    test = split.loc[split["subset"] == "test", ["path", "motif"]]
    direct = [sorted(near.get(path, set()) & train) for path in test["path"]]
    return test.assign(
        direct=[len(others) for others in direct],
        by_group=[int(members.get(group.get(path), 0)) for path in test["path"]],
        twins=[" ".join(others) for others in direct],
    ).reset_index(drop=True)


def out_of_fold(
    dataset: Dataset, groups: pd.DataFrame, weights_directory: str | None = None
) -> np.ndarray:
    """Return a linear probe's probabilities (N, K) of pictures it was not fitted on.

    The mean of five divisions into at most ten folds that keep near-duplicates together.
    """
    values = _features(dataset, weights_directory)
    of = dict(zip(groups["path"], groups["group"], strict=True))
    group = dataset.manifest["path"].map(of)
    labels = np.array(dataset.labels)
    folds = min(10, int(group.groupby(labels).nunique().min()))
    sums = np.zeros((len(labels), len(dataset.classes)))
    for seed in range(5):
        division = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for train, test in division.split(values, labels, group):
            probe = baselines.linear_probe().fit(values[train], labels[train])
            sums[test] += probe.predict_proba(values[test])
    return sums / 5


def confident_learning(dataset: Dataset, probabilities: np.ndarray) -> pd.DataFrame:
    """Return the labels that confident learning doubts, with ``DOUBT_COLUMNS``, the worst first.

    Northcutt et al., 2021 (https://arxiv.org/abs/1911.00068), by cleanlab.
    """
    from cleanlab.filter import find_label_issues

    labels = np.array(dataset.labels)
    # one process: it takes milliseconds, and starting more takes seconds
    worst = find_label_issues(
        labels, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    rows = []
    for i in worst:
        path, motif = dataset.manifest.loc[i, ["path", "motif"]]
        guess = int(probabilities[i].argmax())
        reason = (
            f"read as {dataset.classes[guess]} ({probabilities[i, guess]:.2f}), its label has "
            f"{probabilities[i, labels[i]]:.2f}"
        )
        rows.append((path, motif, "confident learning", reason))
    return pd.DataFrame(rows, columns=list(DOUBT_COLUMNS))


def _features(dataset: Dataset, weights_directory: str | None) -> np.ndarray:
    recipe = recipes.get(PROBE)
    model, _ = models.build(recipe, len(dataset.classes), weights_directory)
    preprocessing = models.preprocessing_of(recipe)
    pixels = transforms.load_pixels(dataset, preprocessing)
    return training.features(model, preprocessing, pixels).numpy()


def _by_eye(dataset: Dataset, doubts: pd.DataFrame) -> pd.DataFrame:
    motif_of = dict(zip(dataset.manifest["path"], dataset.manifest["motif"], strict=True))
    known = doubts[doubts["path"].isin(list(motif_of))]
    return known.assign(motif=known["path"].map(motif_of))[list(DOUBT_COLUMNS)]


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read some columns of a CSV file that may not be there yet."""
    if not path.exists():
        return pd.DataFrame(columns=list(columns), dtype=str)
    return read_table(path, columns)[list(columns)]


def _refuse_smaller(dataset: Dataset, folder: Path) -> None:
    there = _read(folder / "duplicate_groups.csv", ("path",))
    if missing := set(there["path"]) - set(dataset.manifest["path"]):
        raise BatikError(
            f"{folder} holds the audit of {len(there)} pictures, {len(missing)} of which are not "
            f"in {dataset.root} as loaded now: load all classes, choose another results folder, "
            f"or remove {folder / 'duplicate_groups.csv'}."
        )
