"""Look a data set over before believing a number measured on it.

    >>> from batik_utils import data
    >>> from batik_utils.duplicates.pairs import audit
    >>> found = audit.run(data.load("folder", "indonesian-batik-motifs", "all"), results)
    >>> print(found)

Writes CSV files beside the results, never a picture, and changes no label:

- ``duplicates.csv``: direct edges (see `duplicates`). The column ``seen`` is for a person who has
  looked at the two pictures side by side: ``true``, ``false`` or ``unsure``. It is kept when the
  audit is repeated.
- ``duplicate_groups.csv``: what the edges connect, for splitting only; with the pairs that a person
  found and the audit did not (``missed_pairs.csv``, kept by hand).
- ``duplicates_planted.csv``, ``duplicates_thresholds.csv``: see `duplicate_check`.
- ``doubtful_labels.csv``: twins across motifs, what confident learning says of the three motifs,
  and what a person saw (``doubts_by_eye.csv``, kept by hand), such as pictures that are no cloth.
- ``course_twins.csv``: test pictures of the split ``course`` that have a twin in training.

Introduced in notebook 01, section "Near-duplicates".
"""

import logging
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from batik_utils import models, recipes, splits, transforms
from batik_utils.data import Dataset
from batik_utils.duplicates import duplicate_check
from batik_utils.duplicates import pairs as duplicates
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
    """What an audit found; every table is written as a CSV of its name.

    Attributes:
        folder: where the files are.
        duplicates: direct edges with ``seen``.
        duplicate_groups: ``path, motif, group``.
        duplicates_planted: one row a kind; empty if nothing was planted.
        duplicates_thresholds: one row a quantity; empty if nothing was planted.
        doubtful_labels: ``path, motif, source, reason``.
        course_twins: one row a test picture of ``course``; empty if there is no such split.
    """

    folder: Path
    duplicates: pd.DataFrame
    duplicate_groups: pd.DataFrame
    duplicates_planted: pd.DataFrame
    duplicates_thresholds: pd.DataFrame
    doubtful_labels: pd.DataFrame
    course_twins: pd.DataFrame

    def counts(self) -> dict[str, int]:
        """Return the numbers of the summary, by name."""
        edges, sizes = self.duplicates, self.duplicate_groups["group"].value_counts()
        counts = {
            "pictures": len(self.duplicate_groups),
            "pairs": len(edges),
            "pairs across motifs": int((edges["motif_a"] != edges["motif_b"]).sum()),
            **{
                f"pairs by {name}": int((edges["method"] == name).sum())
                for name in duplicates.METHODS
            },
            "pairs seen true": int((edges["seen"] == "true").sum()),
            "pairs seen false": int((edges["seen"] == "false").sum()),
            "pairs seen unsure": int((edges["seen"] == "unsure").sum()),
            "groups of two or more": int((sizes > 1).sum()),
            "pictures in such groups": int(sizes[sizes > 1].sum()),
            "largest group": int(sizes.max()),
            "doubtful labels": int(self.doubtful_labels["path"].nunique()),
        }
        if len(self.course_twins):
            counts |= {
                "course test pictures": len(self.course_twins),
                "with a direct twin in training": int((self.course_twins["direct"] > 0).sum()),
                "with a twin in training by group": int((self.course_twins["by_group"] > 0).sum()),
            }
        return counts

    def __str__(self) -> str:
        lines = [f"{name}: {count}" for name, count in self.counts().items()]
        if len(self.duplicates_planted):
            lines += ["", self.duplicates_planted.to_string(index=False, na_rep="")]
        return "\n".join([*lines, "", str(self.folder)])


