"""Calibration: do predicted probabilities match how often the answers are right?

All functions take out-of-fold predictions as `out_of_fold.pooled` returns them.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.calibration import calibration_curve

from batik_utils import metrics
from batik_utils.errors import BatikError

#: A temperature is looked for between e^-5 and e^5; a model that knows nothing ends at the top.
_LOG_BOUNDS = (-5.0, 5.0)


def arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Class indices (N,), probabilities (N, K) that sum to 1, and the K motifs of a table.

    The table has the columns ``label`` and ``p_<motif>...``.
    """
    classes = [column[2:] for column in table.columns if column.startswith("p_")]
    labels = pd.Index(classes).get_indexer(table["label"])
    values = table[[f"p_{name}" for name in classes]].to_numpy(dtype=float)
    total = values.sum(axis=1)
    # "not close" also catches nan
    if not len(table) or (labels < 0).any() or not np.allclose(total, 1, atol=1e-3):
        raise BatikError(
            "These predictions have no probability p_<motif> for each label, or some that do not "
            "sum to 1: remove the runs concerned and run them again."
        )
    return labels, values / total[:, None], classes


def reliability(table: pd.DataFrame, bins: int = 6) -> pd.DataFrame:
    """Accuracy against confidence of one recipe, in bins of equally many answers.

    One row a bin: mean ``confidence``, ``accuracy``, ``lower, upper`` (95 % Wilson interval, which
    counts each picture once, however many repeats there are).
    """
    labels, probabilities, _ = arrays(table)
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(
        right, probabilities.max(axis=1), n_bins=bins, strategy="quantile"
    )
    n = max(1, round(len(table) / table["repeat"].nunique() / len(accuracy)))
    ends = [metrics.wilson(round(share * n), n) for share in accuracy]
    lower, upper = zip(*ends, strict=True)
    return pd.DataFrame(
        {"confidence": confidence, "accuracy": accuracy, "lower": lower, "upper": upper}
    )


def expected_calibration_error(table: pd.DataFrame, bins: int = 10) -> float:
    """Mean distance between confidence and accuracy in bins of equal width (Guo et al., 2017)."""
    labels, probabilities, _ = arrays(table)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    place = np.clip((confidence * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(place, weights=right - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def temperature_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature T that minimises the log-loss of softmax(logits / T), between e^-5 and e^5.

    Above 1 the model was overconfident. scikit-learn has the same since 1.8, newer than Colab's.
    """
    own = np.arange(len(labels)), np.asarray(labels)

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits * np.exp(-log_temperature), axis=1)[own].mean()

    found = minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def scaled(pooled: pd.DataFrame) -> pd.DataFrame:
    """The same rows with each fold's probabilities scaled by a temperature from the other folds.

    They are those of the same recipe and repeat, so a fold's own labels do not enter, and
    near-duplicates share a fold.
    """
    pooled = pooled.reset_index(drop=True)
    labels, probabilities, classes = arrays(pooled)
    logits = _logits(probabilities)
    temperature = np.ones(len(pooled))
    fold = pooled["fold"].to_numpy()
    for (recipe, repeat), rows in pooled.groupby(["recipe", "repeat"]).indices.items():
        folds = np.unique(fold[rows])
        if len(folds) < 2:
            raise BatikError(
                f"Recipe '{recipe}' has one fold in repeat {repeat}: a temperature is fitted on "
                f"the others, so run them too."
            )
        for held in folds:
            others = rows[fold[rows] != held]
            temperature[rows[fold[rows] == held]] = temperature_of(logits[others], labels[others])
    values = softmax(logits / temperature[:, None], axis=1)
    columns = {f"p_{name}": values[:, k] for k, name in enumerate(classes)}
    return pooled.assign(**columns, temperature=temperature)


def before_and_after(pooled: pd.DataFrame) -> pd.DataFrame:
    """Calibration of every recipe before and after temperature scaling, one row a recipe.

    ``recipe, temperature`` (median over folds and repeats), ``nll, nll_scaled, brier,
    brier_scaled, ece, ece_scaled``.
    """
    rows = []
    for recipe, before in pooled.groupby("recipe", sort=False):
        after = scaled(before)
        row = {"recipe": recipe, "temperature": after["temperature"].median()}
        values = []
        for table in (before, after):
            scores = metrics.scores(*arrays(table)[:2])
            values.append(scores | {"ece": expected_calibration_error(table)})
        for name in ("nll", "brier", "ece"):
            row |= {name: values[0][name], f"{name}_scaled": values[1][name]}
        rows.append(row)
    return pd.DataFrame(rows)


def _logits(probabilities: np.ndarray) -> np.ndarray:
    # clipped as in scikit-learn's log_loss
    return np.log(np.clip(probabilities, np.finfo(np.float64).eps, None))
