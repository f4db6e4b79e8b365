"""Classifiers without a network, and linear ones in closed form.

    >>> from batik_utils import baselines
    >>> sorted(baselines.BASELINES)
    ['colour_histogram', 'file_facts', 'majority', 'texture']
    >>> fitted = baselines.fit_linear(features, labels, Head("lda", 1.0), Scaler.of(features))
    >>> fitted.logits(new_features).shape
    (4, 3)

A network should beat what a file's size, a picture's colours or its texture tell. Introduced in
notebooks 02 (closed form) and 04 (section "Baselines").
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy.linalg
import torch
from sklearn.base import ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional

from batik_utils.errors import BatikError

#: Bins of a colour histogram, for each of hue, saturation and value.
COLOUR_BINS = 16
#: Neighbours and radius (px) of the local binary patterns.
LBP_SCALES = ((8, 1), (16, 2), (24, 3))
#: Grey levels, distances (px) and properties of the co-occurrence matrices.
GLCM_LEVELS = 32
GLCM_DISTANCES = (1, 2, 4, 8)
GLCM_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")


# --- descriptions of pictures: manifest rows (N) and uint8 pixels (N, 3, S, S) to (N, F) ----------


def file_facts(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return bytes, width, height, their ratio and bytes a pixel."""
    size, width, height = (manifest[c].to_numpy(float) for c in ("size", "width", "height"))
    return np.stack([size, width, height, width / height, size / (width * height)], 1)


