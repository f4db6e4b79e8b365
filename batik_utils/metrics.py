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
    """Return every score that a run records, from class indices (N,) and probabilities (N, K).

    Accuracy; macro means of precision (0 for a motif never predicted), recall and F1; ``nll``, the
    mean negative log-likelihood (nats); ``brier``, the mean squared distance to the one-hot label
    summed over classes, 0 to 2.

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
    """Return the Wilson score interval of a share; for 13 right of 15: (0.621, 0.963).

    Source: Wilson (1927), computed by SciPy.

    Raises:
        BatikError: no trials, or more successes than trials.
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
    columns = pd.Index(classes, name="predicted motif")
    return pd.DataFrame(counts, pd.Index(classes, name="true motif"), columns)


def report(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> pd.DataFrame:
    """Return precision, recall, F1 and number of pictures for each motif and the macro mean."""
    settings = {"labels": list(classes), "zero_division": 0}
    columns = ("precision", "recall", "f1", "pictures")
    found = sk.precision_recall_fscore_support(labels, predicted, **settings)
    table = pd.DataFrame(dict(zip(columns, found, strict=True)), index=list(classes))
    table.loc["macro mean"] = [*table[list(columns[:3])].mean(), table["pictures"].sum()]
    return table.astype({"pictures": int})


def summarise(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Summarise all runs of each recipe and number of epochs in one row, best accuracy first.

    Scores are means over runs; ``sd``, ``min`` and ``max`` are of the accuracy between runs.
    ``lower`` and ``upper`` are the 95 % Wilson interval of one test with the mean number right:
    more seeds do not shrink it, because they score the same pictures again.

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
        first, n_test = group.iloc[0], int(group["n_test"].iloc[0])
        lower, upper = wilson(round(group["accuracy"].mean() * n_test), n_test)
        rows.append(
            {
                "recipe": recipe,
                "epochs": epochs,
                "family": first["family"],
                "weights": first["weights"],
                "runs": len(group),
                "n_test": n_test,
                **_spread(group, "accuracy"),
                "lower": lower,
                "upper": upper,
                **group[["f1_macro", "nll", "brier", "train_seconds"]].mean(),
                "params": int(first["params"]),
            }
        )
    table = pd.DataFrame(rows)
    return table.sort_values(["accuracy", "recipe"], ascending=[False, True], ignore_index=True)


def reproduction(runs: pd.DataFrame, published: dict[str, float]) -> pd.DataFrame:
    """Return published accuracies, by recipe, beside those of our runs.

    ``lower`` and ``upper`` are the 95 % Wilson interval of all runs' predictions pooled: too
    narrow, since every run scores the same pictures. ``share_at_or_above`` counts the runs that
    reach the published value.
    """
    rows = []
    for recipe, value in published.items():
        group = runs[runs["recipe"] == recipe]
        if group.empty:
            continue
        right = round((group["accuracy"] * group["n_test"]).sum())
        lower, upper = wilson(right, int(group["n_test"].sum()))
        # published values are rounded to a hundredth of a percent
        share = (group["accuracy"] >= value - 1e-4).mean()
        spread = _spread(group, "mean")
        rows.append((recipe, value, len(group), *spread.values(), lower, upper, share))
    columns = ("recipe", "published", "runs", "mean", "sd", "min", "max", "lower", "upper")
    return pd.DataFrame(rows, columns=[*columns, "share_at_or_above"])


def _spread(group: pd.DataFrame, name: str) -> dict[str, float]:
    values = group["accuracy"]
    return {name: values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
