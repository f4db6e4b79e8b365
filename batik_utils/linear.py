"""Linear classifiers for few pictures with many features.

    >>> from batik_utils import linear
    >>> head = linear.fit(features, labels, linear.Head("lda", 1.0), scaler)
    >>> head.logits(new_features).shape
    (4, 3)

With N = 135 pictures and thousands of features all that a linear classifier can know are the N × N
products of the pictures' features (the Gram matrix), so everything is computed from these: a fit
takes milliseconds, and cross-validation with an inner one thousands of them.
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from batik_utils.errors import BatikError

METHODS = ("lda", "logistic")


@dataclass(frozen=True)
class Head:
    """What kind of classifier.

    Attributes:
        method: ``lda``, linear discriminant analysis with equal priors, or ``logistic``,
            multinomial logistic regression with an L2 penalty.
        strength: for ``lda`` the ridge added to the variance of every feature within motifs, where
            features are scaled to a variance of about 1; for ``logistic`` scikit-learn's ``C`` for
            features divided by the square root of their number.
    """

    method: str
    strength: float

    def __post_init__(self):
        if self.method not in METHODS or not self.strength > 0:
            raise BatikError(
                f"A head is one of {', '.join(METHODS)} with a positive strength, not "
                f"'{self.method}' with {self.strength}."
            )


@dataclass(frozen=True)
class Scaler:
    """Shift and scale of each feature.

    Attributes:
        mean: (F,).
        scale: (F,), positive.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Scaler":
        """Learn from pictures (N, F); features that hardly vary are not blown up."""
        values = np.asarray(features, dtype=np.float64)
        scale = values.std(0)
        return cls(values.mean(0), np.maximum(scale, 1e-3 * max(scale.max(), 1e-12)))

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return scaled features (N, F), float64."""
        return (np.asarray(features, dtype=np.float64) - self.mean) / self.scale


@dataclass(frozen=True)
class Linear:
    """A fitted classifier on raw features: ``features @ weight + bias``.

    Attributes:
        weight: (F, K).
        bias: (K,).
    """

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return (N, K) logits of raw features (N, F)."""
        return np.asarray(features, dtype=np.float64) @ self.weight + self.bias


def rescaled(scaled: Linear, scaler: Scaler) -> Linear:
    """Return the classifier of raw features that equals one of scaled features."""
    weight = scaled.weight / scaler.scale[:, None]
    return Linear(weight, scaled.bias - scaler.mean @ weight)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    head: Head,
    scaler: Scaler,
    weights: np.ndarray | None = None,
) -> Linear:
    """Fit a classifier.

    Args:
        features: (N, F) raw features.
        labels: (N,) class indices 0 to K - 1, each at least once.
        head: what kind.
        scaler: applied first.
        weights: of the pictures, see `fit_dual`.

    Returns:
        The classifier for raw features: the scaler is folded in.

    Raises:
        BatikError: a class is missing.
    """
    scaled = scaler(features)
    dual, bias = fit_dual(scaled @ scaled.T, labels, head, weights)
    return rescaled(Linear(scaled.T @ dual, bias), scaler)


def fit_dual(
    gram: np.ndarray, labels: np.ndarray, head: Head, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a classifier on the products of scaled features.

    Args:
        gram: (N, N) products of the training pictures.
        labels: (N,) class indices 0 to K - 1, each at least once.
        head: what kind.
        weights: (N,) how much each picture counts: one of weight 2 counts like two equal ones, one
            of weight 0 is not there. None for 1 each.

    Returns:
        (N, K) coefficients and (K,) bias: the logits of M pictures, whose products with the
        training pictures are ``cross`` (M, N), are ``cross @ coefficients + bias``.

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
    """Return weights of pictures and, behind them, of copies that together count as much.

    So more copies do not drown the pictures as they are.

    Args:
        pictures: how many.
        copies: of each.

    Returns:
        ((1 + copies) * pictures,), 1 and then 1 / copies.
    """
    return np.r_[np.ones(pictures), np.full(copies * pictures, 1 / max(1, copies))]


def _lda(
    gram: np.ndarray, onehot: np.ndarray, weights: np.ndarray, ridge: float
) -> tuple[np.ndarray, np.ndarray]:
    """Linear discriminant analysis, covariance within classes plus ridge times identity.

    The same as scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr")`` with a fixed shrinkage
    s = r / (1 + r), where r is ``ridge`` over the mean variance within classes, up to a scale of
    the logits (a test compares them); but with N × N matrices instead of F × F ones, through the
    Woodbury identity. Source: Friedman (1989), Regularized discriminant analysis.
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
    from sklearn.linear_model import LogisticRegression

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
