"""Scores with intervals, from labels and probabilities.

Introduced in notebook 02, section "The test report", and used throughout notebook 04.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest
from sklearn import metrics as sk

from batik_utils.errors import BatikError


def scores(labels: Sequence[int], probabilities: np.ndarray) -> dict[str, float]:
    """Return every score that a run records.

    Args:
        labels: (N,) class indices.
        probabilities: (N, K), rows sum to 1.

    Returns:
        ``accuracy``, ``precision_macro``, ``recall_macro``, ``f1_macro`` (scikit-learn; a motif
        that was never predicted has precision 0), ``nll`` (mean negative log-likelihood, nats) and
        ``brier`` (mean squared distance to the one-hot label summed over classes, 0 to 2).

    Raises:
        BatikError: nothing to score, or shapes that do not fit.
    """
    labels = np.asarray(labels)
    if not len(labels) or probabilities.ndim != 2 or len(labels) != len(probabilities):
        raise BatikError(
            f"Cannot score {len(labels)} labels against probabilities of shape "
            f"{probabilities.shape}: both need the same, non-zero number of pictures."
        )
    classes = np.arange(probabilities.shape[1])
    predicted = probabilities.argmax(1)
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels, predicted, labels=classes, average="macro", zero_division=0
    )
    return {
        "accuracy": float(sk.accuracy_score(labels, predicted)),
        "precision_macro": float(precision),
        "recall_macro": float(recall),
        "f1_macro": float(f1),
        "nll": float(sk.log_loss(labels, probabilities, labels=classes)),
        "brier": float(((probabilities - np.eye(len(classes))[labels]) ** 2).sum(1).mean()),
    }


def wilson(right: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share.

    Args:
        right: number of successes.
        total: number of independent trials, at least 1.
        confidence: e.g. 0.95.

    Returns:
        Lower and upper end, 0 to 1. For 13 right of 15: (0.621, 0.963).

    Raises:
        BatikError: no trials, or more successes than trials.

    Source: Wilson (1927), computed by SciPy.
    """
    if not 0 <= right <= total or total < 1:
        raise BatikError(f"A share needs 0 <= right <= total and total >= 1, not {right}/{total}.")
    interval = binomtest(int(right), int(total)).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def confusion(
    labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """Return counts, true motif by row and predicted motif by column, in class order."""
    counts = sk.confusion_matrix(labels, predicted, labels=list(classes))
    return pd.DataFrame(
        counts,
        index=pd.Index(classes, name="true motif"),
        columns=pd.Index(classes, name="predicted motif"),
    )


def report(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Return precision, recall, F1 and number of pictures for each motif and the macro mean."""
    values = sk.classification_report(
        labels, predicted, labels=list(classes), output_dict=True, zero_division=0
    )
    rows = {name: values[name] for name in (*classes, "macro avg")}
    table = pd.DataFrame(rows).T.rename(columns={"f1-score": "f1", "support": "pictures"})
    return table.astype({"pictures": int}).rename(index={"macro avg": "macro mean"})


def summarise(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Summarise all runs of each recipe in one row.

    Args:
        runs: rows of ``runs.csv``.
        predictions: rows of ``predictions.csv``.

    Returns:
        One row a recipe and number of epochs, best mean accuracy first: ``recipe, epochs, family,
        weights, runs, n_test, accuracy`` (mean over runs), ``sd`` (between runs; empty for one
        run), ``min, max``, ``lower, upper`` (95 % Wilson interval of one run's test with the mean
        number right), ``f1_macro, nll, brier, train_seconds, params``.

        The interval is that of one test of ``n_test`` pictures: more seeds do not shrink it,
        because they score the same pictures again.

    Raises:
        BatikError: a run without its predictions, or the other way round.
    """
    counted = predictions.groupby("run").size()
    expected = runs.set_index("run")["n_test"]
    if not counted.sort_index().equals(expected.sort_index().rename(None)):
        odd = sorted(set(counted.index) ^ set(expected.index)) or ["a different number of rows"]
        raise BatikError(f"runs.csv and predictions.csv do not belong together: {odd[0]}.")
    rows = []
    for (recipe, epochs), group in runs.groupby(["recipe", "epochs"], sort=False):
        n_test = int(group["n_test"].iloc[0])
        mean = group["accuracy"].mean()
        lower, upper = wilson(round(mean * n_test), n_test)
        rows.append(
            {
                "recipe": recipe,
                "epochs": epochs,
                "family": group["family"].iloc[0],
                "weights": group["weights"].iloc[0],
                "runs": len(group),
                "n_test": n_test,
                "accuracy": mean,
                "sd": group["accuracy"].std(),
                "min": group["accuracy"].min(),
                "max": group["accuracy"].max(),
                "lower": lower,
                "upper": upper,
                **group[["f1_macro", "nll", "brier", "train_seconds"]].mean(),
                "params": int(group["params"].iloc[0]),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values(["accuracy", "recipe"], ascending=[False, True], ignore_index=True)


def reproduction(runs: pd.DataFrame, published: dict[str, float]) -> pd.DataFrame:
    """Set every published accuracy beside our repetitions of it.

    Args:
        runs: rows of ``runs.csv``.
        published: accuracy by recipe name.

    Returns:
        One row a recipe that has both, in table order: ``recipe, published, runs, mean, sd, min,
        max, lower, upper`` (95 % Wilson interval of all runs' predictions pooled: too narrow, since
        every run scores the same pictures) and ``share_at_or_above`` (runs that reach the published
        value).
    """
    rows = []
    for recipe, value in published.items():
        group = runs[runs["recipe"] == recipe]
        if group.empty:
            continue
        total = int(group["n_test"].sum())
        lower, upper = wilson(round((group["accuracy"] * group["n_test"]).sum()), total)
        rows.append(
            {
                "recipe": recipe,
                "published": value,
                "runs": len(group),
                "mean": group["accuracy"].mean(),
                "sd": group["accuracy"].std(),
                "min": group["accuracy"].min(),
                "max": group["accuracy"].max(),
                "lower": lower,
                "upper": upper,
                # published values are rounded to a hundredth of a percent
                "share_at_or_above": (group["accuracy"] >= value - 1e-4).mean(),
            }
        )
    columns = ("recipe", "published", "runs", "mean", "sd", "min", "max", "lower", "upper")
    return pd.DataFrame(rows, columns=[*columns, "share_at_or_above"])
