"""Choose among ways to classify, without ever looking at a picture that is tested.

    >>> from batik_utils.classifier import selection
    >>> outcome = selection.nested(bank, folds, selection.candidates(bank.subsets))
    >>> (outcome.logits[0].argmax(1) == bank.labels).mean()
    0.87

Every fold of every repeat chooses anew, by cross-validation inside its own training pictures
(near-twins on one side there, too). The score of the whole procedure is the honest one: the best
candidate's own outer score is the best of many draws. Source: Varma & Simon (2006), Bias in error
estimation when using cross-validation for model selection.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import softmax
from sklearn.model_selection import StratifiedGroupKFold
from tqdm.auto import tqdm

from batik_utils import baselines
from batik_utils.baselines import Head
from batik_utils.errors import BatikError
from batik_utils.evaluation import calibration

HEADS = (Head("lda", 0.3), Head("lda", 1.0), Head("lda", 3.0), Head("logistic", 100.0))
#: Of the inner cross-validation.
INNER_FOLDS = 5
INNER_REPEATS = 3


@dataclass(frozen=True)
class Candidate:
    """One way to classify.

    Attributes:
        subset: which of the bank's sets of features.
        head: the classifier on them.
        copies: how many changed copies of each picture are learned from, too; together they count
            as much as the picture itself.
    """

    subset: str
    head: Head
    copies: int = 0

    @property
    def name(self) -> str:
        """Short name, e.g. ``both/three lda 1 copies 2``."""
        return f"{self.subset} {self.head.method} {self.head.strength:g} copies {self.copies}"


@dataclass(frozen=True)
class Bank:
    """Pictures as products of their features, one matrix for each set of features.

    Attributes:
        labels: (N,) class indices.
        groups: (N,) group of near-twins of each picture.
        grams: by subset (V N, V N) products of scaled features: of the pictures, and behind them of
            V - 1 changed copies of each.
    """

    labels: np.ndarray
    groups: np.ndarray
    grams: dict[str, np.ndarray]

    @classmethod
    def of(
        cls,
        features: np.ndarray,
        reference: np.ndarray,
        subsets: dict[str, np.ndarray],
        labels: np.ndarray,
        groups: Sequence[str],
        copies: Sequence[np.ndarray] = (),
    ) -> "Bank":
        """Make a bank.

        Args:
            features: (N, F) of the pictures.
            reference: (M, F) of other pictures, which alone decide how features are scaled: so no
                tested picture has a part in it, and all folds share one scale.
            subsets: names of sets of features, and which columns they are.
            labels: (N,) class indices.
            groups: (N,) groups of near-twins.
            copies: each (N, F), of changed copies of the pictures.

        Raises:
            BatikError: numbers of pictures differ.
        """
        rows = [features, *copies]
        if not {len(x) for x in rows} == {len(labels)} == {len(groups)}:
            raise BatikError(
                f"{[len(x) for x in rows]} pictures and copies, {len(labels)} labels and "
                f"{len(groups)} groups do not belong together."
            )
        scaler = baselines.Scaler.of(reference)
        scaled = scaler(np.concatenate(rows))
        grams = {name: scaled[:, c] @ scaled[:, c].T for name, c in subsets.items()}
        return cls(np.asarray(labels), np.asarray(groups), grams)

    @property
    def subsets(self) -> tuple[str, ...]:
        """Names of the sets of features."""
        return tuple(self.grams)


def candidates(
    subsets: Sequence[str], heads: Sequence[Head] = HEADS, copies: int = 0
) -> list[Candidate]:
    """Return every combination; the first of equals is chosen."""
    return [Candidate(subset, head, copies) for subset in subsets for head in heads]


def predict(bank: Bank, candidate: Candidate, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Return (M, K) logits of test rows, learned from the training pictures.

    Args:
        bank: the pictures.
        candidate: how.
        train: indices of pictures.
        test: rows of the bank: indices of pictures, or behind all pictures their copies.
    """
    n, gram = len(bank.labels), bank.grams[candidate.subset]
    rows = np.concatenate([train + n * k for k in range(candidate.copies + 1)])
    weights = baselines.copy_weights(len(train), candidate.copies)
    dual, bias = baselines.fit_gram(
        gram[np.ix_(rows, rows)], bank.labels[rows % n], candidate.head, weights
    )
    return gram[np.ix_(test, rows)] @ dual + bias


