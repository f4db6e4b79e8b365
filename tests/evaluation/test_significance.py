"""Intervals and tests against published worked examples, SciPy, and cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.datasets import make_moons
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score
from sklearn.svm import SVC
from test_out_of_fold import run_rows

from batik_utils import metrics
from batik_utils.errors import BatikError
from batik_utils.evaluation import out_of_fold, significance

# Demšar (2006), table 6: AUC of C4.5 and three variants on 14 data sets. The paper ranks the two
# equal entries of the 13th row 2 and 3, before rounding.
DEMSAR = pd.DataFrame(
    [
        [0.763, 0.768, 0.771, 0.798],
        [0.599, 0.591, 0.590, 0.569],
        [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657],
        [0.882, 0.888, 0.886, 0.898],
        [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685],
        [0.583, 0.583, 0.563, 0.625],
        [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000],
        [0.940, 0.962, 0.965, 0.962],
        [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975],
        [0.957, 0.978, 0.946, 0.970],
    ],
    columns=["C4.5", "C4.5+m", "C4.5+cf", "C4.5+m+cf"],
)


def from_table(both, only_a, only_b, neither):
    a = [True] * (both + only_a) + [False] * (only_b + neither)
    b = [True] * both + [False] * only_a + [True] * only_b + [False] * neither
    return a, b


def test_mcnemar_as_published():
    # Fay, vignette of the R package exact2x2: matrix(c(21, 9, 2, 12)), p-value 0.06543
    assert significance.mcnemar_exact(*from_table(21, 9, 2, 12)) == pytest.approx(0.06543, abs=1e-5)


def test_mcnemar_looks_at_the_differing_pictures_alone():
    # 5 against 0: 2 * (1/2)^5
    assert significance.mcnemar_exact(*from_table(90, 5, 0, 7)) == pytest.approx(1 / 16)
    assert significance.mcnemar_exact(*from_table(0, 0, 5, 0)) == pytest.approx(1 / 16)
    assert significance.mcnemar_exact(*from_table(10, 0, 0, 10)) == 1
    with pytest.raises(BatikError, match="there are 2 and 3"):
        significance.mcnemar_exact([True, True], [True, True, False])


def test_corrected_t_as_published():
    # scikit-learn's example "Statistical comparison of models using grid search": corrected
    # t-value 0.750, corrected p-value 0.227 (one-sided)
    x, y = make_moons(noise=0.352, random_state=1, n_samples=100)
    folds = RepeatedStratifiedKFold(n_splits=10, n_repeats=10, random_state=0)
    rbf, linear = (
        cross_val_score(SVC(kernel=kernel, random_state=0), x, y, cv=folds, scoring="roc_auc")
        for kernel in ("rbf", "linear")
    )
    test = significance.nadeau_bengio(rbf - linear, n_train=90, n_test=10)
    assert test.statistic == pytest.approx(0.750, abs=5e-4)
    assert test.p / 2 == pytest.approx(0.227, abs=5e-4)
    assert test.df == 99


def test_corrected_t_by_hand():
    # mean 2, s² = 10/3, J = 4: variance of the mean 10/3 * (1/4 + 1/4) = 5/3
    test = significance.nadeau_bengio([0, 1, 3, 4], n_train=40, n_test=10)
    assert test.mean == 2
    assert test.statistic == pytest.approx(2 / np.sqrt(5 / 3))
    # the table of Student's t: 3.182 for 3 degrees of freedom and 95 %
    assert test.upper - 2 == pytest.approx(3.182 * np.sqrt(5 / 3), abs=1e-3)
    assert test.lower + test.upper == pytest.approx(4)
    plain = stats.ttest_1samp([0, 1, 3, 4], 0)
    assert test.statistic < plain.statistic
    assert test.p > plain.pvalue
    # without a test set that training sets share, it is the plain one
    same = significance.nadeau_bengio([0, 1, 3, 4], n_train=1e12, n_test=1)
    assert (same.statistic, same.p) == pytest.approx((plain.statistic, plain.pvalue))


def test_corrected_t_without_spread():
    none = significance.nadeau_bengio([0.0] * 5, 90, 10)
    assert (none.statistic, none.p, none.lower, none.upper) == (0, 1, 0, 0)
    # 0.1 + 0.2 and 0.3 differ in their last bits only
    always = significance.nadeau_bengio([-(0.1 + 0.2), -0.3], 90, 10)
    assert (always.statistic, always.p) == (-np.inf, 0)
    with pytest.raises(BatikError, match="not 1 folds"):
        significance.nadeau_bengio([0.1], 90, 10)


def test_holm_as_published():
    # Wikipedia, "Holm–Bonferroni method": at 0.05 the first and the last are rejected
    corrected = significance.holm([0.01, 0.04, 0.03, 0.005])
    assert corrected.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([]).tolist() == []


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    values = np.clip(rng.normal(0.7, 0.2, 60)[groups] + rng.normal(0, 0.1, len(groups)), 0, 1)
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    theirs = stats.bootstrap(
        (sums, sizes),
        lambda s, n, axis: s.sum(axis) / n.sum(axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        random_state=1,
    ).confidence_interval
    ours = significance.group_bootstrap(values, groups, n=20_000, seed=2)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=2e-3)


def test_twins_widen_the_interval():
    values = np.tile([1, 1, 1, 0], 25)
    alone = significance.group_bootstrap(values, range(100))
    # the same values, but each picture with nine twins that fare alike
    twins = significance.group_bootstrap(np.sort(values), np.repeat(range(10), 10))
    assert twins[1] - twins[0] > 2 * (alone[1] - alone[0])
    assert alone == pytest.approx(metrics.wilson(75, 100), abs=0.02)


def test_bootstrap_s_limits():
    assert significance.group_bootstrap([1.0] * 6, range(6)) == (1, 1)
    # with two equal groups a draw is all of one, all of the other, or half of each
    assert significance.group_bootstrap([1, 1, 0, 0], ["a", "a", "b", "b"]) == (0, 1)
    again = [significance.group_bootstrap([1, 0, 1, 0, 1], range(5), n=50, seed=s) for s in (1, 1)]
    assert again[0] == again[1]
    with pytest.raises(BatikError, match="4 pictures in 1 group"):
        significance.group_bootstrap([1, 0, 1, 0], ["a"] * 4)
    with pytest.raises(BatikError, match="3 pictures need as many groups, not 2"):
        significance.group_bootstrap([1, 0, 1], ["a", "b"])


def test_sign_flips_agree_with_scipy_and_with_the_binomial():
    differences = np.array([1, 1, 1, 1, 1, 1, 1, -1, 0, 0], dtype=float)
    ours = significance.group_sign_flip(differences, range(10), n=40_000)
    exact = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert ours == pytest.approx(exact, abs=5e-3)
    # seven against one: McNemar's exact test is the same for single pictures
    assert exact == pytest.approx(significance.mcnemar_exact([1] * 7 + [0], [0] * 7 + [1]))


def test_sign_flips_count_a_group_of_twins_once():
    ten = np.ones(10)
    assert significance.group_sign_flip(ten, range(10)) < 0.01
    # two groups: each of the four flips is equally likely, two are as far from zero
    assert significance.group_sign_flip(ten, [0] * 5 + [1] * 5) == pytest.approx(0.5, abs=0.02)


def test_equal_recipes_are_seldom_called_different():
    # 150 pictures, 102 alone, 11 pairs, 3 of three and one of 17 twins, as in the Kaggle set; two
    # recipes that differ by luck with a group, a picture and a training, not on average
    rng = np.random.default_rng(0)
    sizes = np.array([1] * 102 + [2] * 11 + [3] * 3 + [17])
    group = np.repeat(np.arange(len(sizes)), sizes)
    fold = np.stack([rng.permutation(np.arange(len(sizes)) % 10)[group] for _ in range(5)])

    def right(hard):
        liking = rng.normal(0, 0.7, len(sizes))[group] + rng.normal(0, 0.4, 150)
        training = rng.normal(0, 0.3, (5, 10))[np.arange(5)[:, None], fold]
        return 0.9 + hard + liking + training + rng.normal(0, 0.6, (5, 150)) > 0

    trials = 200
    called = dict.fromkeys(("groups", "mcnemar", "corrected", "plain"), 0)
    for trial in range(trials):
        hard = rng.normal(0, 0.8, len(sizes))[group] + rng.normal(0, 0.5, 150)
        a, b = right(hard), right(hard)
        apart = a.mean(axis=0) - b.mean(axis=0)
        of_folds = [(a[r] * 1.0 - b[r])[fold[r] == f].mean() for r in range(5) for f in range(10)]
        p = {
            "groups": significance.group_sign_flip(apart, group, n=500, seed=trial),
            "mcnemar": significance.mcnemar_exact(a.mean(axis=0) > 0.5, b.mean(axis=0) > 0.5),
            "corrected": significance.nadeau_bengio(of_folds, 135, 15).p,
            "plain": stats.ttest_1samp(of_folds, 0).pvalue,
        }
        for name in called:
            called[name] += (p[name] < 0.05) / trials
    assert called["corrected"] <= called["groups"] < 0.09
    assert called["mcnemar"] > called["groups"]
    assert called["plain"] > 0.12


def test_ranks_as_published():
    ranks = significance.rank_blocks(DEMSAR)
    published = {"C4.5": 3.143, "C4.5+m": 2.000, "C4.5+cf": 2.893, "C4.5+m+cf": 1.964}
    assert ranks.mean.to_dict() == pytest.approx(published, abs=5e-4)
    assert ranks.mean.index[0] == "C4.5+m+cf"
    assert ranks.blocks == 14
    assert ranks.p < 0.05
    # critical difference 1.25 at 0.05: none apart; 1.12 at 0.10: C4.5 from C4.5+m and C4.5+m+cf
    assert significance.critical_distance(4, 14) == pytest.approx(1.25, abs=5e-3)
    assert significance.critical_distance(4, 14, 0.10) == pytest.approx(1.12, abs=5e-3)
    p = ranks.nemenyi
    assert p.to_numpy().min() > 0.05
    apart = {(a, b) for a in p for b in p if p.loc[a, b] < 0.10}
    pairs = {("C4.5", "C4.5+m"), ("C4.5", "C4.5+m+cf")}
    assert apart == pairs | {(b, a) for a, b in pairs}


def test_ranks_of_folds():
    a, b, c = (
        run_rows(name, [right] * 2)
        for name, right in (("a", [1, 1, 1, 1]), ("b", [1, 1, 0, 0]), ("c", [0, 0, 0, 0]))
    )
    runs, predictions = (pd.concat(each, ignore_index=True) for each in zip(a, b, c, strict=True))
    table = out_of_fold.pooled(runs, predictions)
    ranks = significance.ranks(table)
    assert ranks.mean.to_dict() == {"a": 1, "b": 2, "c": 3}
    assert (ranks.blocks, ranks.statistic) == (4, pytest.approx(8))  # N (k - 1), the largest
    with pytest.raises(BatikError, match="not 2 on 4"):
        significance.ranks(table[table["recipe"] != "c"])
    alike = significance.rank_blocks(DEMSAR * 0)
    assert (alike.statistic, alike.p) == (0, 1)
    assert set(alike.mean) == {2.5}


@pytest.fixture
def grid():
    """Three recipes on 40 pictures in 30 groups, 3 repeats: b and c are nearly alike."""
    rng = np.random.default_rng(3)
    tables = []
    for name, share in (("a", 0.9), ("b", 0.5), ("c", 0.5)):
        tables.append(run_rows(name, rng.random((3, 40)) < share, folds=5))
    runs, predictions = (pd.concat(each, ignore_index=True) for each in zip(*tables, strict=True))
    paths = [f"{k}.jpg" for k in range(40)]
    groups = pd.DataFrame({"path": paths, "group": [max(0, k - 10) for k in range(40)]})
    return runs, predictions, groups


def test_pairwise_puts_each_test_in_its_place(grid):
    runs, predictions, groups = grid
    table = significance.pairwise(runs, predictions, groups, n=2000)
    assert table[["recipe_a", "recipe_b"]].to_numpy().tolist() == [
        ["a", "b"],
        ["a", "c"],
        ["b", "c"],
    ]
    shares = out_of_fold.shares_right(out_of_fold.pooled(runs, predictions))
    row = table.iloc[0]
    difference = shares["a"] - shares["b"]
    group = groups.set_index("path")["group"][shares.index]
    assert row["difference"] == pytest.approx(difference.mean())
    assert (row["lower"], row["upper"]) == pytest.approx(
        significance.group_bootstrap(difference, group, n=2000)
    )
    assert row["p_groups"] == significance.group_sign_flip(difference, group, n=2000)
    right_a, right_b = shares["a"] > 0.5, shares["b"] > 0.5
    assert row["p_mcnemar"] == significance.mcnemar_exact(right_a, right_b)
    assert row["pictures"] == (right_a != right_b).sum() == row["only_a"] + row["only_b"]
    folds = runs.pivot(index=["seed", "fold"], columns="recipe", values="accuracy")
    test = significance.nadeau_bengio(folds["a"] - folds["b"], n_train=32, n_test=8)
    assert row["p_corrected_t"] == pytest.approx(test.p)
    for kind in ("p_groups", "p_mcnemar", "p_corrected_t"):
        assert table[f"{kind}_holm"].tolist() == pytest.approx(significance.holm(table[kind]))
        assert (table[f"{kind}_holm"] < 0.05).tolist() == [True, True, False]


def test_pairwise_takes_what_is_asked_for(grid):
    runs, predictions, groups = grid
    fewer = runs[~((runs["recipe"] == "c") & (runs["seed"] > 0))]
    table = significance.pairwise(fewer, predictions, groups, reference="c", n=100)
    assert table["recipe_b"].tolist() == ["a", "b"]
    assert table["repeats"].tolist() == [1, 1]
    first = fewer[fewer["seed"] == 0].groupby("recipe")["accuracy"].mean()
    assert table["difference"].tolist() == pytest.approx([first["c"] - first[k] for k in "ab"])
    other = significance.pairwise(fewer, predictions, groups, pairs=[("a", "c")], n=100)
    assert other["difference"].iloc[0] == pytest.approx(first["a"] - first["c"])
    swapped = significance.pairwise(runs, predictions, groups, pairs=[("b", "a")], n=100)
    straight = significance.pairwise(runs, predictions, groups, pairs=[("a", "b")], n=100)
    assert swapped["difference"].iloc[0] == pytest.approx(-straight["difference"].iloc[0])
    assert swapped["only_a"].iloc[0] == straight["only_b"].iloc[0]
    assert swapped["p_corrected_t"].iloc[0] == pytest.approx(straight["p_corrected_t"].iloc[0])


def test_pairwise_refuses_what_it_cannot_pair(grid):
    runs, predictions, groups = grid
    with pytest.raises(BatikError, match="No runs of recipe 'd': there are a, b, c"):
        significance.pairwise(runs, predictions, groups, reference="d")
    with pytest.raises(BatikError, match="pairs or a reference, not both"):
        significance.pairwise(runs, predictions, groups, pairs=[("a", "b")], reference="a")
    with pytest.raises(BatikError, match="no pair of two different"):
        significance.pairwise(runs, predictions, groups, pairs=[("a", "a")])
    with pytest.raises(BatikError, match=r"1 pictures have no group .* .first: 0\.jpg"):
        significance.pairwise(runs, predictions, groups.iloc[1:])
    apart = runs[(runs["recipe"] == "a") == (runs["seed"] == 0)]
    with pytest.raises(BatikError, match="'a' and 'b' have no repeat in common"):
        significance.pairwise(apart, predictions, groups)


def test_matrix_of_p_values(grid):
    table = significance.pairwise(*grid, n=100)
    matrix = significance.p_matrix(table, "p_mcnemar")
    assert matrix.index.tolist() == matrix.columns.tolist() == ["a", "b", "c"]
    assert (matrix.to_numpy() == matrix.to_numpy().T).all()
    assert np.diag(matrix).tolist() == [1, 1, 1]
    assert matrix.loc["c", "a"] == table["p_mcnemar"].iloc[1]
    with pytest.raises(BatikError, match="every pair"):
        significance.p_matrix(table.iloc[:2])


def test_summary(grid):
    runs, predictions, groups = grid
    table = significance.summary(runs, predictions, groups, n=2000)
    assert table["recipe"].iloc[0] == "a"
    assert table["accuracy"].is_monotonic_decreasing
    row = table.iloc[0]
    of_repeats = runs[runs["recipe"] == "a"].groupby("seed")["accuracy"].mean()
    assert (row["repeats"], row["n_pictures"]) == (3, 40)
    assert row["accuracy"] == pytest.approx(of_repeats.mean())
    assert row["sd_between_repeats"] == pytest.approx(of_repeats.std())
    shares = out_of_fold.shares_right(out_of_fold.pooled(runs, predictions))["a"]
    group = groups.set_index("path")["group"][shares.index]
    assert (row["lower"], row["upper"]) == pytest.approx(
        significance.group_bootstrap(shares, group, n=2000)
    )
    wilson = metrics.wilson(round(40 * row["accuracy"]), 40)
    assert (row["wilson_lower"], row["wilson_upper"]) == pytest.approx(wilson)
    assert (row["train_seconds"], row["params"], row["family"]) == (4.0, 7, "ours")
    # the right motif has probability 0.8 or 0.2
    share = row["accuracy"]
    assert row["nll"] == pytest.approx(-share * np.log(0.8) - (1 - share) * np.log(0.2))
    assert row["brier"] == pytest.approx(share * 0.08 + (1 - share) * 1.28)
    assert row["ece"] == pytest.approx(abs(share - 0.8), abs=1e-6)


def test_summary_s_f1_is_of_pooled_folds(grid):
    runs, predictions, groups = grid
    table = significance.summary(runs, predictions, groups, n=10).set_index("recipe")
    pooled = out_of_fold.pooled(runs, predictions)
    expected = []
    for _, rows in pooled[pooled["recipe"] == "b"].groupby("repeat"):
        report = metrics.report(rows["label"], rows["predicted"], ["betawi", "tambal"])
        expected.append(report.loc["macro mean", "f1"])
    assert table.loc["b", "f1_macro"] == pytest.approx(np.mean(expected))
