"""Refusal: is it one of the motifs, another cloth, or no cloth at all?

    >>> fitted = refusal.fit(bank, pictures, others, ridge)
    >>> known = fitted.familiarity(scaled) >= threshold

The familiarity adds three parts, each over its own spread:

- the *energy*, log-sum-exp of the motifs' logits (Liu et al., 2020), learned from the motifs alone;
- the *contrast*: in a discriminant in which the motifs, other batik, other cloth, textures and
  photographs are classes of their own, log-sum-exp of the motifs' logits less that of the others';
- the *nearness*, minus the Mahalanobis distance to the nearest motif (Lee et al., 2018).

The first is linear where one motif prevails, so a picture of something else altogether may score
high by chance; therefore less nearness than nearly all known pictures have costs extra, and so does
less *cloth*: the log-odds of cloth (motifs, other batik, other cloth) in the same discriminant.
Spreads and starts come from known pictures while they were held out, as the thresholds do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from batik_utils.baselines import Linear
from batik_utils.classifier.selection import Bank
from batik_utils.errors import BatikError

#: Kinds of counter-examples, by the folder they come from; the second column says whether it is
#: cloth. The motifs that are not among the classes are of the first kind.
KINDS = {"batik": True, "songket": True, "textures": False, "photographs": False}
#: Ridge of the discriminants and of the distance; features vary by about 1.
RIDGE = 1.0
#: What energy, contrast and nearness count, and by what the contrast's logits are divided.
WEIGHTS, SOFTER = (1.0, 0.25, 0.25), 10.0
#: Shares of known pictures with too little nearness and cloth, and what each unit of it costs.
TOO_LITTLE, LOSS = (0.01, 0.03), 2.0


@dataclass(frozen=True)
class Nearness:
    """Minus the squared distance to the nearest of some means under one covariance plus ridge.

    Attributes:
        means: (K, F).
        axes: (F, r), orthonormal: the covariance's directions.
        shrink: (r,) v / (v + ridge) for each direction's variance v.
    """

    means: np.ndarray
    axes: np.ndarray
    shrink: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray) -> "Nearness":
        """Learn from scaled features (N, F) of the motifs."""
        means = np.stack([features[labels == c].mean(0) for c in range(labels.max() + 1)])
        residuals = features - means[labels]
        n = len(residuals)
        values, vectors = np.linalg.eigh(residuals @ residuals.T / n)
        keep = values > max(values[-1], 1e-300) * 1e-10
        values, vectors = values[keep], vectors[:, keep]
        axes = residuals.T @ (vectors / np.sqrt(n * values))
        return cls(means, axes, values / (values + RIDGE))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return (M,) of scaled features (M, F)."""
        gaps = (x - mean for mean in self.means)
        lengths = [(g**2).sum(1) - ((g @ self.axes) ** 2) @ self.shrink for g in gaps]
        return -np.min(lengths, axis=0) / RIDGE


@dataclass(frozen=True)
class Refusal:
    """Scores of scaled features, see the module.

    Attributes:
        motifs: logits of the motifs.
        kinds: logits of the motifs and then of each kind of counter-example at hand.
        is_cloth: which columns of ``kinds`` are cloth.
        nearness: distance to the motifs.
        spread: (4,) standard deviation of each of `parts` over held-out pictures.
        start: (2,) nearness and cloth below which familiarity is lost.
    """

    motifs: Linear
    kinds: Linear
    is_cloth: tuple[bool, ...]
    nearness: Nearness
    spread: np.ndarray = field(default_factory=lambda: np.ones(4))
    start: np.ndarray = field(default_factory=lambda: np.full(2, -np.inf))

    def calibrated(self, known: np.ndarray) -> "Refusal":
        """Return it with spreads and starts of the `parts` (N, 4) of held-out known pictures."""
        spread = known.std(0)
        start = [np.quantile(known[:, 2 + k], part) for k, part in enumerate(TOO_LITTLE)]
        return replace(self, spread=np.where(spread > 0, spread, 1.0), start=np.array(start))

    def familiarity(self, parts: np.ndarray) -> np.ndarray:
        """Return (M,) of `parts` (M, 4), higher is more like the motifs."""
        too_little = np.maximum(0, (self.start - parts[:, 2:]) / self.spread[2:])
        return (parts / self.spread)[:, :3] @ WEIGHTS - LOSS * too_little.sum(1)

    def parts(self, x: np.ndarray) -> np.ndarray:
        """Return (M, 4) energy, contrast, nearness and cloth of scaled features (M, F).

        Contrast or cloth are 0 where there is nothing else to learn from.
        """
        logits = self.kinds.logits(x)
        is_motif = np.arange(logits.shape[1]) < len(self.nearness.means)
        energy = logsumexp(self.motifs.logits(x), axis=1)
        contrast = _log_odds(logits / SOFTER, is_motif)
        cloth = _log_odds(logits, np.array(self.is_cloth))
        return np.stack([energy, contrast, self.nearness(x), cloth], 1)


def _log_odds(logits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    if chosen.all():
        return np.zeros(len(logits))
    return logsumexp(logits[:, chosen], axis=1) - logsumexp(logits[:, ~chosen], axis=1)


def fit(bank: Bank, pictures: np.ndarray, others: np.ndarray, ridge: float) -> Refusal:
    """Learn from pictures of the motifs and from counter-examples, given by index.

    Only the energy learns from changed copies, too: copies of the known pictures alone would teach
    the other parts what a changed picture looks like.
    """
    n_motifs = bank.labels.max() + 1
    present = [kind for kind in KINDS if (bank.kinds[others] == kind).any()]
    number = {kind: n_motifs + i for i, kind in enumerate(present)}
    classes = np.r_[bank.labels[pictures], [number[k] for k in bank.kinds[others]]].astype(int)
    return Refusal(
        bank.fit_motifs(pictures, ridge),
        bank.fit(np.r_[pictures, bank.other_rows(others)], classes, RIDGE),
        (True,) * n_motifs + tuple(KINDS[kind] for kind in present),
        Nearness.of(bank.scaled[pictures], bank.labels[pictures]),
    )


def threshold_at_recall(known: Sequence[float], recall: float = 0.95) -> float:
    """Return the largest threshold that at least that share of known scores reaches.

    Raises:
        BatikError: no scores, or a recall outside 0 to 1.
    """
    if not len(known) or not 0 < recall <= 1:
        raise BatikError(f"Needs scores and a recall in (0, 1], not {len(known)} and {recall}.")
    return float(np.sort(known)[::-1][int(np.ceil(recall * len(known) - 1e-9)) - 1])


def auroc(known: Sequence[float], other: Sequence[float]) -> float:
    """Return how often a known picture scores above another one, ties half."""
    truth = np.r_[np.ones(len(known)), np.zeros(len(other))]
    return float(roc_auc_score(truth, np.r_[known, other]))
