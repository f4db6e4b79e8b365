"""Choice of the head inside training pictures, tested by nested cross-validation.

Every fold of every repeat chooses by itself, by cross-validation inside its own training pictures
(near-duplicates on one side there, too): the best head's own outer score is the best of many draws.
Source: Varma & Simon (2006), Bias in error estimation when using cross-validation for selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from batik_utils.baselines import Linear, Scaler, copy_weights, fit_gram
from batik_utils.evaluation import calibration

#: Ridges of the linear discriminant to choose from.
RIDGES = (0.3, 1.0)
#: Of the inner cross-validation; its repeats for at most so many pictures, otherwise one.
INNER_FOLDS, INNER_REPEATS, FEW = 5, 3, 300


@dataclass(frozen=True)
class FeatureSet:
    """Scaled features of N pictures, C changed copies of each and M counter-examples.

    ``scaled`` ((1 + C) N + M, F) holds pictures, first copies, second copies and so on, then
    counter-examples, and ``gram`` the products of these rows; ``labels`` and ``groups`` are of the
    pictures, ``kinds`` of the counter-examples.
    """

    labels: np.ndarray
    groups: np.ndarray
    copies: int
    kinds: np.ndarray
    scaled: np.ndarray
    gram: np.ndarray
    scaler: Scaler

    @classmethod
    def of(
        cls,
        pictures: Sequence[np.ndarray],
        labels: np.ndarray,
        groups: np.ndarray,
        others: np.ndarray,
        kinds: np.ndarray,
    ) -> "FeatureSet":
        """Take raw features: ``pictures`` and their copies, each (N, F), and ``others`` (M, F).

        Counter-examples of the first kind (other batik), which are not tested, decide how features
        are scaled, in all folds; where there are none, the pictures do.
        """
        scaler = Scaler.of(others[kinds == kinds[0]] if len(kinds) else pictures[0])
        scaled = scaler(np.concatenate([*pictures, others]))
        return cls(labels, groups, len(pictures) - 1, kinds, scaled, scaled @ scaled.T, scaler)

    def rows(self, pictures: np.ndarray) -> np.ndarray:
        """Return the rows of pictures and of their copies."""
        return np.concatenate([pictures + len(self.labels) * k for k in range(1 + self.copies)])

    def other_rows(self, others: np.ndarray) -> np.ndarray:
        """Return the rows of counter-examples."""
        return others + (1 + self.copies) * len(self.labels)

    def fit(
        self, rows: np.ndarray, classes: np.ndarray, ridge: float, weights: np.ndarray | None = None
    ) -> Linear:
        """Return a linear discriminant on scaled features, learned from some rows."""
        dual, bias = fit_gram(self.gram[np.ix_(rows, rows)], classes, ridge, weights)
        return Linear(self.scaled[rows].T @ dual, bias)

    def fit_motifs(self, pictures: np.ndarray, ridge: float) -> Linear:
        """Return the discriminant of the motifs; copies together count as much as their picture."""
        labels = np.tile(self.labels[pictures], 1 + self.copies)
        weights = copy_weights(len(pictures), self.copies)
        return self.fit(self.rows(pictures), labels, ridge, weights)


class Choice(NamedTuple):
    """The ridge that an inner cross-validation chose, and the temperature that calibrates it."""

    ridge: float
    inner_accuracy: float
    temperature: float


def choose(
    samples: FeatureSet, train: np.ndarray, seed: int, ridges: Sequence[float] = RIDGES
) -> Choice:
    """Choose by cross-validation of some pictures alone.

    The most accurate ridge on pictures and their copies wins (what only works on pictures as the
    shops made them shall not win), among equals the one with the least calibrated log-loss.
    """
    labels, divisions = samples.labels[train], []
    for repeat in range(INNER_REPEATS if len(train) <= FEW else 1):
        folds = StratifiedGroupKFold(
            INNER_FOLDS, shuffle=True, random_state=INNER_REPEATS * seed + repeat
        )
        divisions += folds.split(train, labels, samples.groups[train])
    truth = np.concatenate([labels[tested] for _, tested in divisions])
    choices = []
    for ridge in ridges:
        logits, right = [], []
        for learned, tested in divisions:
            fitted = samples.fit_motifs(train[learned], ridge)
            found = fitted.logits(samples.scaled[samples.rows(train[tested])])
            right.append(found.argmax(1) == np.tile(labels[tested], 1 + samples.copies))
            logits.append(found[: len(tested)])
        temperature = calibration.temperature_of(np.concatenate(logits), truth)
        chances = log_softmax(np.concatenate(logits) / temperature, axis=1)
        choice = Choice(ridge, float(np.concatenate(right).mean()), temperature)
        likely = chances[np.arange(len(truth)), truth].mean()
        choices.append((round(choice.inner_accuracy, 9), likely, choice))
    return max(choices, key=lambda c: c[:2])[2]


class Nested(NamedTuple):
    """Calibrated logits (R, N, K) of every picture while it was tested, and each fold's choice."""

    logits: np.ndarray
    choices: pd.DataFrame


def nested(samples: FeatureSet, fold_of: np.ndarray) -> Nested:
    """Predict every picture in every repeat, each fold with a ridge of its own choice.

    ``fold_of`` (N, R) is the fold in which a picture is tested, by repeat (``folds.csv``).
    """
    n, repeats = fold_of.shape
    logits = np.full((repeats, n, samples.labels.max() + 1), np.nan)
    jobs = [(r, f) for r in range(repeats) for f in np.unique(fold_of[:, r])]
    rows = []
    for repeat, fold in tqdm(jobs, desc="Nested selection", disable=None):
        train, test = (np.flatnonzero((fold_of[:, repeat] == fold) == t) for t in (False, True))
        choice = choose(samples, train, seed=100 * repeat + int(fold))
        fitted = samples.fit_motifs(train, choice.ridge)
        logits[repeat, test] = fitted.logits(samples.scaled[test]) / choice.temperature
        name = f"lda {choice.ridge:g}"
        rows.append({"repeat": repeat, "fold": int(fold), "candidate": name, **choice._asdict()})
    return Nested(logits, pd.DataFrame(rows))