def run(
    dataset: Dataset,
    results: Path,
    *,
    per_kind: int = duplicate_check.PER_KIND,
    weights_directory: str | None = None,
    progress: bool = True,
) -> Audit:
    """Audit a data set and write what was found. Repeating it gives the same files.

    Args:
        dataset: the data set, best with all motifs: twins sit in other motifs' folders too.
        results: the results folder.
        per_kind: planted copies of each kind; 0 leaves the check of the method out.
        weights_directory: folder to look for pretrained weights first, or None.
        progress: show bars.

    Raises:
        BatikError: the folder holds the audit of more pictures, or a file kept by hand is damaged.
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

    looks = duplicates.look_all(dataset, progress=progress)
    gallery = duplicates.Gallery(looks)
    edges = duplicates.find(dataset, looks, gallery, progress=progress)
    edges = edges.merge(judged, "left", ["path_a", "path_b"]).fillna({"seen": ""})
    twins_known = pd.concat([edges, missed[["path_a", "path_b"]].assign(seen="true")])
    groups = duplicates.group(dataset, twins_known)
    kinds = limits = pd.DataFrame()
    if per_kind:
        kinds, limits = duplicate_check.check(
            dataset, looks, gallery, edges, per_kind, progress=progress
        )
    three = only(dataset, motifs.MOTIFS)
    doubts = [across_motifs(edges), _by_eye(dataset, by_eye)]
    twins = pd.DataFrame()
    if three.classes == motifs.MOTIFS:
        try:
            probabilities = out_of_fold(
                three, groups, weights_directory=weights_directory, progress=progress
            )
            doubts.append(confident_learning(three, probabilities))
        except WeightsNotFound as error:
            log.warning("Confident learning left out: %s", error)
        try:
            twins = splits.twins_in_training(splits.make("course", three), twins_known, groups)
        except BatikError as error:
            log.warning("Twins of the split 'course' left out: %s", error)
    doubtful = pd.concat(doubts, ignore_index=True)
    place = {path: i for i, path in enumerate(dataset.manifest["path"])}
    doubtful = doubtful.sort_values("path", key=lambda p: p.map(place), kind="stable")

    found = Audit(folder, edges, groups, kinds, limits, doubtful.reset_index(drop=True), twins)
    for name, table in vars(found).items():
        if isinstance(table, pd.DataFrame) and len(table.columns):
            splits.save(table, folder / f"{name}.csv")
    return found


def folder_of(dataset: Dataset, results: Path) -> Path:
    """Return where an audit belongs: the Kaggle set has one, whatever classes were loaded."""
    name = dataset.name
    if name.startswith("kaggle"):
        name = re.sub(r"-\d+motifs", "", name)
    return Path(results) / name


def groups_of(
    dataset: Dataset, results: Path, *, weights_directory: str | None = None, progress: bool = True
) -> Path:
    """Return the data set's ``duplicate_groups.csv``, auditing it first where that is missing.

    Args:
        dataset: the data set.
        results: the results folder.
        weights_directory: folder to look for pretrained weights first, or None.
        progress: show bars.
    """
    path = folder_of(dataset, results) / "duplicate_groups.csv"
    if not path.is_file():
        run(
            dataset,
            results,
            per_kind=0,
            weights_directory=weights_directory,
            progress=progress,
        )
    return path


def doubted(folder: Path, *, by_any: bool = False) -> set[str] | None:
    """Return the pictures whose labels are doubted by a person or by a twin in another motif.

    Confident learning is left out: it doubts what models get wrong, so a score without such
    pictures would flatter every model.

    Args:
        folder: ``<results>/<data set>``.
        by_any: count confident learning, too.

    Returns:
        Paths; None where there was no audit.
    """
    path = folder / "doubtful_labels.csv"
    if not path.is_file():
        return None
    table = _read(path, ("path", "source"))
    return set(table.loc[by_any | table["source"].isin(INDEPENDENT_DOUBTS), "path"])


def only(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Return the part of a data set that belongs to some motifs."""
    manifest = dataset.manifest[dataset.manifest["motif"].isin(classes)].reset_index(drop=True)
    kept = tuple(motif for motif in dataset.classes if motif in classes)
    return replace(dataset, classes=kept, manifest=manifest)


