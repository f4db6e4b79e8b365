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


def arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Class indices (N,), probabilities (N, K) and motifs, from ``label, p_<motif>...``."""
    values = table.filter(regex="^p_").astype(float)
    classes = [column[2:] for column in values]
    labels, values = pd.Index(classes).get_indexer(table["label"]), values.to_numpy()
    total = values.sum(axis=1)
    # "not close" also catches nan
    if not len(table) or (labels < 0).any() or not np.allclose(total, 1, atol=1e-3):
        raise BatikError(
            "These predictions have no probability p_<motif> for each label, or some that do not "
            "sum to 1: remove the runs concerned and run them again."
        )
    return labels, values / total[:, None], classes


def reliability(table: pd.DataFrame, bins: int = 6) -> pd.DataFrame:
    """Mean ``confidence``, ``accuracy, lower, upper`` in bins of equally many answers of a recipe.

    The 95 % Wilson interval counts each picture once, however many repeats there are.
    """
    right, stated = _answers(table)
    accuracy, confidence = calibration_curve(right, stated, n_bins=bins, strategy="quantile")
    n = max(1, round(len(table) / table["repeat"].nunique() / len(accuracy)))
    result = pd.DataFrame({"confidence": confidence, "accuracy": accuracy})
    result[["lower", "upper"]] = [metrics.wilson(round(share * n), n) for share in accuracy]
    return result


def expected_calibration_error(table: pd.DataFrame, bins: int = 10) -> float:
    """Mean distance between confidence and accuracy in bins of equal width (Guo et al., 2017)."""
    right, stated = _answers(table)
    place = np.clip((stated * bins).astype(int), 0, bins - 1)
    gaps = np.bincount(place, weights=right - stated, minlength=bins)
    return float(np.abs(gaps).sum() / len(table))


def temperature_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """Temperature T that minimises the log-loss of softmax(logits / T), between e^-5 and e^5.

    Above 1 the model was overconfident; one that knows nothing ends at the top. scikit-learn has
    the same since 1.8, newer than Colab's.
    """
    own = np.arange(len(labels)), np.asarray(labels)

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits * np.exp(-log_temperature), axis=1)[own].mean()

    found = minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def scaled(pooled: pd.DataFrame) -> pd.DataFrame:
    """The same rows with each fold's probabilities scaled by a temperature from the other folds.

    They are those of the same recipe and repeat, so a fold's own labels do not enter, and
    near-duplicates share a fold.
    """
    pooled = pooled.reset_index(drop=True)
    labels, probabilities, classes = arrays(pooled)
    # clipped as in scikit-learn's log_loss
    logits = np.log(np.clip(probabilities, np.finfo(np.float64).eps, None))
    temperature = np.ones(len(pooled))
    fold = pooled["fold"].to_numpy()
    for rows in pooled.groupby(["recipe", "repeat"]).indices.values():
        for held in np.unique(fold[rows]):
            others = rows[fold[rows] != held]
            temperature[rows[fold[rows] == held]] = temperature_of(logits[others], labels[others])
    values = softmax(logits / temperature[:, None], axis=1)
    columns = {f"p_{name}": values[:, k] for k, name in enumerate(classes)}
    return pooled.assign(**columns, temperature=temperature)


def before_and_after(pooled: pd.DataFrame) -> pd.DataFrame:
    """One row a recipe: median ``temperature``; ``nll, nll_scaled`` and so on."""
    rows = []
    for recipe, before in pooled.groupby("recipe", sort=False):
        after = scaled(before)
        row = {"recipe": recipe, "temperature": after["temperature"].median()}
        own, corrected = (
            metrics.scores(*arrays(table)[:2]) | {"ece": expected_calibration_error(table)}
            for table in (before, after)
        )
        for name in ("nll", "brier", "ece"):
            row |= {name: own[name], f"{name}_scaled": corrected[name]}
        rows.append(row)
    return pd.DataFrame(rows)


def _answers(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer (N,) is right, and its stated probability."""
    labels, probabilities, _ = arrays(table)
    return probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
