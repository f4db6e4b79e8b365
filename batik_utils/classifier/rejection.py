"""None of these: how much a picture looks like the three motifs at all.

    >>> from batik_utils.classifier import rejection
    >>> score = rejection.SCORES["background"](known, labels, other, copies)
    >>> rejection.auroc(score(new_known), score(new_other))
    0.9

A classifier of three motifs gives one of three answers, also about a cat. A *familiarity* score is
high for pictures like those it learned from; below a threshold the answer is "none of these". Each
function of `SCORES` learns a score from scaled features (N, F) of known pictures with their labels
(N,), of others (M, F) that are none of the motifs, and of changed copies of the known ones, each
(N, F), which only `combined` uses. All here is NumPy on features; `batik_utils.final` tests the
scores on motifs and pictures that they never saw.

Introduced in notebook 05.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp, softmax
from sklearn.metrics import roc_auc_score

from batik_utils import baselines
from batik_utils.errors import BatikError

#: (M, F) scaled features to (M,) scores, higher for more familiar.
Score = Callable[[np.ndarray], np.ndarray]
#: Changed copies of known pictures, each (N, F).
Copies = Sequence[np.ndarray]
#: Ridge of every covariance and of every linear score here; features vary by about 1.
RIDGE = 1.0


def max_probability(
    known: np.ndarray, labels: np.ndarray, other: np.ndarray, copies: Copies = ()
) -> Score:
    """Largest of the motifs' probabilities (Hendrycks & Gimpel, 2017)."""
    logits = _motif_logits(known, labels)
    return lambda x: softmax(logits(x), axis=1).max(1)


def energy(known: np.ndarray, labels: np.ndarray, other: np.ndarray, copies: Copies = ()) -> Score:
    """Log-sum-exp of the motifs' logits (Liu et al., 2020, Energy-based OOD detection)."""
    logits = _motif_logits(known, labels)
    return lambda x: logsumexp(logits(x), axis=1)


def nearest(
    known: np.ndarray,
    labels: np.ndarray,
    other: np.ndarray,
    copies: Copies = (),
    k: int = 5,
) -> Score:
    """Mean cosine similarity to the k nearest known pictures (Sun et al., 2022, deep k-NN)."""
    reference = _unit(known)
    return lambda x: np.sort(_unit(x) @ reference.T, axis=1)[:, -k:].mean(1)


