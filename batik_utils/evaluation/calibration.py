"""Do a recipe's probabilities keep their word, and does one temperature mend them?

A model that says 80 % should be right in 80 of 100 such cases. All functions take pooled
out-of-fold predictions, see `out_of_fold.pooled`. Introduced in notebook 04, section
"Calibration".
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from batik_utils import metrics
from batik_utils.errors import BatikError

BINNING = ("mass", "width")

#: Smallest probability that a logarithm is taken of, as in scikit-learn's ``log_loss``.
_EPS = np.finfo(np.float64).eps
#: A temperature is looked for between e^-5 and e^5; a model that knows nothing ends at the top.
_LOG_BOUNDS = (-5.0, 5.0)


def arrays(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Take labels and probabilities out of a table of predictions.

    Args:
        table: columns ``label`` and ``p_<motif>...``.

    Returns:
        Labels (N,) as indices of the motifs, probabilities (N, K) whose rows sum to 1 (a CSV file
        rounds them), and the K motifs.

    Raises:
        BatikError: no rows, no probabilities, a label without a probability, or a row that is no
            probability.
    """
    columns = [column for column in table.columns if column.startswith("p_")]
    if not columns or table.empty:
        raise BatikError(
            f"Calibration needs predictions with columns p_<motif>; there are {len(table)} rows "
            f"and {len(columns)} such columns."
        )
    classes = [column.removeprefix("p_") for column in columns]
    labels = pd.Index(classes).get_indexer(table["label"])
    if (labels < 0).any():
        odd = table["label"].iloc[int(np.argmax(labels < 0))]
        raise BatikError(f"Predictions of motif '{odd}' have no column p_{odd}.")
    values = table[columns].to_numpy(dtype=float)
    total = values.sum(axis=1)
    # "not close" also catches nan
    if (values < 0).any() or not np.allclose(total, 1, atol=1e-3):
        raise BatikError(
            "Some rows of p_<motif> are no probabilities (they are negative, missing, or do not "
            "sum to 1): remove the runs concerned and run them again."
        )
    return labels, values / total[:, None], classes


def reliability(table: pd.DataFrame, bins: int = 10, binning: str = "mass") -> pd.DataFrame:
    """Set what a recipe claims beside what it keeps, in bins of confidence.

    Args:
        table: pooled predictions of one recipe; ``repeat`` tells its repeats apart.
        bins: how many.
        binning: ``mass``, bins of equally many answers, so that each is equally well known; or
            ``width``, bins of equal width from 0 to 1, most of them with few answers here.

    Returns:
        One row a bin with answers: ``low, high`` (its ends), ``confidence`` (mean probability of
        the answer), ``accuracy``, ``lower, upper`` (95 % Wilson interval) and ``answers``. The
        interval counts each bin's answers once a repeat on average, because repeats ask about the
        same pictures; it takes near-twins for different pictures.

    Raises:
        BatikError: see `arrays`; or an unknown binning, or no bins.
    """
    if binning not in BINNING or bins < 1:
        raise BatikError(f"Needs a binning of {BINNING} and 1 bin, not '{binning}' and {bins}.")
    confidence, right = _answers(table)
    if binning == "width":
        edges = np.linspace(0, 1, bins + 1)
    else:
        edges = np.unique(np.quantile(confidence, np.linspace(0, 1, bins + 1)))
        edges = np.repeat(edges, 2) if len(edges) == 1 else edges
    # right-open bins, but the last one closed
    place = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, len(edges) - 2)
    repeats = table["repeat"].nunique()
    rows = []
    for k in np.unique(place):
        inside = place == k
        n = max(1, round(inside.sum() / repeats))
        share = right[inside].mean()
        lower, upper = metrics.wilson(round(share * n), n)
        rows.append(
            {
                "low": edges[k],
                "high": edges[k + 1],
                "confidence": confidence[inside].mean(),
                "accuracy": share,
                "lower": lower,
                "upper": upper,
                "answers": int(inside.sum()),
            }
        )
    return pd.DataFrame(rows)


