"""Classifiers without a network, and linear discriminants in closed form.

A network should beat what a file's size, a picture's colours or its texture tell. See notebook 01.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import scipy.linalg
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from batik_utils.errors import BatikError

#: Neighbours and radius (px) of local binary patterns; properties of co-occurrence matrices.
LBP_SCALES = ((8, 1), (16, 2), (24, 3))
GLCM_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")


# manifest rows (N) and uint8 pixels (N, 3, S, S) to descriptions (N, F)
def file_facts(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return bytes, width, height, their ratio and bytes a pixel."""
    size, width, height = (manifest[c].to_numpy(float) for c in ("size", "width", "height"))
    return np.stack([size, width, height, width / height, size / (width * height)], 1)


def colour_histogram(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return square roots (Hellinger) of hue, saturation and value histograms, (N, 48)."""
    from skimage.color import rgb2hsv

    rows = []
    for picture in pixels:
        hsv = rgb2hsv(picture.transpose(1, 2, 0)).reshape(-1, 3)
        counts = [np.histogram(hsv[:, k], 16, (0, 1))[0] for k in range(3)]
        rows.append(np.sqrt(np.concatenate(counts) / len(hsv)))
    return np.array(rows)


def texture(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return local binary patterns and co-occurrence statistics of grey values.

    Sources: Ojala et al., 2002 (https://doi.org/10.1109/TPAMI.2002.1017623); Haralick et al., 1973
    (https://doi.org/10.1109/TSMC.1973.4309314), mean and range over four directions.
    """
    from skimage.color import rgb2gray
    from skimage.feature import graycomatrix, graycoprops, local_binary_pattern

    directions = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
    rows = []
    for picture in pixels:
        grey = (rgb2gray(picture.transpose(1, 2, 0)) * 255).round().astype(np.uint8)
        parts = []
        for neighbours, radius in LBP_SCALES:
            patterns = local_binary_pattern(grey, neighbours, radius, "uniform")
            bins = neighbours + 2
            parts.append(np.histogram(patterns, bins, (0, bins), density=True)[0])
        matrices = graycomatrix(
            grey // 8, (1, 2, 4, 8), directions, 32, symmetric=True, normed=True
        )
        for name in GLCM_PROPERTIES:
            values = graycoprops(matrices, name)
            parts += [values.mean(1), np.ptp(values, 1)]
        rows.append(np.concatenate(parts))
    return np.array(rows)


def linear_probe(c: float = 0.01) -> Pipeline:
    """Return an unfitted logistic regression on scaled features; ``c`` is scikit-learn's ``C``."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))


def _forest(seed: int) -> ClassifierMixin:
    return RandomForestClassifier(500, min_samples_leaf=2, random_state=seed)


def _svm(seed: int) -> ClassifierMixin:
    # an SVM gives no probabilities of its own: Platt's sigmoid on held-out scores
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(), cv=folds, ensemble=False))


class Baseline(NamedTuple):
    """A description of pictures, and a seed to an unfitted scikit-learn classifier of it."""

    describe: Callable[[pd.DataFrame, np.ndarray], np.ndarray]
    classifier: Callable[[int], ClassifierMixin]


#: By the name of the architecture in `recipes`.
BASELINES: dict[str, Baseline] = {
    "majority": Baseline(lambda rows, _: np.zeros((len(rows), 1)), lambda _: DummyClassifier()),
    "file_facts": Baseline(file_facts, _forest),
    "colour_histogram": Baseline(colour_histogram, lambda _: linear_probe(1.0)),
    "texture": Baseline(texture, _svm),
}


def fit_predict(
    name: str, features: np.ndarray, labels: np.ndarray, train: np.ndarray, test: np.ndarray, seed=0
) -> np.ndarray:
    """Return a baseline's probabilities (M, K) of the pictures ``test``, learned from ``train``."""
    classifier = BASELINES[name].classifier(seed)
    return classifier.fit(features[train], labels[train]).predict_proba(features[test])


@dataclass(frozen=True)
class Scaler:
    """Mean (F,) and positive scale (F,) of each feature."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Scaler":
        """Learn from pictures (N, F); the scale of features that hardly vary is limited."""
        values = np.asarray(features, dtype=np.float64)
        scale = values.std(0)
        return cls(values.mean(0), np.maximum(scale, 1e-3 * max(scale.max(), 1e-12)))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return scaled features (N, F), float64."""
        return (np.asarray(features, dtype=np.float64) - self.mean) / self.scale


@dataclass(frozen=True)
class Linear:
    """A fitted classifier: weight (F, K) and bias (K,)."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return logits (N, K) of features (N, F)."""
        return np.asarray(features, dtype=np.float64) @ self.weight + self.bias


def rescaled(scaled: Linear, scaler: Scaler) -> Linear:
    """Return the classifier of raw features that equals one of scaled features."""
    weight = scaled.weight / scaler.scale[:, None]
    return Linear(weight, scaled.bias - scaler.mean @ weight)


def copy_weights(pictures: int, copies: int) -> np.ndarray:
    """Return weights of pictures, then of ``copies`` of each that together count as much."""
    return np.r_[np.ones(pictures), np.full(copies * pictures, 1 / max(1, copies))]


def fit_gram(
    gram: np.ndarray, labels: np.ndarray, ridge: float, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear discriminant with equal priors; return coefficients (N, K) and bias (K,).

    ``gram`` (N, N) holds products of scaled training pictures: others with products ``cross``
    (M, N) have the logits ``cross @ coefficients + bias``. Weight 2 counts like two equal pictures.
    Covariance within classes plus ridge times identity (Friedman, 1989, Regularized discriminant
    analysis) is inverted through the Woodbury identity: pictures are few, features many.
    """
    weights = np.ones(len(labels)) if weights is None else weights
    counts = np.bincount(labels, weights)
    if len(counts) < 2 or not counts.all():
        raise BatikError(f"Every class needs a picture to learn from; there are {counts}.")
    onehot = np.eye(len(counts))[labels]
    average = weights[:, None] * onehot  # (N, K): means of classes are average.T @ scaled
    average /= average.sum(0)
    root = np.sqrt(weights / weights.sum())[:, None]
    # products of the residuals, scaled less the mean of its class, with the pictures
    left = root * (gram - onehot @ (average.T @ gram))
    inner = left - (left @ average) @ onehot.T
    inner *= root.T
    inner[np.diag_indices(len(gram))] += ridge
    back = root * scipy.linalg.solve(inner, left @ average, assume_a="pos")
    coefficients = (average - back + average @ (onehot.T @ back)) / ridge
    return coefficients, -0.5 * np.einsum("nk,nk->k", average, gram @ coefficients)