@dataclass(frozen=True)
class Mahalanobis:
    """Negative squared distance to the nearest of some means, under one covariance plus ridge.

    Attributes:
        means: (K, F).
        axes: (F, r), orthonormal: the covariance's directions.
        shrink: (r,) v / (v + ridge) for each direction's variance v.
    """

    means: np.ndarray
    axes: np.ndarray
    shrink: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return (M,) scores of scaled features (M, F)."""
        gaps = (x - mean for mean in self.means)
        lengths = [(g**2).sum(1) - ((g @ self.axes) ** 2) @ self.shrink for g in gaps]
        return -np.min(lengths, axis=0) / RIDGE


def mahalanobis(
    known: np.ndarray, labels: np.ndarray, other: np.ndarray, copies: Copies = ()
) -> Mahalanobis:
    """Distance to the nearest motif, one covariance for all (Lee et al., 2018), negative."""
    means = _means(known, labels)
    return _mahalanobis(means, known - means[labels])


def relative_mahalanobis(
    known: np.ndarray, labels: np.ndarray, other: np.ndarray, copies: Copies = ()
) -> Score:
    """The same, less the distance to all pictures, the others too (Ren et al., 2021)."""
    near = mahalanobis(known, labels, other)
    everything = np.concatenate([known, other])
    mean = everything.mean(0)
    far = _mahalanobis(mean[None], everything - mean)
    return lambda x: near(x) - far(x)


def background(
    known: np.ndarray, labels: np.ndarray, other: np.ndarray, copies: Copies = ()
) -> Score:
    """Linear discriminant between known and other pictures: an auxiliary class "other"."""
    features = np.concatenate([known, other])
    is_known = np.r_[np.ones(len(known), int), np.zeros(len(other), int)]
    fitted = fit_background(features, is_known)
    return lambda x: fitted.logits(x)[:, 1] - fitted.logits(x)[:, 0]


def background_by_motif(
    known: np.ndarray, labels: np.ndarray, other: np.ndarray, copies: Copies = ()
) -> Score:
    """Linear discriminant with the motifs and one class "other"; the best motif's logit above it.

    A motif's pictures are alike, the known ones together are not.
    """
    features = np.concatenate([known, other])
    classes = np.r_[np.asarray(labels), np.full(len(other), labels.max() + 1)]
    fitted = baselines.fit_linear(
        features, classes, baselines.Head("lda", RIDGE), _identity(features)
    )

    def score(x: np.ndarray) -> np.ndarray:
        logits = fitted.logits(x)
        return logsumexp(logits[:, :-1], axis=1) - logits[:, -1]

    return score


@dataclass(frozen=True)
class Nearness:
    """How much farther from every motif than nearly all known pictures something lies.

    Attributes:
        where: the features that it is measured in.
        typical: nearness to the motifs in these.
        start: nearness from which nothing is too far.
        unit: standard deviation of the nearness of known pictures that it did not learn from.
    """

    where: slice
    typical: Mahalanobis
    start: float
    unit: float

    def too_far(self, x: np.ndarray) -> np.ndarray:
        """Return (M,), 0 or more, in units, of scaled features (M, F)."""
        return np.maximum(0, (self.start - self.typical(x[:, self.where])) / self.unit)


@dataclass(frozen=True)
class Familiarity:
    """The score of the final model.

    Energy and background, each over its own spread, are added: one asks which motif, the other
    whether any. Both are linear, so a picture of something else altogether may score high by
    chance; therefore what lies farther from every motif than nearly all known pictures do loses
    `LOSS` times as much as it is too far.

    Attributes:
        motifs: gives the logits whose log-sum-exp is the energy.
        background: its logit of "known" less that of "other" is the second part.
        spread: standard deviation of each part over pictures that it did not learn from.
        near: distances; the loss is summed over them.
    """

    motifs: baselines.Linear
    background: baselines.Linear
    spread: tuple[float, float]
    near: tuple[Nearness, ...]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return (M,) scores of scaled features (M, F)."""
        parts = _parts(self.motifs, self.background, x) / np.asarray(self.spread)
        return parts.sum(1) - LOSS * sum(n.too_far(x) for n in self.near)


#: Share of known pictures that lie too far.
TOO_FAR = 0.01
#: How much a picture loses for each unit that it lies too far.
LOSS = 2.0
#: Spreads are taken from pictures that are held out, in so many folds.
HELD_OUT = 5


def combined(
    known: np.ndarray,
    labels: np.ndarray,
    other: np.ndarray,
    copies: Copies = (),
    where: Sequence[slice] = (slice(None),),
) -> Familiarity:
    """Energy, background and distance together, see `Familiarity`.

    The energy learns from changed copies, too; the background does not: copies of known pictures
    alone would teach it what a changed picture looks like.

    Args:
        known: (N, F) scaled features.
        labels: (N,) class indices.
        other: (M, F) scaled features.
        copies: each (N, F), of the known pictures.
        where: the features that distances are measured in.
    """
    fold, other_fold = np.arange(len(known)) % HELD_OUT, np.arange(len(other)) % HELD_OUT
    parts = []
    for f in range(HELD_OUT):
        kept, kept_other = fold != f, other_fold != f
        fitted = _linear_parts(
            known[kept], labels[kept], other[kept_other], [c[kept] for c in copies]
        )
        parts.append(_parts(*fitted, np.concatenate([known[~kept], other[~kept_other]])))
    spread = np.concatenate(parts).std(0)
    motifs, background_of = _linear_parts(known, labels, other, copies)
    return Familiarity(
        motifs,
        background_of,
        (float(spread[0]), float(spread[1])),
        tuple(_nearness(known, labels, part) for part in where),
    )


def _nearness(known: np.ndarray, labels: np.ndarray, where: slice) -> Nearness:
    near, fold = known[:, where], np.arange(len(known)) % HELD_OUT
    values = np.empty(len(known))
    for f in range(HELD_OUT):
        kept = fold != f
        values[~kept] = mahalanobis(near[kept], labels[kept], near)(near[~kept])
    return Nearness(
        where,
        mahalanobis(near, labels, near),
        float(np.quantile(values, TOO_FAR)),
        float(values.std()),
    )


def _parts(motifs: baselines.Linear, known_or_not: baselines.Linear, x: np.ndarray) -> np.ndarray:
    """Return (M, 2) energy and background of scaled features (M, F)."""
    logits = known_or_not.logits(x)
    return np.stack([logsumexp(motifs.logits(x), axis=1), logits[:, 1] - logits[:, 0]], 1)


