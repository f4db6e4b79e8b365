"""Try a step towards the final model, and keep what it gave, whether it helped or not.

Run it::

    python -m batik_utils ablate copies --data folder --root path/to/indonesian-batik-motifs

adds rows to ``<results>/<data set>/cv/ablation.csv`` (``none`` to ``ablation_none.csv``). Every row
is a cross-validation in the folds of ``folds.csv`` with fixed settings. Nothing is chosen by it;
but who reads the table and then decides what `batik_utils.selection` may choose from has looked at
test pictures, which makes the final score a little too good.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.linalg
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from batik_utils import calibration, final, linear, rejection, significance
from batik_utils.errors import BatikError
from batik_utils.linear import Head

#: Changed copies that are computed; those that are not learned from are tested on, too.
COPIES = 8
RIDGES = (0.3, 1.0)
#: Megabytes of the ONNX file with each set of features.
_MEGABYTES = {"both": 10.1, "efficientnet_lite0": 6.4, "mobilenet_v2": 3.9}

#: Gram matrix (R, R), training rows, their pictures' labels and weights, to coefficients and bias.
Fit = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Trial:
    """What all steps work on.

    Attributes:
        material: features.
        fold_of: (N, R) fold in which a picture is tested.
        doubted: (N,) whether a person or a twin in another motif doubts the label.
        doubted_by_any: (N,) the same, or confident learning does.
    """

    material: final.Material
    fold_of: np.ndarray
    doubted: np.ndarray
    doubted_by_any: np.ndarray

    def gram(self, subset: str) -> np.ndarray:
        """Return products (V N, V N) of the pictures' scaled features, copies behind them."""
        return self.material.bank({subset}).grams[subset]


def rows_of(train: np.ndarray, n: int, copies: int) -> np.ndarray:
    """Return the rows of some of ``n`` pictures and, behind them, of their first copies."""
    return np.concatenate([train + n * k for k in range(1 + copies)])


def outer(
    gram: np.ndarray,
    labels: np.ndarray,
    fold_of: np.ndarray,
    copies: int,
    fit: Fit,
    tested_copies: int = 0,
) -> np.ndarray:
    """Predict every picture in every repeat with one way of fitting.

    Args:
        gram: (V N, V N) products.
        labels: (N,) class indices.
        fold_of: (N, R).
        copies: how many are learned from.
        fit: gets the products of the training rows, their labels, and the training pictures.
        tested_copies: how many copies are tested beside the pictures.

    Returns:
        (1 + tested_copies, R, N, K) logits.
    """
    n, repeats = fold_of.shape
    logits = np.full((1 + tested_copies, repeats, n, labels.max() + 1), np.nan)
    for repeat in range(repeats):
        for fold in np.unique(fold_of[:, repeat]):
            tested = fold_of[:, repeat] == fold
            train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
            rows = rows_of(train, n, copies)
            dual, bias = fit(gram[np.ix_(rows, rows)], labels[rows % n], train)
            answers = rows_of(test, n, tested_copies)
            found = gram[np.ix_(answers, rows)] @ dual + bias
            logits[:, repeat, test] = found.reshape(1 + tested_copies, len(test), -1)
    return logits


def weighted(head: Head, copies: int, weight: float, of_picture: np.ndarray | None = None) -> Fit:
    """Return a fit where copies weigh less, and pictures differ.

    Args:
        head: what kind.
        copies: how many of each picture.
        weight: of each copy.
        of_picture: (N,) further weights; None for 1.
    """

    def fit(gram: np.ndarray, labels: np.ndarray, train: np.ndarray):
        weights = np.repeat([1.0, weight], [len(train), copies * len(train)])
        if of_picture is not None:
            weights *= np.tile(of_picture[train], 1 + copies)
        return linear.fit_dual(gram, labels, head, weights)

    return fit


def nuisance(ridge: float, copies: int, strength: float) -> Fit:
    """Return a discriminant whose scatter within motifs has that within pictures added.

    Directions in which copies of one picture differ shall count less (within-class covariance
    normalisation: Hatch et al., 2006). Copies together count as much as the picture.

    Args:
        ridge: as of `linear.Head`.
        copies: how many of each picture.
        strength: factor of the added scatter.
    """

    def fit(gram: np.ndarray, labels: np.ndarray, train: np.ndarray):
        n, weights = len(gram), linear.copy_weights(len(train), copies)
        onehot = np.eye(labels.max() + 1)[labels]
        average = weights[:, None] * onehot
        average /= average.sum(0)
        within = np.eye(n) - onehot @ average.T
        same = np.tile(np.eye(len(train)), (1 + copies, 1 + copies)) / (1 + copies)
        copied = np.eye(n) - same
        scatter = within.T @ (weights[:, None] / weights.sum() * within)
        scatter += strength / n * copied  # a projection: equal to its own square
        # (r I + X'MX)^-1 X'A = X' (r I + MXX')^-1 A, the push-through identity
        dual = scipy.linalg.solve(ridge * np.eye(n) + scatter @ gram, average)
        return dual, -0.5 * np.einsum("nk,nk->k", average, gram @ dual)

    return fit