def across_motifs(edges: pd.DataFrame) -> pd.DataFrame:
    """Return both pictures of every pair filed under two motifs, with ``DOUBT_COLUMNS``.

    Args:
        edges: of `duplicates.find`; pairs judged false are left out.
    """
    across = edges[edges["motif_a"] != edges["motif_b"]]
    if "seen" in across:
        across = across[across["seen"] != "false"]
    rows = []
    for one, other in (("a", "b"), ("b", "a")):
        for row in across.to_dict("records"):
            reason = f"also filed as {row[f'path_{other}']} ({row['method']} {row['score']})"
            rows.append((row[f"path_{one}"], row[f"motif_{one}"], "twin in other motif", reason))
    return pd.DataFrame(rows, columns=list(DOUBT_COLUMNS))


def out_of_fold(
    dataset: Dataset,
    groups: pd.DataFrame,
    *,
    folds: int = 10,
    seeds: int = 5,
    weights_directory: str | None = None,
    progress: bool = True,
) -> np.ndarray:
    """Return what a frozen network's linear probe says of pictures that it has not seen.

    Args:
        dataset: the data set.
        groups: of `duplicates.group`; twins stay on one side.
        folds: at most this many, fewer if a motif has fewer groups.
        seeds: repetitions, averaged.
        weights_directory: folder to look for pretrained weights first, or None.
        progress: show a bar.

    Returns:
        float array (N, K) in manifest and class order; rows sum to 1.

    Raises:
        WeightsNotFound: the network's weights cannot be had.
    """
    values = _probe_features(dataset, weights_directory, progress)
    of = dict(zip(groups["path"], groups["group"], strict=True))
    group = dataset.manifest["path"].map(of)
    labels = np.array(dataset.labels)
    folds = min(folds, int(group.groupby(labels).nunique().min()))
    sums = np.zeros((len(labels), len(dataset.classes)))
    for seed in range(seeds):
        for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(
            values, labels, group
        ):
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
            sums[test] += probe.fit(values[train], labels[train]).predict_proba(values[test])
    return sums / seeds


def confident_learning(dataset: Dataset, probabilities: np.ndarray) -> pd.DataFrame:
    """Return the labels that confident learning doubts, the worst first.

    Northcutt et al., 2021 (https://arxiv.org/abs/1911.00068), by cleanlab.

    Args:
        dataset: the data set.
        probabilities: out of fold, float (N, K).

    Returns:
        Rows with ``DOUBT_COLUMNS``.
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


def _probe_features(dataset: Dataset, weights_directory: str | None, progress: bool) -> np.ndarray:
    import torch

    recipe = recipes.get(PROBE)
    model, _ = models.build(recipe, len(dataset.classes), weights_directory)
    preprocessing = models.preprocessing_of(recipe)
    pixels = transforms.load_pixels(dataset, preprocessing)
    backbone = model.eval().backbone
    with torch.inference_mode():
        parts = [backbone(transforms.normalise(p, preprocessing)) for p in pixels.split(32)]
    return torch.cat(parts).numpy()


def _by_eye(dataset: Dataset, doubts: pd.DataFrame) -> pd.DataFrame:
    motif_of = dict(zip(dataset.manifest["path"], dataset.manifest["motif"], strict=True))
    known = doubts[doubts["path"].isin(list(motif_of))]
    return known.assign(motif=known["path"].map(motif_of))[list(DOUBT_COLUMNS)]


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read some columns of a CSV that may not be there yet."""
    if not path.exists():
        return pd.DataFrame(columns=list(columns), dtype=str)
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False)[list(columns)]
    except (ValueError, KeyError) as error:  # pandas' own errors are ValueErrors
        raise BatikError(
            f"{path} is damaged ({error}): restore it with git, or remove it."
        ) from error


def _refuse_smaller(dataset: Dataset, folder: Path) -> None:
    there = _read(folder / "duplicate_groups.csv", ("path",))
    if missing := set(there["path"]) - set(dataset.manifest["path"]):
        raise BatikError(
            f"{folder} holds the audit of {len(there)} pictures, {len(missing)} of which are not "
            f"in {dataset.root} as loaded now: load all classes, choose another results folder, "
            f"or remove {folder / 'duplicate_groups.csv'}."
        )
