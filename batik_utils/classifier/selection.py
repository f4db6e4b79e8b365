"""Choice of the head inside training pictures, tested by nested cross-validation.

    >>> outcome = selection.nested(bank, folds)
    >>> (outcome.logits[0].argmax(1) == bank.labels).mean()
    0.91

Every fold of every repeat chooses by itself, by cross-validation inside its own training pictures
(near-duplicates on one side there, too). The score of the whole procedure is the honest one: the
best head's own outer score is the best of many draws. Source: Varma & Simon (2006), Bias in error
estimation when using cross-validation for model selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
class Bank:
    """Scaled features of pictures, their changed copies and counter-examples, with products.

    Attributes:
        labels: (N,) class indices of the pictures.
        groups: (N,) group of near-duplicates of each.
        copies: C, changed copies of each picture; together they count as much as it.
        kinds: (M,) kind of each counter-example.
        scaled: ((1 + C) N + M, F): pictures, first copies, second copies, ..., counter-examples.
        gram: products of these rows.
        scaler: from raw to scaled features.
    """

    labels: np.ndarray
    groups: np.ndarray
    copies: int
    kinds: np.ndarray
    scaled: np.ndarray = field(repr=False)
    gram: np.ndarray = field(repr=False)
    scaler: Scaler = field(repr=False)

    @classmethod
    def of(
        cls,
        pictures: Sequence[np.ndarray],
        labels: np.ndarray,
        groups: np.ndarray,
        others: np.ndarray,
        kinds: np.ndarray,
    ) -> "Bank":
        """Make a bank of raw features: ``pictures`` and their copies, each (N, F), others (M, F).

        Only counter-examples of the first kind (other batik) decide how features are scaled, so no
        tested picture has a part in it, and all folds share one scale. Where there are none, the
        pictures do.
        """
        reference = others[kinds == kinds[0]] if len(kinds) else pictures[0]
        scaler = Scaler.of(reference)
        scaled = scaler(np.concatenate([*pictures, others]))
        return cls(labels, groups, len(pictures) - 1, kinds, scaled, scaled @ scaled.T, scaler)

    def rows(self, pictures: np.ndarray, copies: bool = True) -> np.ndarray:
        """Return the rows of pictures, given by index, and of their copies."""
        n = len(self.labels)
        return np.concatenate([pictures + n * k for k in range(1 + self.copies * copies)])

    def other_rows(self, others: np.ndarray) -> np.ndarray:
        """Return the rows of counter-examples, given by index."""
        return others + (1 + self.copies) * len(self.labels)

    def fit(
        self, rows: np.ndarray, classes: np.ndarray, ridge: float, weights: np.ndarray | None = None
    ) -> Linear:
        """Return a linear discriminant on scaled features, learned from some rows."""
        dual, bias = fit_gram(self.gram[np.ix_(rows, rows)], classes, ridge, weights)
        return Linear(self.scaled[rows].T @ dual, bias)

    def fit_motifs(self, pictures: np.ndarray, ridge: float) -> Linear:
        """Return the classifier of the motifs, learned from pictures and their copies."""
        labels = np.tile(self.labels[pictures], 1 + self.copies)
        weights = copy_weights(len(pictures), self.copies)
        return self.fit(self.rows(pictures), labels, ridge, weights)


@dataclass(frozen=True)
class Choice:
    """The ridge that an inner cross-validation chose, and the temperature that calibrates it."""

    ridge: float
    accuracy: float
    temperature: float


def choose(bank: Bank, train: np.ndarray, seed: int, ridges: Sequence[float] = RIDGES) -> Choice:
    """Choose by cross-validation of some pictures alone.

    The most accurate head on pictures and their copies wins (what only works on pictures as the
    shops made them shall not win), among equals the one with the least calibrated log-loss.
    """
    divisions = []
    for repeat in range(INNER_REPEATS if len(train) <= FEW else 1):
        folds = StratifiedGroupKFold(
            INNER_FOLDS, shuffle=True, random_state=INNER_REPEATS * seed + repeat
        )
        divisions += folds.split(train, bank.labels[train], bank.groups[train])
    choices = []
    for ridge in ridges:
        logits, truth, right = [], [], []
        for learned, tested in divisions:
            fitted = bank.fit_motifs(train[learned], ridge)
            found = fitted.logits(bank.scaled[bank.rows(train[tested])])
            labels = bank.labels[train[tested]]
            right.append(found.argmax(1) == np.tile(labels, 1 + bank.copies))
            logits.append(found[: len(tested)])
            truth.append(labels)
        logits, truth = np.concatenate(logits), np.concatenate(truth)
        temperature = calibration.temperature_of(logits, truth)
        chance = log_softmax(logits / temperature, axis=1)[np.arange(len(truth)), truth]
        choice = Choice(ridge, float(np.concatenate(right).mean()), temperature)
        choices.append((round(choice.accuracy, 9), chance.mean(), choice))
    return max(choices, key=lambda c: c[:2])[2]


@dataclass(frozen=True)
class Nested:
    """Calibrated logits (R, N, K) of every picture while it was tested, and each fold's choice."""

    logits: np.ndarray
    choices: pd.DataFrame


def nested(bank: Bank, fold_of: np.ndarray) -> Nested:
    """Predict every picture in every repeat, each fold with a head of its own choice.

    Args:
        bank: the pictures.
        fold_of: (N, R) fold in which a picture is tested, by repeat (``folds.csv``).
    """
    n, repeats = fold_of.shape
    logits = np.full((repeats, n, bank.labels.max() + 1), np.nan)
    jobs = [(r, f) for r in range(repeats) for f in np.unique(fold_of[:, r])]
    rows = []
    for repeat, fold in tqdm(jobs, desc="Nested selection", disable=None):
        train, test = (np.flatnonzero((fold_of[:, repeat] == fold) == t) for t in (False, True))
        choice = choose(bank, train, seed=100 * repeat + int(fold))
        fitted = bank.fit_motifs(train, choice.ridge)
        logits[repeat, test] = fitted.logits(bank.scaled[test]) / choice.temperature
        rows.append(
            {
                "repeat": repeat,
                "fold": int(fold),
                "candidate": f"lda {choice.ridge:g}",
                "inner_accuracy": choice.accuracy,
                "temperature": choice.temperature,
            }
        )
    return Nested(logits, pd.DataFrame(rows))