def distilled(teacher: np.ndarray, head: Head, copies: int, share: float) -> Fit:
    """Return a fit to labels mixed with a teacher's probabilities.

    Each picture is learned as every class, weighed by its share in it (Hinton et al., 2015).

    Args:
        teacher: (N, K) probabilities, out of fold: no picture's own label made its row.
        head: of the student.
        copies: how many of each picture.
        share: of the teacher.
    """

    def fit(gram: np.ndarray, labels: np.ndarray, train: np.ndarray):
        n, k = len(gram), teacher.shape[1]
        soft = (1 - share) * np.eye(k)[labels] + share * np.tile(teacher[train], (1 + copies, 1))
        weights = (linear.copy_weights(len(train), copies)[:, None] * soft).T.ravel()
        repeated = np.tile(gram, (k, k))
        dual, bias = linear.fit_dual(repeated, np.repeat(np.arange(k), n), head, weights)
        return dual.reshape(k, n, k).sum(0), bias

    return fit


def row(
    trial: Trial,
    step: str,
    description: str,
    logits: np.ndarray,
    megabytes: float,
    notes: str = "",
) -> dict:
    """Return a row of the table.

    Args:
        trial: for labels and groups.
        step: number and name.
        description: what was done.
        logits: (1 + C, R, N, K); the first are scored, the others mentioned.
        megabytes: of the model file.
        notes: added to the accuracy on changed copies and on undoubted labels.
    """
    labels = trial.material.labels
    right = logits.argmax(-1) == labels
    found = right[0].mean(0)
    lower, upper = significance.group_bootstrap(found, trial.material.groups)
    said = [f"undoubted labels {found[~trial.doubted].mean():.4f}"]
    if len(right) > 1:
        said.append(f"on {len(right) - 1} changed copies of test pictures {right[1:].mean():.4f}")
    if notes:
        said.append(notes)
    return {
        "step": step,
        "description": description,
        "accuracy": found.mean(),
        "lower": lower,
        "upper": upper,
        "sd_between_repeats": right[0].mean(1).std(ddof=1) if len(right[0]) > 1 else np.nan,
        "repeats": len(right[0]),
        "nll": calibrated_loss(logits[0], labels, trial.fold_of),
        "megabytes": megabytes,
        "notes": "; ".join(said),
    }


def calibrated_loss(logits: np.ndarray, labels: np.ndarray, fold_of: np.ndarray) -> float:
    """Return the log-loss (nats); each fold's temperature comes from the other folds of the repeat.

    Args:
        logits: (R, N, K).
        labels: (N,).
        fold_of: (N, R).
    """
    losses = []
    for values, folds in zip(logits, fold_of.T, strict=False):
        for fold in np.unique(folds):
            held = folds == fold
            t = calibration.temperature_of(values[~held], labels[~held])
            chance = softmax(values[held] / t, axis=1)[np.arange(held.sum()), labels[held]]
            losses.append(-np.log(np.maximum(chance, 1e-12)))
    return float(np.concatenate(losses).mean())


# --- steps ------------------------------------------------------------------------------------


def copies(trial: Trial) -> Iterator[dict]:
    """More changed copies, weighed one by one or all together as the picture."""
    labels, n_copies = trial.material.labels, len(trial.material.copies)
    for subset in ("efficientnet_lite0/three", "mobilenet_v2/three", "both/three"):
        gram = trial.gram(subset)
        for k in (1, 2, 4, 8):
            for weight in sorted({1.0, 1 / k} if k < n_copies else {1 / k}):
                for ridge in RIDGES:
                    fit = weighted(Head("lda", ridge), k, weight)
                    logits = outer(gram, labels, trial.fold_of, k, fit, n_copies)
                    text = f"{subset}, ridge {ridge:g}, {k} copies of weight {weight:g}"
                    yield row(trial, "12 more copies", text, logits, _megabytes(subset))