def _linear_parts(
    known: np.ndarray, labels: np.ndarray, other: np.ndarray, copies: Copies
) -> tuple[baselines.Linear, baselines.Linear]:
    features = np.concatenate([known, other])
    is_known = np.r_[np.ones(len(known), int), np.zeros(len(other), int)]
    motifs = baselines.fit_linear(
        np.concatenate([known, *copies]),
        np.tile(labels, 1 + len(copies)),
        baselines.Head("lda", RIDGE),
        _identity(known),
        baselines.copy_weights(len(known), len(copies)),
    )
    return motifs, fit_background(features, is_known)


SCORES: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray, Copies], Score]] = {
    "max_probability": max_probability,
    "energy": energy,
    "nearest": nearest,
    "mahalanobis": mahalanobis,
    "relative_mahalanobis": relative_mahalanobis,
    "background": background,
    "background_by_motif": background_by_motif,
    "combined": combined,
}


def fit_background(features: np.ndarray, is_known: np.ndarray) -> baselines.Linear:
    """Fit the linear discriminant of `background`: classes 0 (other) and 1 (known).

    Args:
        features: (N, F) scaled.
        is_known: (N,) 0 or 1.
    """
    return baselines.fit_linear(
        features, is_known, baselines.Head("lda", RIDGE), _identity(features)
    )


def auroc(known: np.ndarray, other: np.ndarray) -> float:
    """Return how often a known picture scores above another one, ties half.

    Raises:
        BatikError: one of the two is empty.
    """
    _not_empty(known, other)
    truth = np.r_[np.ones(len(known)), np.zeros(len(other))]
    return float(roc_auc_score(truth, np.r_[known, other]))


def threshold_at_recall(known: np.ndarray, recall: float = 0.95) -> float:
    """Return the largest threshold at which at least that share of known pictures is kept.

    A picture is kept if its score is at least the threshold.

    Raises:
        BatikError: no scores, or a recall outside 0 to 1.
    """
    if not len(known) or not 0 < recall <= 1:
        raise BatikError(f"Needs scores and a recall in (0, 1], not {len(known)} and {recall}.")
    kept = int(np.ceil(recall * len(known) - 1e-9))
    return float(np.sort(known)[::-1][kept - 1])


def false_positive_rate(known: np.ndarray, other: np.ndarray, recall: float = 0.95) -> float:
    """Return the share of other pictures that are kept where that share of known ones is."""
    _not_empty(known, other)
    return float((np.asarray(other) >= threshold_at_recall(known, recall)).mean())


def accuracy_coverage(right: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the accuracy of the most familiar share of pictures, for every share.

    Args:
        right: (N,) whether the motif is right.
        score: (N,) familiarity.

    Returns:
        Coverage (N,) 1/N to 1, and accuracy (N,) of the pictures covered.
    """
    order = np.argsort(-np.asarray(score), kind="stable")
    n = len(order)
    covered = np.arange(1, n + 1)
    return covered / n, np.cumsum(np.asarray(right, dtype=float)[order]) / covered


def _not_empty(known: np.ndarray, other: np.ndarray) -> None:
    if not len(known) or not len(other):
        raise BatikError(f"Needs known and other pictures, not {len(known)} and {len(other)}.")


def _motif_logits(known: np.ndarray, labels: np.ndarray) -> Score:
    return baselines.fit_linear(
        known, labels, baselines.Head("lda", RIDGE), _identity(known)
    ).logits


def _identity(features: np.ndarray) -> baselines.Scaler:
    n_features = features.shape[1]
    return baselines.Scaler(np.zeros(n_features), np.ones(n_features))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _means(known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return np.stack([known[labels == c].mean(0) for c in range(labels.max() + 1)])


def _mahalanobis(means: np.ndarray, residuals: np.ndarray) -> Mahalanobis:
    """Return the distance to means under the residuals' covariance plus ridge."""
    n = len(residuals)
    values, vectors = np.linalg.eigh(residuals @ residuals.T / n)
    keep = values > max(values[-1], 1e-300) * 1e-10
    values, vectors = values[keep], vectors[:, keep]
    axes = residuals.T @ (vectors / np.sqrt(n * values))
    return Mahalanobis(means, axes, values / (values + RIDGE))
