"""Intervals of recipes and tests between them, from cross-validation.

    >>> from batik_utils.evaluation import significance
    >>> significance.pairwise(runs, predictions, folds, reference="scratch1")

Two things make such numbers look surer than they are: a picture predicted in five repeats is still
one picture, and near-twins (one ``group``) are hardly more than one. Each function says how it
minds them. Introduced in notebook 04, section "Which differences are real".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics import f1_score

from batik_utils import metrics
from batik_utils.errors import BatikError
from batik_utils.evaluation import calibration, out_of_fold


@dataclass(frozen=True)
class CorrectedT:
    """A corrected resampled t-test.

    Attributes:
        mean: of the differences.
        statistic: t.
        p: two-sided.
        lower: of the interval of the mean.
        upper: likewise.
        df: degrees of freedom, number of differences less one.
    """

    mean: float
    statistic: float
    p: float
    lower: float
    upper: float
    df: int


@dataclass(frozen=True)
class Ranks:
    """Ranks of recipes over folds.

    Attributes:
        mean: mean rank by recipe, best (smallest) first; ties share a rank.
        statistic: Friedman's chi-square, corrected for ties.
        p: of it: could all recipes be alike?
        nemenyi: p-value of each pair (Nemenyi), corrected for the number of pairs.
        blocks: number of folds ranked.
    """

    mean: pd.Series
    statistic: float
    p: float
    nemenyi: pd.DataFrame
    blocks: int


def group_bootstrap(
    values: Sequence[float],
    groups: Sequence,
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return the percentile interval of a mean over pictures that come in groups.

    Whole groups are drawn with replacement, so that near-twins stay together and count for little
    more than one picture. The mean of a draw is over its pictures. The interval tells how far
    another sample of cloths could lead; not how another training set could, which is only seen
    through the repeats. Where all values are equal it has no width; `metrics.wilson` always has.

    Args:
        values: (N,) one value a picture, e.g. the share of repeats in which it is right, or the
            difference of two recipes' shares (then the interval is a paired one).
        groups: (N,) what group each picture belongs to.
        n: number of draws.
        seed: of the draws; equal seeds and groups draw the same, whatever the values.
        confidence: e.g. 0.95.

    Returns:
        Lower and upper end.

    Raises:
        BatikError: lengths differ, or there are fewer than two groups.

    Source: the cluster bootstrap, Davison & Hinkley (1997), section 3.8. SciPy's ``bootstrap``
    gives the same (a test compares them), but draws anew for every recipe; one matrix product
    serves all recipes and pairs.
    """
    lower, upper = group_bootstraps(np.asarray(values)[:, None], groups, n, seed, confidence)
    return float(lower[0]), float(upper[0])