def within_pictures(trial: Trial) -> Iterator[dict]:
    """The copies' scatter within pictures added to the discriminant's."""
    labels = trial.material.labels
    for subset in ("efficientnet_lite0/three", "both/three"):
        gram = trial.gram(subset)
        for k in (2, 4):
            for strength in (0.3, 1.0, 3.0):
                logits = outer(gram, labels, trial.fold_of, k, nuisance(1.0, k, strength))
                text = f"{subset}, ridge 1, {k} copies, scatter within pictures times {strength:g}"
                yield row(trial, "13 scatter of copies", text, logits, _megabytes(subset))


def doubts(trial: Trial) -> Iterator[dict]:
    """Doubtful labels weighed down while learning; all pictures are tested."""
    labels, k = trial.material.labels, 2
    kinds = (("a person or a twin", trial.doubted), ("any source", trial.doubted_by_any))
    for subset, ridge in (("efficientnet_lite0/three", 0.3), ("both/three", 1.0)):
        gram = trial.gram(subset)
        for who, doubted in kinds:
            for weight in (0.0, 0.25, 0.5):
                fit = weighted(Head("lda", ridge), k, 1 / k, np.where(doubted, weight, 1.0))
                text = f"{subset}, ridge {ridge:g}, labels doubted by {who} weigh {weight:g}"
                logits = outer(gram, labels, trial.fold_of, k, fit)
                notes = ""
                if who == "any source":
                    notes = "confident learning had seen the test pictures' labels"
                yield row(trial, "14 doubtful labels", text, logits, _megabytes(subset), notes)


def averages(trial: Trial) -> Iterator[dict]:
    """Logits of several heads averaged, each over its own spread; still one linear function."""
    labels, k = trial.material.labels, 2
    found = {}
    for subset in trial.material.columns:
        gram = trial.gram(subset)
        for ridge in RIDGES:
            logits = outer(gram, labels, trial.fold_of, k, weighted(Head("lda", ridge), k, 1 / k))
            centred = logits - logits.mean(-1, keepdims=True)
            found[subset, ridge] = centred / centred.std()
    for text, keys in (
        ("both/three, two ridges", [("both/three", r) for r in RIDGES]),
        (
            "both/three ridge 1 and Lite0/three ridge 0.3",
            [("both/three", 1.0), ("efficientnet_lite0/three", 0.3)],
        ),
        (
            "both/three, both/last and Lite0/three",
            [("both/three", 1.0), ("both/last", 0.3), ("efficientnet_lite0/three", 0.3)],
        ),
        (f"all {len(found)} of five sets and two ridges", list(found)),
    ):
        logits = np.mean([found[key] for key in keys], axis=0)
        yield row(trial, "15 averaged heads", text, logits, _megabytes("both/"))


def distillation(trial: Trial) -> Iterator[dict]:
    """A student on one backbone learns the inner out-of-fold answers of both."""
    labels, groups, k = trial.material.labels, trial.material.groups, 2
    teacher_gram = trial.gram("both/three")
    student = "efficientnet_lite0/three"
    gram, n = trial.gram(student), len(labels)
    teach = weighted(Head("lda", 1.0), k, 1 / k)

    def soft(train: np.ndarray) -> np.ndarray:
        """Return (N, K) probabilities of the training pictures, each while it was left out."""
        logits = np.full((n, labels.max() + 1), np.nan)
        division = StratifiedGroupKFold(5, shuffle=True, random_state=0)
        for _, inside in division.split(train, labels[train], groups[train]):
            test, learned = train[inside], np.delete(train, inside)
            rows = rows_of(learned, n, k)
            dual, bias = teach(teacher_gram[np.ix_(rows, rows)], labels[rows % n], learned)
            logits[test] = teacher_gram[np.ix_(test, rows)] @ dual + bias
        t = calibration.temperature_of(logits[train], labels[train])
        return softmax(logits / t, axis=1)

    for share in (0.3, 0.6):

        def fit(products: np.ndarray, classes: np.ndarray, train: np.ndarray, share=share):
            return distilled(soft(train), Head("lda", 0.3), k, share)(products, classes, train)

        logits = outer(gram, labels, trial.fold_of[:, :2], k, fit)
        text = (
            f"{student}, ridge 0.3, 2 copies, labels mixed with {share:g} of the inner out-of-fold "
            f"probabilities of both backbones"
        )
        yield row(trial, "16 distillation", text, logits, _megabytes(student))