def expected_calibration_error(table: pd.DataFrame, bins: int = 10) -> float:
    """Return the mean distance between confidence and accuracy, weighted by answers.

    Bins have equal width, as usual. With few answers a bin the value comes out too large even for
    a perfect model, so compare it between recipes with equally many answers only; `nll` and
    `brier` have no such flaw.

    Args:
        table: pooled predictions of one recipe.
        bins: how many.

    Returns:
        0 (kept) to 1, of the most probable motif.

    Raises:
        BatikError: see `arrays`.

    Source: Guo et al. (2017), "On calibration of modern neural networks", by torchmetrics.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error

    labels, probabilities, classes = arrays(table)
    error = multiclass_calibration_error(
        torch.from_numpy(probabilities),
        torch.from_numpy(labels),
        num_classes=len(classes),
        n_bins=bins,
        norm="l1",
    )
    return float(error)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature T that makes the log-loss of softmax(log p / T) smallest.

    Above 1 the model was too sure, below 1 too timid. The answers stay the same.

    Args:
        labels: (N,) class indices.
        probabilities: (N, K), rows sum to 1.

    Returns:
        Between e^-5 and e^5.

    Source: Guo et al. (2017). scikit-learn has the same since 1.8
    (``CalibratedClassifierCV(method="temperature")``, a test compares the two), but 1.8 needs
    Python 3.11 and is newer than Colab's; one number is found by SciPy just as well.
    """
    return temperature_of(_logits(probabilities), labels)


