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

    ``nll``: mean negative log-likelihood (nats); ``brier``: sum over classes, 0 to 2.
    """
    labels, predicted = np.asarray(labels), probabilities.argmax(1)
    classes = np.arange(probabilities.shape[1])
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


def wilson(right: int, total: int) -> tuple[float, float]:
    """Return the 95 % Wilson (1927) score interval of a share; for 13 of 15: (0.621, 0.963)."""
    interval = binomtest(int(right), int(total)).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def confusion(
    labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """Return counts, true motif by row and predicted motif by column, in class order."""
    counts = sk.confusion_matrix(labels, predicted, labels=list(classes))
    columns = pd.Index(classes, name="predicted motif")
    return pd.DataFrame(counts, pd.Index(classes, name="true motif"), columns)


def summarise(runs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Summarise all runs of each recipe and number of epochs in one row, best accuracy first.

    Scores are means over runs; ``sd``, ``min`` and ``max`` are of the accuracy between runs.
    ``lower`` and ``upper`` are the 95 % Wilson interval of one test with the mean number right:
    more seeds do not shrink it, because they score the same pictures again. BatikError if a run
    lacks predictions, or the other way round.
    """
    counted, expected = predictions["run"].value_counts(), runs.set_index("run")["n_test"]
    if counted.to_dict() != expected.to_dict():
        odd = [*sorted({*counted.index} ^ {*expected.index}), "a different number of rows"]
        raise BatikError(f"runs.csv and predictions.csv do not belong together: {odd[0]}.")
    rows = []
    for (recipe, epochs), group in runs.groupby(["recipe", "epochs"], sort=False):
        first = group.iloc[0]
        lower, upper = wilson(round(group["accuracy"].mean() * first["n_test"]), first["n_test"])
        rows.append(
            {
                "recipe": recipe,
                "epochs": epochs,
                "family": first["family"],
                "weights": first["weights"],
                "runs": len(group),
                "n_test": int(first["n_test"]),
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

    ``lower, upper``: 95 % Wilson interval of all answers, as if runs had pictures of their own.
    """
    rows = []
    for recipe in [name for name in published if (runs["recipe"] == name).any()]:
        group, value = runs[runs["recipe"] == recipe], published[recipe]
        right = round((group["accuracy"] * group["n_test"]).sum())
        ends = wilson(right, group["n_test"].sum())
        share = (group["accuracy"] >= value - 1e-4).mean()  # published with four digits
        rows.append((recipe, value, len(group), *_spread(group, "mean").values(), *ends, share))
    columns = ("recipe", "published", "runs", "mean", "sd", "min", "max", "lower", "upper")
    return pd.DataFrame(rows, columns=[*columns, "share_at_or_above"])


def _spread(group: pd.DataFrame, name: str) -> dict[str, float]:
    values = group["accuracy"]
    return {name: values.mean(), "sd": values.std(), "min": values.min(), "max": values.max()}