def none_of_these(trial: Trial) -> Iterator[dict]:
    """Scores of "none of these" in three situations; rows of `ablation_none.csv`."""
    material, first = trial.material, trial.fold_of[:, 0]
    for subset in ("efficientnet_lite0/three", "both/three"):
        columns, scores = material.columns[subset], scores_tried(material, subset)
        unseen = final.leave_motifs_out(material, first, columns, scores)
        known = final.leave_pictures_out(material, first, columns, scores)
        for name in scores:
            of = {
                r["other"]: r
                for r in [*unseen.table.to_dict("records"), *known.table.to_dict("records")]
                if r["score"] == name
            }
            # where 95 % of the motifs' undoubted pictures alone are kept
            limit = rejection.threshold_at_recall(known.known[name][~trial.doubted], 0.95)
            yield {
                "features": subset,
                "score": name,
                "auroc_unseen_motif": of["other motifs"]["auroc"],
                "rejected_unseen_motif": 1 - of["other motifs"]["fpr_at_95"],
                "auroc_unseen_picture": of["known other motifs"]["auroc"],
                "rejected_unseen_picture": 1 - of["known other motifs"]["fpr_at_95"],
                "rejected_unseen_picture_at_90": 1 - of["known other motifs"]["fpr_at_90"],
                "rejected_unseen_picture_undoubted": float((known.other[name] < limit).mean()),
                **{f"rejected_{k}": 1 - of[k]["fpr_at_95"] for k in material.foreign},
            }


def scores_tried(material: final.Material, subset: str) -> dict:
    """Return all scores of `rejection`, and some that were tried beside them."""

    def plain(known, labels, other, copies=()):
        """Combined as before: no copies, distance in all features."""
        return rejection.combined(known, labels, other)

    def energy_copies(known, labels, other, copies=()):
        return rejection.energy(
            np.concatenate([known, *copies]), np.tile(labels, 1 + len(copies)), other
        )

    def background_copies(known, labels, other, copies=()):
        return rejection.background(np.concatenate([known, *copies]), labels, other)

    def nearest_less_others(known, labels, other, copies=()):
        """Nearness to known pictures less that to others."""
        near, far = (rejection.nearest(x, labels, other) for x in (known, other))
        return lambda x: near(x) - far(x)

    return {
        **final.scores_of(material, subset),
        "combined without copies": plain,
        "energy with copies": energy_copies,
        "background with copies": background_copies,
        "nearest known less nearest other": nearest_less_others,
    }


#: Rows of ``ablation.csv`` by name of the step; ``none`` has a table of its own.
STEPS: dict[str, Callable[[Trial], Iterator[dict]]] = {
    "copies": copies,
    "scatter": within_pictures,
    "doubts": doubts,
    "averages": averages,
    "distillation": distillation,
    "none": none_of_these,
}


def check(step: str) -> None:
    """Raise a `BatikError` if there is no such step."""
    if step not in STEPS:
        raise BatikError(f"There is no step '{step}': use one of {', '.join(STEPS)}.")


def run(trial: Trial, step: str, folder: Path, command: str, *, progress: bool = True) -> Path:
    """Compute a step and add its rows to the table.

    Args:
        trial: what steps work on.
        step: of `STEPS`.
        folder: ``<results>/<data set>/cv``.
        command: kept in the table.
        progress: show a bar.

    Returns:
        The table's file.

    Raises:
        BatikError: no such step.
    """
    check(step)
    rows = tqdm(STEPS[step](trial), desc=step, disable=not progress)
    return add(rows, folder / ("ablation_none.csv" if step == "none" else "ablation.csv"), command)


def add(rows: Iterable[dict], path: Path, command: str) -> Path:
    """Add rows to a table; those of the same command are replaced."""
    added = pd.DataFrame(list(rows)).assign(command=command).round(4)
    if path.is_file():
        before = pd.read_csv(path)
        added = pd.concat([before[before["command"] != command], added], ignore_index=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    added.to_csv(path, index=False)
    return path


def trial_of(
    material: final.Material, fold_of: np.ndarray, doubted: set[str], by_any: set[str]
) -> Trial:
    """Return what steps work on.

    Args:
        material: features.
        fold_of: (N, R).
        doubted: paths that a person or a twin doubts.
        by_any: paths that anything doubts.
    """
    paths: Sequence[str] = list(material.paths)
    return Trial(material, fold_of, np.isin(paths, list(doubted)), np.isin(paths, list(by_any)))


def _megabytes(subset: str) -> float:
    return _MEGABYTES[subset.split("/")[0]]
