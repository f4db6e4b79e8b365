"""Confidence intervals and paired tests for cross-validated recipes.

A picture predicted in five repeats is still one picture, and near-duplicates (one ``group``) are
hardly more than one, so both intervals and tests work on whole groups.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from batik_utils import metrics
from batik_utils.errors import BatikError
from batik_utils.evaluation import calibration, out_of_fold


def group_bootstrap(values: np.ndarray, groups: Sequence, n: int = 10_000) -> np.ndarray:
    """95 % intervals of means over pictures, bootstrapped over groups of near-duplicates.

    Lower and upper ends, (2,) of values (N,), or (2, M) of (N, M) with the same draws, e.g. the
    share of repeats in which each picture is right. They cover another sample of cloths, not
    another training set. Source: the cluster bootstrap, Davison & Hinkley (1997), section 3.8.
    """
    sums, sizes = _by_group(values, groups)
    even = np.full(len(sizes), 1 / len(sizes))
    counts = np.random.default_rng(0).multinomial(len(sizes), even, size=n)
    means = counts @ sums / (counts @ sizes)[:, None]
    outside = (1 - 0.95) / 2
    return np.quantile(means, [outside, 1 - outside], axis=0).reshape(2, *np.shape(values)[1:])


def group_sign_flip(differences: np.ndarray, groups: Sequence, n: int = 10_000) -> np.ndarray:
    """Two-sided p-values (M,) of M recipe pairs: could each pair be exchanged, group by group?

    ``differences`` is (N, M), one row a picture. If two recipes are equally good, the sign of each
    group's sum is arbitrary: it is flipped at random, and p is the share of flips (the data among
    them) whose sum is at least as far from zero. Source: Fisher's randomisation test for pairs.
    """
    sums, _ = _by_group(differences, groups)
    signs = np.random.default_rng(0).choice(np.array([-1.0, 1.0]), size=(n, len(sums)))
    # a tie must count as a tie whatever the order of summation
    as_far = np.abs(signs @ sums) >= np.abs(sums.sum(axis=0)) - 1e-9
    return (1 + as_far.sum(axis=0)) / (n + 1)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values (N,) corrected for their number, in the same order. Source: Holm (1979)."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p, kind="stable")
    corrected = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return corrected[np.argsort(order)]


def summary(runs: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """One row a recipe, best accuracy first; the columns are explained in results/README.md.

    ``accuracy`` is over pictures and repeats, ``lower, upper`` its 95 % interval over groups;
    ``accuracy_groups`` counts each group of near-duplicates once.
    """
    table = out_of_fold.pooled(runs, predictions)
    shares = out_of_fold.shares_right(table)
    group = folds.set_index("path")["group"].loc[shares.index].to_numpy()
    once = shares.groupby(group).mean().mean()
    rows = []
    for recipe, interval in zip(shares, group_bootstrap(shares, group).T, strict=True):
        answers, own = table[table["recipe"] == recipe], runs[runs["recipe"] == recipe]
        repeats = [one for _, one in answers.groupby("repeat")]
        scores = metrics.scores(*calibration.arrays(answers)[:2])
        accuracy, n_pictures = answers["right"].mean(), len(shares)
        wilson = metrics.wilson(round(accuracy * n_pictures), n_pictures)
        # macro F1 is no mean over pictures
        f1 = [metrics.scores(*calibration.arrays(one)[:2])["f1_macro"] for one in repeats]
        row = {
            "recipe": recipe,
            "family": own["family"].iloc[0],
            "repeats": len(repeats),
            "n_pictures": n_pictures,
            "accuracy": accuracy,
            **dict(zip(("lower", "upper"), interval, strict=True)),
            **dict(zip(("wilson_lower", "wilson_upper"), wilson, strict=True)),
            "sd_between_repeats": pd.Series([one["right"].mean() for one in repeats]).std(),
            "f1_macro": np.mean(f1),
            "nll": scores["nll"],
            "brier": scores["brier"],
            "ece": calibration.expected_calibration_error(answers),
            "train_seconds": own["train_seconds"].mean(),
            "params": own["params"].iloc[0],
            "accuracy_groups": once[recipe],
            "precision": own["precision"].iloc[0],
        }
        rows.append(row)
    result = pd.DataFrame(rows)
    return result.sort_values(["accuracy", "recipe"], ascending=[False, True], ignore_index=True)


def pairwise(
    runs: pd.DataFrame, predictions: pd.DataFrame, folds: pd.DataFrame, reference: str
) -> pd.DataFrame:
    """Paired comparison of a recipe with every other one of its precision, on common repeats.

    One row a pair: ``recipe_a, recipe_b, repeats``; ``difference`` in accuracy, A less B, with
    ``lower, upper`` (95 %, paired group bootstrap); ``p_groups``, and that after Holm's correction.
    """
    table = out_of_fold.pooled(runs, predictions)
    precision = runs.drop_duplicates("recipe").set_index("recipe")["precision"]
    others = precision.index[precision == precision[reference]].drop(reference)
    right = table.assign(right=table["right"].astype(float))
    by_repeat = right.pivot(index="path", columns=["recipe", "repeat"], values="right")
    group = folds.set_index("path")["group"].loc[by_repeat.index].to_numpy()
    rows, differences = [], []
    for other in others:
        a, b = by_repeat[reference], by_repeat[other]
        common = a.columns.intersection(b.columns)
        apart = (a[common] - b[common]).mean(axis=1).to_numpy()
        differences.append(apart)
        rows.append((reference, other, len(common), apart.mean()))
    values = np.stack(differences, axis=1)
    lower, upper = group_bootstrap(values, group)
    p = group_sign_flip(values, group)
    result = pd.DataFrame(rows, columns=["recipe_a", "recipe_b", "repeats", "difference"])
    return result.assign(lower=lower, upper=upper, p_groups=p, p_groups_holm=holm(p))


def _by_group(values: np.ndarray, groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Sums (G, M) of values (N, M) or (N,) over groups, and the groups' sizes (G,)."""
    values = np.asarray(values, dtype=float).reshape(len(values), -1)
    # sorted, so that the order of pictures does not change what is drawn
    codes, known = pd.factorize(np.asarray(groups), sort=True)
    if len(known) < 2:
        raise BatikError(f"{len(values)} pictures in {len(known)} group are too few.")
    sums = np.zeros((len(known), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums, np.bincount(codes)