def group_bootstraps(
    values: np.ndarray,
    groups: Sequence,
    n: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> np.ndarray:
    """Return the intervals of `group_bootstrap` for several columns, which share the draws.

    Args:
        values: (N, M) values a picture.
        groups: see `group_bootstrap`, as all the others.
        n: likewise.
        seed: likewise.
        confidence: likewise.

    Returns:
        (2, M): lower ends, upper ends.
    """
    means = _resampled(np.asarray(values, dtype=float), groups, n, seed)
    return _percentiles(means, confidence)


def group_sign_flip(
    differences: Sequence[float], groups: Sequence, n: int = 10_000, seed: int = 0
) -> float:
    """Test whether two recipes could be exchanged, group by group.

    If the recipes are equally good, each group could as well have shown them the other way round.
    The sign of a whole group's differences is flipped at random, ``n`` times; p is the share of
    flips (the data as they are among them) with a sum at least as far from zero.

    It asks what McNemar's test asks, but counts near-twins together and uses all repeats. Like it,
    it is about the networks that were trained; `nadeau_bengio` is about training again, too.

    Args:
        differences: (N,) one a picture.
        groups: (N,) what group each picture belongs to.
        n: number of flips; p is never below 1 / (n + 1).
        seed: of the flips.

    Returns:
        Two-sided p.

    Raises:
        BatikError: lengths differ, or there are fewer than two groups.

    Source: Fisher's randomisation test for pairs, as SciPy's ``permutation_test`` with
    ``permutation_type="samples"`` has it for independent pictures (a test compares them).
    """
    return float(_sign_flips(np.asarray(differences, dtype=float)[:, None], groups, n, seed)[0])


def mcnemar_exact(right_a: Sequence[bool], right_b: Sequence[bool]) -> float:
    """Return the p-value of McNemar's exact test between two recipes.

    It needs one verdict a picture. `pairwise` takes the majority over repeats (right in more than
    half): one repeat alone would throw the others away and depend on which one is taken, and
    counting each repeat would count a picture five times and make p far too small. The test takes
    pictures for independent; near-twins are not, so p is still somewhat too small here:
    `group_sign_flip` minds that.

    Args:
        right_a: (N,) whether recipe A is right about each picture.
        right_b: (N,) likewise for B.

    Returns:
        Two-sided p; 1 where they never differ.

    Raises:
        BatikError: lengths differ, or there are no pictures.

    Source: McNemar (1947), binomial version, computed by statsmodels.
    """
    from statsmodels.stats.contingency_tables import mcnemar

    a, b = np.asarray(right_a, dtype=bool), np.asarray(right_b, dtype=bool)
    if a.shape != b.shape or not a.size:
        raise BatikError(
            f"McNemar's test pairs the same pictures; there are {a.size} and {b.size}."
        )
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    return float(mcnemar(table, exact=True).pvalue)


def nadeau_bengio(
    differences: Sequence[float], n_train: float, n_test: float, confidence: float = 0.95
) -> CorrectedT:
    """Test the mean difference of two recipes over folds, minding that folds share pictures.

    The plain t-test takes folds for independent and finds differences where there are none. Here
    the variance of the mean is s² (1/J + n_test / n_train) instead of s² / J. It covers both the
    choice of training and of test pictures, and near-twins, as they share a fold. It is the most
    careful test here and overlooks much (see `pairwise`). Folds count alike, whatever their size.

    Args:
        differences: (J,) accuracy of A less accuracy of B in each fold of each repeat.
        n_train: training pictures of a fold (mean).
        n_test: test pictures of a fold (mean).
        confidence: of the interval, e.g. 0.95.

    Returns:
        The test. Differences that are all equal leave nothing to estimate a variance from: then t
        is infinite and p 0, or t is 0 and p 1 if they are zero.

    Raises:
        BatikError: fewer than two differences, or no training or test pictures.

    Source: Nadeau & Bengio (2003), "Inference for the generalization error", equation 9; for
    repeated cross-validation Bouckaert & Frank (2004).
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or n_train <= 0 or n_test <= 0:
        raise BatikError(
            f"The corrected t-test needs two folds and pictures in them, not {len(values)} folds "
            f"with {n_train:g} training and {n_test:g} test pictures."
        )
    mean, df = float(values.mean()), len(values) - 1
    # sums of shares leave rounding noise, which is no spread
    spread = 0.0 if np.ptp(values) < 1e-12 else float(values.std(ddof=1))
    error = spread * np.sqrt(1 / len(values) + n_test / n_train)
    if error > 0:
        statistic = mean / error
    else:
        statistic = 0.0 if abs(mean) < 1e-12 else float(np.copysign(np.inf, mean))
    half = float(stats.t.ppf((1 + confidence) / 2, df) * error)
    p = float(2 * stats.t.sf(abs(statistic), df))
    return CorrectedT(mean, float(statistic), p, mean - half, mean + half, df)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values corrected for their number: (N,), in the same order.

    Source: Holm (1979), computed by statsmodels.
    """
    from statsmodels.stats.multitest import multipletests

    return multipletests(p_values, method="holm")[1] if len(p_values) else np.array([])


def pairwise(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    groups: pd.DataFrame,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    reference: str | None = None,
    n: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare recipes two by two on the repeats that both have.

    How far to trust the tests: of recipes that are equally good in a simulation, on folds with
    near-twins like ours and at the 5 % level, ``p_groups`` calls some 5 % different, ``p_mcnemar``
    some 11 % (it takes twins for several pictures), ``p_corrected_t`` almost none, and a plain
    t-test over folds 14 % or more (tests/test_significance.py repeats it). So decide by
    ``p_groups_holm``; what ``p_corrected_t_holm`` confirms is safe beyond these trainings.

    Say before looking which pairs or which reference matter. A reference chosen because it came
    out best was lucky in part, so its lead is somewhat overstated.

    Args:
        runs: see `out_of_fold.pooled`.
        predictions: see `out_of_fold.pooled`.
        groups: ``path`` and ``group`` (near-twins); a table of folds will do.
        pairs: which to compare; the Holm correction counts these.
        reference: instead, compare this recipe with each other one. With neither, all pairs.
        n: number of draws of the bootstrap and of the sign-flip test.
        seed: of the draws.

    Returns:
        One row a pair:

        - ``recipe_a, recipe_b, repeats``
        - ``difference`` (accuracy of A less that of B, over pictures and repeats), ``lower,
          upper`` (95 %, paired group bootstrap)
        - ``only_a, only_b`` (pictures about which the majority of repeats is right for one alone),
          ``pictures`` (their sum)
        - ``p_groups`` (`group_sign_flip`), ``p_mcnemar`` (`mcnemar_exact`), ``p_corrected_t``
          (`nadeau_bengio`), and each again corrected by `holm`: ``p_groups_holm`` and so on

    Raises:
        BatikError: see `out_of_fold.pooled`; an unknown recipe, recipes without a common repeat, or
            a picture without a group.
    """
    table = out_of_fold.pooled(runs, predictions)
    names = list(dict.fromkeys(table["recipe"]))
    pairs = _chosen_pairs(names, pairs, reference)
    by_repeat = table.pivot(index="path", columns=["recipe", "repeat"], values="right").astype(
        float
    )
    group = _group_of(by_repeat.index, groups)
    by_fold = table.groupby(["recipe", "repeat", "fold"])["right"].mean()
    rows, differences = [], []
    for a, b in pairs:
        common = by_repeat[a].columns.intersection(by_repeat[b].columns)
        if common.empty:
            raise BatikError(f"Recipes '{a}' and '{b}' have no repeat in common: run one of each.")
        share_a = by_repeat[a][common].mean(axis=1).to_numpy()
        share_b = by_repeat[b][common].mean(axis=1).to_numpy()
        right_a, right_b = share_a > 0.5, share_b > 0.5
        of_folds = (by_fold[a] - by_fold[b]).loc[common]
        sizes = runs[runs["recipe"].isin((a, b)) & runs["seed"].isin(common)]
        test = nadeau_bengio(of_folds, sizes["n_train"].mean(), sizes["n_test"].mean())
        differences.append(share_a - share_b)
        rows.append(
            {
                "recipe_a": a,
                "recipe_b": b,
                "repeats": len(common),
                "difference": (share_a - share_b).mean(),
                "only_a": int((right_a & ~right_b).sum()),
                "only_b": int((right_b & ~right_a).sum()),
                "p_mcnemar": mcnemar_exact(right_a, right_b),
                "p_corrected_t": test.p,
            }
        )
    values = np.stack(differences, axis=1)
    lower, upper = _percentiles(_resampled(values, group, n, seed), 0.95)
    result = pd.DataFrame(rows)
    result = result.assign(
        lower=lower,
        upper=upper,
        pictures=result["only_a"] + result["only_b"],
        p_groups=_sign_flips(values, group, n, seed),
    )
    kinds = ["p_groups", "p_mcnemar", "p_corrected_t"]
    for kind in kinds:
        result[f"{kind}_holm"] = holm(result[kind])
    first = ["recipe_a", "recipe_b", "repeats", "difference", "lower", "upper"]
    return result[
        [*first, "only_a", "only_b", "pictures", *kinds, *(f"{kind}_holm" for kind in kinds)]
    ]


def p_matrix(comparison: pd.DataFrame, column: str = "p_groups_holm") -> pd.DataFrame:
    """Turn p-values of all pairs into a symmetric matrix, 1 on the diagonal.

    Args:
        comparison: of `pairwise`, with all pairs.
        column: which p-values.

    Raises:
        BatikError: some pair is missing.
    """
    names = list(dict.fromkeys([*comparison["recipe_a"], *comparison["recipe_b"]]))
    matrix = pd.DataFrame(np.nan, index=names, columns=names)
    for a, b, p in comparison[["recipe_a", "recipe_b", column]].itertuples(index=False):
        matrix.loc[a, b] = matrix.loc[b, a] = p
    for name in names:
        matrix.loc[name, name] = 1.0
    if matrix.isna().any(axis=None):
        raise BatikError("A matrix needs the p-value of every pair: call pairwise without pairs.")
    return matrix


def ranks(table: pd.DataFrame) -> Ranks:
    """Rank the recipes in every fold.

    Friedman's and Nemenyi's tests were made for many independent data sets. Folds of one data set
    share training pictures, and repeats share all pictures, so both p-values come out too small
    here: the more repeats, the smaller. Mean ranks describe; to decide, set the p-values of
    `pairwise` beside them (`p_matrix`), or rank one repeat alone.

    Args:
        table: of `out_of_fold.pooled`, with three recipes at least; only repeats that all recipes
            have count.

    Raises:
        BatikError: fewer than three recipes, or than two common folds.

    Source: Demšar (2006), "Statistical comparisons of classifiers over multiple data sets";
    computed by SciPy and scikit-posthocs.
    """
    by_fold = table.pivot_table("right", ["repeat", "fold"], "recipe", aggfunc="mean", sort=False)
    by_fold = by_fold.dropna()
    if by_fold.shape[0] < 2 or by_fold.shape[1] < 3:
        raise BatikError(
            f"Ranks need three recipes on two folds at least, not {by_fold.shape[1]} on "
            f"{by_fold.shape[0]} common ones."
        )
    return rank_blocks(by_fold)


def rank_blocks(scores: pd.DataFrame) -> Ranks:
    """Rank recipes (columns, the higher the better) in every block (row); see `ranks`."""
    import scikit_posthocs

    # rounded, because equal shares may differ in their last bits
    values = scores.round(9)
    mean = values.rank(axis=1, ascending=False).mean().sort_values(kind="stable")
    if (values.nunique(axis=1) == 1).all():
        statistic, p = 0.0, 1.0
    else:
        statistic, p = stats.friedmanchisquare(*(values[name] for name in values))
    matrix = scikit_posthocs.posthoc_nemenyi_friedman(values.to_numpy())
    matrix = pd.DataFrame(matrix.to_numpy(), index=scores.columns, columns=scores.columns)
    matrix = matrix.loc[mean.index, mean.index].rename_axis(index=None, columns=None)
    return Ranks(mean.rename_axis(None), float(statistic), float(p), matrix, len(scores))


def critical_distance(recipes: int, blocks: int, alpha: float = 0.05) -> float:
    """Return how far two mean ranks must be apart for Nemenyi's test; see `ranks`.

    For 4 recipes in 14 blocks and 0.05: 1.25 (Demšar 2006, table 5 and section 3.2.2).
    """
    quantile = stats.studentized_range.ppf(1 - alpha, recipes, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(recipes * (recipes + 1) / (6 * blocks)))


def summary(
    runs: pd.DataFrame,
    predictions: pd.DataFrame,
    groups: pd.DataFrame,
    *,
    n: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Summarise every recipe in one row.

    Args:
        runs: see `out_of_fold.pooled`.
        predictions: see `out_of_fold.pooled`.
        groups: ``path`` and ``group`` (near-twins); a table of folds will do.
        n: number of draws of the bootstrap.
        seed: of the draws.

    Returns:
        Best accuracy first: ``recipe, family, repeats, n_pictures, accuracy`` (over pictures and
        repeats), ``lower, upper`` (95 %, `group_bootstrap`), ``wilson_lower, wilson_upper`` (95 %
        of one repeat, as if near-twins were different pictures), ``sd_between_repeats`` (empty for
        one), ``f1_macro`` (of the pooled folds, mean over repeats), ``nll, brier, ece`` (of all
        predictions, see `metrics.scores` and `calibration.expected_calibration_error`),
        ``train_seconds`` (mean of a fold) and ``params``.

    Raises:
        BatikError: see `out_of_fold.pooled`; or a picture without a group.
    """
    table = out_of_fold.pooled(runs, predictions)
    shares = out_of_fold.shares_right(table)
    means = _resampled(shares.to_numpy(), _group_of(shares.index, groups), n, seed)
    lower, upper = (
        dict(zip(shares.columns, end, strict=True)) for end in _percentiles(means, 0.95)
    )
    rows = []
    for recipe, answers in table.groupby("recipe", sort=False):
        own = runs[runs["recipe"] == recipe]
        repeats = [one for _, one in answers.groupby("repeat")]
        scores = metrics.scores(*calibration.arrays(answers)[:2])
        accuracy, n_pictures = answers["right"].mean(), len(shares)
        wilson = metrics.wilson(round(accuracy * n_pictures), n_pictures)
        rows.append(
            {
                "recipe": recipe,
                "family": own["family"].iloc[0],
                "repeats": len(repeats),
                "n_pictures": n_pictures,
                "accuracy": accuracy,
                "lower": lower[recipe],
                "upper": upper[recipe],
                "wilson_lower": wilson[0],
                "wilson_upper": wilson[1],
                "sd_between_repeats": pd.Series([r["right"].mean() for r in repeats]).std(),
                "f1_macro": np.mean(
                    [
                        f1_score(r["label"], r["predicted"], average="macro", zero_division=0)
                        for r in repeats
                    ]
                ),
                "nll": scores["nll"],
                "brier": scores["brier"],
                "ece": calibration.expected_calibration_error(answers),
                "train_seconds": own["train_seconds"].mean(),
                "params": own["params"].iloc[0],
            }
        )
    result = pd.DataFrame(rows)
    return result.sort_values(["accuracy", "recipe"], ascending=[False, True], ignore_index=True)


def _group_of(paths: pd.Index, groups: pd.DataFrame) -> np.ndarray:
    known = groups.drop_duplicates("path").set_index("path")["group"]
    found = known.reindex(paths)
    if found.isna().any():
        raise BatikError(
            f"{int(found.isna().sum())} pictures have no group of near-twins (first: "
            f"{found.index[found.isna()][0]}): pass the table of folds they were tested on."
        )
    return found.to_numpy()


def _chosen_pairs(
    names: list[str], pairs: Sequence[tuple[str, str]] | None, reference: str | None
) -> list[tuple[str, str]]:
    if pairs is not None and reference is not None:
        raise BatikError("Give pairs or a reference, not both.")
    if reference is not None:
        chosen = [(reference, name) for name in names if name != reference]
    elif pairs is not None:
        chosen = [tuple(pair) for pair in pairs]
    else:
        chosen = [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]
    if unknown := sorted({name for pair in chosen for name in pair} - set(names)):
        raise BatikError(f"No runs of recipe '{unknown[0]}': there are {', '.join(names)}.")
    if not chosen or any(a == b for a, b in chosen):
        raise BatikError("There is no pair of two different recipes to compare.")
    return chosen


def _by_group(values: np.ndarray, groups: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (G, M) of values (N, M) over groups, and the groups' sizes (G,)."""
    if len(groups) != len(values):
        raise BatikError(f"{len(values)} pictures need as many groups, not {len(groups)}.")
    # sorted, so that the order of pictures does not change what is drawn
    codes, known = pd.factorize(np.asarray(groups), sort=True)
    if len(known) < 2:
        raise BatikError(
            f"{len(values)} pictures in {len(known)} group: a group counts as one, and one is too "
            f"few for an interval or a test."
        )
    sums = np.zeros((len(known), values.shape[1]))
    np.add.at(sums, codes, values)
    return sums, np.bincount(codes)


def _resampled(values: np.ndarray, groups: Sequence, n: int, seed: int) -> np.ndarray:
    """Return means (n, M) of values (N, M) over groups drawn with replacement."""
    sums, sizes = _by_group(values, groups)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=n)
    return counts @ sums / (counts @ sizes)[:, None]


def _percentiles(means: np.ndarray, confidence: float) -> np.ndarray:
    outside = (1 - confidence) / 2
    return np.quantile(means, [outside, 1 - outside], axis=0)


def _sign_flips(values: np.ndarray, groups: Sequence, n: int, seed: int) -> np.ndarray:
    """Return p-values (M,) of `group_sign_flip` for differences (N, M)."""
    sums, _ = _by_group(values, groups)
    rng = np.random.default_rng(seed)
    signs = rng.choice(np.array([-1.0, 1.0]), size=(n, len(sums)))
    # a tie must count as a tie whatever the order of summation
    as_far = np.abs(signs @ sums) >= np.abs(sums.sum(axis=0)) - 1e-9
    return (1 + as_far.sum(axis=0)) / (n + 1)
