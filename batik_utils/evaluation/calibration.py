"""Calibration: do predicted probabilities match how often the answers are right?

All functions take out-of-fold predictions as `out_of_fold.pooled` returns them.
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
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


def _answers(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer (N,) is right, and its stated probability."""
    labels, probabilities, _ = arrays(table)
    return probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