def colour_histogram(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return square roots of hue, saturation and value histograms, (N, 3 * COLOUR_BINS).

    With the root, the distance of two histograms is Hellinger's.
    """
    from skimage.color import rgb2hsv

    rows = []
    for picture in pixels:
        hsv = rgb2hsv(picture.transpose(1, 2, 0)).reshape(-1, 3)
        counts = [np.histogram(hsv[:, k], COLOUR_BINS, (0, 1))[0] for k in range(3)]
        rows.append(np.sqrt(np.concatenate(counts) / len(hsv)))
    return np.array(rows)


def texture(manifest: pd.DataFrame, pixels: np.ndarray) -> np.ndarray:
    """Return local binary patterns and co-occurrence statistics of grey values.

    Sources: Ojala et al., 2002 (https://doi.org/10.1109/TPAMI.2002.1017623), uniform
    rotation-invariant patterns; Haralick et al., 1973
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
        levels = (grey // (256 // GLCM_LEVELS)).astype(np.uint8)
        matrices = graycomatrix(
            levels, GLCM_DISTANCES, directions, GLCM_LEVELS, symmetric=True, normed=True
        )
        for name in GLCM_PROPERTIES:
            values = graycoprops(matrices, name)
            parts += [values.mean(1), np.ptp(values, 1)]
        rows.append(np.concatenate(parts))
    return np.array(rows)


# --- classifiers ----------------------------------------------------------------------------------


def linear_probe(c: float = 0.01) -> Pipeline:
    """Return an unfitted logistic regression on scaled features; ``c`` is scikit-learn's ``C``."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000))


def _svm(seed: int) -> ClassifierMixin:
    # an SVM gives no probabilities of its own: Platt's sigmoid on held-out scores
    folds = StratifiedKFold(3, shuffle=True, random_state=seed)
    return make_pipeline(StandardScaler(), CalibratedClassifierCV(SVC(), cv=folds, ensemble=False))


@dataclass(frozen=True)
class Baseline:
    """A description of pictures, and a seed to an unfitted scikit-learn classifier of it."""

    describe: Callable[[pd.DataFrame, np.ndarray], np.ndarray]
    classifier: Callable[[int], ClassifierMixin]


#: By the name of the architecture in `recipes`.
BASELINES: dict[str, Baseline] = {
    "majority": Baseline(
        lambda manifest, pixels: np.zeros((len(manifest), 1)),
        lambda seed: DummyClassifier(strategy="prior"),
    ),
    "file_facts": Baseline(
        file_facts,
        lambda seed: RandomForestClassifier(500, min_samples_leaf=2, random_state=seed),
    ),
    "colour_histogram": Baseline(colour_histogram, lambda seed: linear_probe(1.0)),
    "texture": Baseline(texture, _svm),
}


def fit_predict(
    name: str,
    features: np.ndarray,
    labels: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
) -> np.ndarray:
    """Return a baseline's probabilities (M, K) of the pictures ``test``, learnt from ``train``.

    ``features`` (N, F) are those of its ``describe``; every class occurs in the training pictures.
    """
    classifier = BASELINES[name].classifier(seed)
    return classifier.fit(features[train], labels[train]).predict_proba(features[test])


def discriminant(
    features: np.ndarray, labels: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return weight (F, K) and bias (K,) of a linear discriminant with equal priors.

    As scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr")`` with a covariance within classes
    plus ridge times identity. Source: Friedman (1989), Regularized discriminant analysis.
    """
    means = np.stack([features[labels == k].mean(0) for k in range(labels.max() + 1)])
    residuals = features - means[labels]
    covariance = residuals.T @ residuals / len(labels) + ridge * np.eye(features.shape[1])
    weight = np.linalg.solve(covariance, means.T)
    return weight, -0.5 * np.einsum("kf,fk->k", means, weight)


def fit_head(head: nn.Linear, ridge: float, views: Tensor, labels: Tensor) -> tuple[float, float]:
    """Fit a network's last layer as linear discriminant; return its loss and accuracy.

    ``views`` (V, N, F) are features of the pictures as they are, which give the scale of each
    feature, and of changed copies.
    """
    rows = views.cpu().double().numpy()
    known = labels.repeat(len(rows))
    mean, scale = rows[0].mean(0), rows[0].std(0)
    scale = np.maximum(scale, 1e-3 * scale.max())  # features that hardly vary are not blown up
    scaled = (rows.reshape(len(known), -1) - mean) / scale
    weight, bias = discriminant(scaled, known.numpy(), ridge)
    weight = weight / scale[:, None]
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight.T))
        head.bias.copy_(torch.from_numpy(bias - mean @ weight))
        logits = head(views.flatten(0, 1)).cpu()
    accuracy = (logits.argmax(1) == known).double().mean().item()
    return functional.cross_entropy(logits, known).item(), accuracy


# --- linear classifiers in closed form ------------------------------------------------------------


@dataclass(frozen=True)
class Head:
    """A kind of linear classifier.

    ``lda``: linear discriminant analysis with equal priors; ``strength`` is the ridge added to the
    variance of every feature within classes, for features of variance about 1. ``logistic``:
    multinomial logistic regression; ``strength`` is scikit-learn's ``C`` for features divided by
    the square root of their number.
    """

    method: str
    strength: float

    def __post_init__(self):
        if self.method not in ("lda", "logistic") or not self.strength > 0:
            raise BatikError(
                f"A head is 'lda' or 'logistic' with a positive strength, not '{self.method}' "
                f"with {self.strength}."
            )


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
    """A fitted classifier on raw features: weight (F, K) and bias (K,)."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return logits (N, K) of raw features (N, F)."""
        return np.asarray(features, dtype=np.float64) @ self.weight + self.bias


def rescaled(scaled: Linear, scaler: Scaler) -> Linear:
    """Return the classifier of raw features that equals one of scaled features."""
    weight = scaled.weight / scaler.scale[:, None]
    return Linear(weight, scaled.bias - scaler.mean @ weight)


def fit_linear(
    features: np.ndarray,
    labels: np.ndarray,
    head: Head,
    scaler: Scaler,
    weights: np.ndarray | None = None,
) -> Linear:
    """Fit a classifier of raw features (N, F); see `fit_gram` for labels and weights.

    Raises:
        BatikError: a class is missing.
    """
    scaled = scaler(features)
    dual, bias = fit_gram(scaled @ scaled.T, labels, head, weights)
    return rescaled(Linear(scaled.T @ dual, bias), scaler)


def fit_gram(
    gram: np.ndarray, labels: np.ndarray, head: Head, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a classifier on the products (N, N) of scaled features.

    For few pictures with many features this takes milliseconds.

    Args:
        gram: products of the training pictures.
        labels: class indices 0 to K - 1 (N,), each at least once.
        head: what kind.
        weights: how much each picture counts (N,): weight 2 counts like two equal pictures, 0 like
            none; None for 1 each.

    Returns:
        Coefficients (N, K) and bias (K,): pictures whose products with the training pictures are
        ``cross`` (M, N) have the logits ``cross @ coefficients + bias``.

    Raises:
        BatikError: a class is missing; a weight is negative, or they are of another number.
    """
    labels = np.asarray(labels)
    weights = np.ones(len(labels)) if weights is None else np.asarray(weights, dtype=float)
    if weights.shape != labels.shape or not (weights >= 0).all():
        raise BatikError(f"{len(labels)} pictures need as many weights from 0 up.")
    counts = np.bincount(labels, weights)
    if len(counts) < 2 or not counts.all():
        raise BatikError(f"Every class needs a picture to learn from; there are {counts}.")
    if head.method == "lda":
        return _lda(gram, np.eye(len(counts))[labels], weights, head.strength)
    return _logistic(gram, labels, weights, head.strength)


def copy_weights(pictures: int, copies: int) -> np.ndarray:
    """Return weights of pictures, then of ``copies`` of each that together count as much."""
    return np.r_[np.ones(pictures), np.full(copies * pictures, 1 / max(1, copies))]


def _lda(
    gram: np.ndarray, onehot: np.ndarray, weights: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminant analysis, covariance within classes plus ridge times identity.

    Equal to scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr")`` with fixed shrinkage
    r / (1 + r), where r is ``ridge`` over the mean variance within classes, up to a scale of the
    logits; but with N × N matrices, through the Woodbury identity. Source: Friedman (1989),
    Regularized discriminant analysis.
    """
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
    bias = -0.5 * np.einsum("nk,nk->k", average, gram @ coefficients)
    return coefficients, bias


def _logistic(
    gram: np.ndarray, labels: np.ndarray, weights: np.ndarray, c: float
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression on the pictures' coordinates along the Gram matrix's eigenvectors."""
    n = len(gram)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(centre @ gram @ centre)
    keep = values > values[-1] * 1e-9
    scale = np.sqrt(values[keep])
    unit = np.sqrt(values[keep].sum() / n)  # a picture's typical distance from the mean
    coordinates = vectors[:, keep] * (scale / unit)
    model = LogisticRegression(C=c, max_iter=3000, tol=1e-5).fit(
        coordinates, labels, sample_weight=weights
    )
    weight, bias = model.coef_.T, model.intercept_
    if weight.shape[1] == 1:
        weight, bias = np.hstack([-weight / 2, weight / 2]), np.r_[-bias / 2, bias / 2]
    dual = centre @ (vectors[:, keep] / (scale * unit)) @ weight
    return dual, bias - (gram.mean(0) @ dual)