def out_of_fold(
    bank: Bank, candidate: Candidate, fold_of: np.ndarray, copies: int = 0
) -> np.ndarray:
    """Return (1 + copies, N, K) logits, each learned from the pictures of all other folds.

    Args:
        bank: the pictures.
        candidate: how.
        fold_of: (N,) fold of each picture; a negative one is neither learned from nor predicted
            (its logits are NaN).
        copies: how many copies of the pictures are tested beside them.
    """
    used, n = np.flatnonzero(fold_of >= 0), len(fold_of)
    logits = np.full((1 + copies, n, bank.labels.max() + 1), np.nan)
    for fold in np.unique(fold_of[used]):
        test = used[fold_of[used] == fold]
        rows = np.concatenate([test + n * k for k in range(1 + copies)])
        found = predict(bank, candidate, used[fold_of[used] != fold], rows)
        logits[:, test] = found.reshape(1 + copies, len(test), -1)
    return logits


@dataclass(frozen=True)
class Choice:
    """What an inner cross-validation chose.

    Attributes:
        candidate: the best one.
        accuracy: of it, inside, on pictures and changed copies.
        temperature: that calibrates it, from its own inner predictions.
        table: accuracy and calibrated log-loss (nats) of every candidate, in order.
    """

    candidate: Candidate
    accuracy: float
    temperature: float
    table: pd.DataFrame


def choose(
    bank: Bank, train: np.ndarray, options: Sequence[Candidate], seed: int, step: float = 1e-9
) -> Choice:
    """Choose by cross-validation of some pictures alone.

    The most accurate candidate wins; among equals the one with the least calibrated log-loss. The
    accuracy is over the pictures held out and the copies of them that a candidate would learn
    from: what only works on pictures as the shops made them shall not win.

    Args:
        bank: the pictures.
        train: indices of the pictures to choose by.
        options: candidates.
        seed: of the division into inner folds.
        step: differences in accuracy below this are none.
    """
    divisions = []
    for repeat in range(INNER_REPEATS):
        division = StratifiedGroupKFold(
            INNER_FOLDS, shuffle=True, random_state=INNER_REPEATS * seed + repeat
        )
        fold_of = np.full(len(bank.labels), -1)
        split = division.split(train, bank.labels[train], bank.groups[train])
        for fold, (_, inside) in enumerate(split):
            fold_of[train[inside]] = fold
        divisions.append(fold_of)
    truth = np.tile(bank.labels[train], INNER_REPEATS)
    rows, temperatures = [], []
    for option in options:
        tested = [out_of_fold(bank, option, d, option.copies)[:, train] for d in divisions]
        tested = np.concatenate(tested, axis=1)  # (1 + copies, repeats of pictures, K)
        logits = tested[0]
        t = calibration.temperature_of(logits, truth)
        chance = softmax(logits / t, axis=1)[np.arange(len(truth)), truth]
        rows.append(
            {
                "candidate": option.name,
                "accuracy": float((tested.argmax(2) == truth).mean()),
                "nll": float(-np.log(np.maximum(chance, 1e-12)).mean()),
            }
        )
        temperatures.append(t)
    table = pd.DataFrame(rows)
    near = table["accuracy"] >= table["accuracy"].max() - step
    best = int(table["nll"].where(near).idxmin())
    return Choice(options[best], table["accuracy"][best], temperatures[best], table)


@dataclass(frozen=True)
class Nested:
    """What nested selection gave.

    Attributes:
        logits: (R, N, K), calibrated: of each repeat, every picture's while it was tested.
        choices: one row a repeat and fold: ``repeat, fold, candidate, inner_accuracy,
            temperature``.
    """

    logits: np.ndarray
    choices: pd.DataFrame


def nested(
    bank: Bank, fold_of: np.ndarray, options: Sequence[Candidate], *, progress: bool = True
) -> Nested:
    """Predict every picture in every repeat, each fold with a candidate of its own choice.

    Args:
        bank: the pictures.
        fold_of: (N, R) fold in which a picture is tested, by repeat (``folds.csv``).
        options: candidates.
        progress: show a bar.
    """
    n, repeats = fold_of.shape
    logits = np.full((repeats, n, bank.labels.max() + 1), np.nan)
    jobs = [(r, f) for r in range(repeats) for f in np.unique(fold_of[:, r])]
    rows = []
    for repeat, fold in tqdm(jobs, desc="Nested selection", disable=not progress):
        tested = fold_of[:, repeat] == fold
        train, test = np.flatnonzero(~tested), np.flatnonzero(tested)
        choice = choose(bank, train, options, seed=100 * repeat + int(fold))
        found = predict(bank, choice.candidate, train, test)
        logits[repeat, test] = found / choice.temperature
        rows.append(
            {
                "repeat": repeat,
                "fold": int(fold),
                "candidate": choice.candidate.name,
                "inner_accuracy": choice.accuracy,
                "temperature": choice.temperature,
            }
        )
    return Nested(logits, pd.DataFrame(rows))