def temperature_of(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return what `fit_temperature` does, from logits, which keep what a probability of 0 loses.

    Args:
        logits: (N, K).
        labels: (N,) class indices.
    """
    own = np.arange(len(labels)), np.asarray(labels)

    def loss(log_temperature: float) -> float:
        return -log_softmax(logits * np.exp(-log_temperature), axis=1)[own].mean()

    found = minimize_scalar(loss, bounds=_LOG_BOUNDS, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def scaled(pooled: pd.DataFrame) -> pd.DataFrame:
    """Scale every fold's probabilities by a temperature fitted on the other folds.

    A fold's temperature comes from the out-of-fold predictions of the other folds of the same
    recipe and repeat. Its own labels do not enter the fit, and near-twins share a fold. What leaks:
    the networks that predicted the other folds had this fold among their training pictures. That
    can reach the result through one number fitted on some 135 predictions only, so it is small;
    to be rid of it, each training set would have to be divided again.

    Args:
        pooled: see `out_of_fold.pooled`; several recipes may be in it.

    Returns:
        The same rows with ``p_<motif>`` scaled, and ``temperature``.

    Raises:
        BatikError: see `arrays`; or a repeat with a single fold.
    """
    pooled = pooled.reset_index(drop=True)
    labels, probabilities, classes = arrays(pooled)
    temperature = np.ones(len(pooled))
    fold = pooled["fold"].to_numpy()
    for (recipe, repeat), rows in pooled.groupby(["recipe", "repeat"]).indices.items():
        folds = np.unique(fold[rows])
        if len(folds) < 2:
            raise BatikError(
                f"Recipe '{recipe}' has one fold in repeat {repeat}: a temperature is fitted on "
                f"the others, so run them too."
            )
        for held in folds:
            others = rows[fold[rows] != held]
            temperature[rows[fold[rows] == held]] = fit_temperature(
                labels[others], probabilities[others]
            )
    values = softmax(_logits(probabilities) / temperature[:, None], axis=1)
    columns = {f"p_{name}": values[:, k] for k, name in enumerate(classes)}
    return pooled.assign(**columns, temperature=temperature)


def before_and_after(pooled: pd.DataFrame, bins: int = 10) -> pd.DataFrame:
    """Compare every recipe's probabilities before and after temperature scaling.

    Args:
        pooled: see `out_of_fold.pooled`.
        bins: of the calibration error.

    Returns:
        One row a recipe, in the order of ``pooled``: ``recipe, temperature`` (median over folds
        and repeats), and ``nll, nll_scaled, brier, brier_scaled, ece, ece_scaled`` over all
        predictions.

    Raises:
        BatikError: see `scaled`.
    """
    rows = []
    for recipe, before in pooled.groupby("recipe", sort=False):
        after = scaled(before)
        row = {"recipe": recipe, "temperature": after["temperature"].median()}
        values = [(table, metrics.scores(*arrays(table)[:2])) for table in (before, after)]
        for name in ("nll", "brier", "ece"):
            for suffix, (table, scores) in zip(("", "_scaled"), values, strict=True):
                row[name + suffix] = (
                    expected_calibration_error(table, bins) if name == "ece" else scores[name]
                )
        rows.append(row)
    return pd.DataFrame(rows)


def coverage(pooled: pd.DataFrame) -> pd.DataFrame:
    """Return how right a recipe is where it is surest, for every share of answers it may give.

    Args:
        pooled: see `out_of_fold.pooled`.

    Returns:
        A few rows a recipe, surest first: ``recipe, coverage`` (share of pictures answered),
        ``accuracy`` on those, and ``confidence`` (least that they have). Equal confidences come as
        one row, since nothing tells which of them to answer first.

    Raises:
        BatikError: see `arrays`.
    """
    tables = []
    for recipe, rows in pooled.groupby("recipe", sort=False):
        confidence, right = _answers(rows)
        by_confidence = pd.DataFrame({"confidence": confidence, "right": right})
        steps = by_confidence.groupby("confidence")["right"].agg(["sum", "size"])
        steps = steps.sort_index(ascending=False).cumsum()
        tables.append(
            pd.DataFrame(
                {
                    "recipe": recipe,
                    "coverage": steps["size"] / len(rows),
                    "accuracy": steps["sum"] / steps["size"],
                    "confidence": steps.index,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def conformal(
    pooled: pd.DataFrame, levels: Sequence[float] = (0.8, 0.9, 0.95), by: str = "fold"
) -> pd.DataFrame:
    """Test sets of motifs that shall hold the right one in a stated share of cases.

    A motif belongs to a picture's set if its probability reaches a threshold; the threshold is the
    largest that keeps the stated share of right motifs on the other folds of the same repeat, with
    the correction for few pictures. Near-twins share a fold, so none sets its own threshold. That
    the other folds' networks learned from this fold is not corrected for (as in `scaled`).

    Args:
        pooled: see `out_of_fold.pooled`; several recipes may be in it.
        levels: stated shares.
        by: column of what is held out, within recipe and repeat.

    Returns:
        One row a recipe and level: ``recipe, level, coverage`` (share of pictures whose set holds
        the right motif), ``size`` (mean number of motifs), ``single`` (share of sets with one) and
        ``empty``.

    Raises:
        BatikError: see `arrays`; or too few pictures for a level.

    Source: split conformal classification with the score 1 - p (LAC: Sadinle et al., 2019). MAPIE's
    ``SplitConformalClassifier(conformity_score="lac", prefit=True)`` gives the same sets from the
    same probabilities, but would be one more requirement for one quantile.
    """
    rows = []
    for recipe, of_recipe in pooled.groupby("recipe", sort=False):
        for level in levels:
            sets, truths = [], []
            for _, table in of_recipe.groupby("repeat"):
                labels, probabilities, _ = arrays(table)
                held = table[by].to_numpy()
                for part in np.unique(held):
                    tested = held == part
                    own = probabilities[~tested][np.arange((~tested).sum()), labels[~tested]]
                    rank = int(np.ceil((len(own) + 1) * level - 1e-9))
                    if rank > len(own):
                        raise BatikError(
                            f"{len(own)} pictures are too few for sets of {level:.0%} coverage."
                        )
                    threshold = np.sort(own)[::-1][rank - 1]
                    sets.append(probabilities[tested] >= threshold)
                    truths.append(labels[tested])
            inside, truth = np.concatenate(sets), np.concatenate(truths)
            size = inside.sum(1)
            rows.append(
                {
                    "recipe": recipe,
                    "level": level,
                    "coverage": inside[np.arange(len(truth)), truth].mean(),
                    "size": size.mean(),
                    "single": (size == 1).mean(),
                    "empty": (size == 0).mean(),
                }
            )
    return pd.DataFrame(rows)


def _answers(table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of each answer, and whether it is right."""
    labels, probabilities, _ = arrays(table)
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def _logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(np.clip(probabilities, _EPS, None))
