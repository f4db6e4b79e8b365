"""Intervals and tests against published worked examples, SciPy, and cases worked out by hand."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_out_of_fold import joined, run_rows

from batik_utils import metrics
from batik_utils.errors import BatikError
from batik_utils.evaluation import out_of_fold, significance


def sign_flip(differences, groups, n=10_000):
    return significance.group_sign_flip(np.asarray(differences, float)[:, None], groups, n)[0]


def test_holm_as_published():
    # Wikipedia, "Holm–Bonferroni method": at 0.05 the first and the last are rejected
    corrected = significance.holm([0.01, 0.04, 0.03, 0.005])
    assert corrected.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_bootstrap_agrees_with_scipy():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    values = np.clip(rng.normal(0.7, 0.2, 60)[groups] + rng.normal(0, 0.1, len(groups)), 0, 1)
    sums, sizes = np.bincount(groups, values), np.bincount(groups)
    settings = {"paired": True, "method": "percentile", "n_resamples": 20_000, "random_state": 1}
    theirs = stats.bootstrap(
        (sums, sizes), lambda s, n, axis: s.sum(axis) / n.sum(axis), **settings
    ).confidence_interval
    ours = significance.group_bootstrap(values, groups, n=20_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=2e-3)
    both = significance.group_bootstrap(np.stack([values, 1 - values], 1), groups, n=20_000)
    assert both[:, 0] == pytest.approx(ours)


def test_groups_are_drawn_as_a_whole():
    # with two equal groups a draw is all of one, all of the other, or half of each
    assert significance.group_bootstrap([1, 1, 0, 0], ["a", "a", "b", "b"]).tolist() == [0, 1]
    with pytest.raises(BatikError, match="4 pictures in 1 group"):
        significance.group_bootstrap([1, 0, 1, 0], ["a"] * 4)


def test_sign_flips_agree_with_scipy_and_count_a_group_once():
    differences = np.array([1, 1, 1, 1, 1, 1, 1, -1, 0, 0], dtype=float)
    exact = stats.permutation_test(
        (differences,), np.sum, permutation_type="samples", n_resamples=np.inf
    ).pvalue
    assert sign_flip(differences, range(10), n=40_000) == pytest.approx(exact, abs=5e-3)
    # two groups: each of the four flips is equally likely, two are as far from zero
    assert sign_flip(np.ones(10), [0] * 5 + [1] * 5) == pytest.approx(0.5, abs=0.02)


@pytest.fixture
def grid():
    """Three recipes on 40 pictures in 30 groups, 3 repeats: b and c are nearly alike."""
    rng = np.random.default_rng(3)
    shares = (("a", 0.9), ("b", 0.5), ("c", 0.5))
    runs = [run_rows(name, rng.random((3, 40)) < share, folds=5) for name, share in shares]
    paths = [f"{k}.jpg" for k in range(40)]
    groups = pd.DataFrame({"path": paths, "group": [max(0, k - 10) for k in range(40)]})
    return *joined(*runs), groups


def test_pairwise_puts_each_test_in_its_place(grid):
    runs, predictions, groups = grid
    table = significance.pairwise(runs, predictions, groups, "b")
    shares = out_of_fold.shares_right(out_of_fold.pooled(runs, predictions))
    row = table.set_index("recipe_b").loc["a"]
    difference = shares["b"] - shares["a"]
    group = groups.set_index("path")["group"][shares.index]
    assert row["difference"] == pytest.approx(difference.mean())
    ends = significance.group_bootstrap(difference, group)
    assert [row["lower"], row["upper"]] == pytest.approx(ends)
    assert row["p_groups"] == sign_flip(difference, group)
    assert table["p_groups_holm"].tolist() == pytest.approx(significance.holm(table["p_groups"]))


def test_pairwise_compares_one_precision_on_common_repeats(grid):
    runs, predictions, groups = grid
    fewer = runs[(runs["recipe"] != "c") | (runs["seed"] == 0)]
    table = significance.pairwise(fewer, predictions, groups, "c")
    assert table[["recipe_b", "repeats"]].to_numpy().tolist() == [["a", 1], ["b", 1]]
    mixed = runs.assign(precision=runs["recipe"].map({"b": "bfloat16"}).fillna("float32"))
    assert significance.pairwise(mixed, predictions, groups, "a")["recipe_b"].tolist() == ["c"]


def test_summary(grid):
    runs, predictions, groups = grid
    row = significance.summary(runs, predictions, groups).iloc[0]
    of_repeats = runs[runs["recipe"] == "a"].groupby("seed")["accuracy"].mean()
    assert (row["recipe"], row["repeats"], row["n_pictures"]) == ("a", 3, 40)
    assert row["accuracy"] == pytest.approx(of_repeats.mean())
    assert row["sd_between_repeats"] == pytest.approx(of_repeats.std())
    shares = out_of_fold.shares_right(out_of_fold.pooled(runs, predictions))["a"]
    assert row["lower"] < row["accuracy"] < row["upper"]
    # pictures 0 to 10 are one group
    first = [f"{k}.jpg" for k in range(11)]
    once = [shares[first].mean(), *shares.drop(first)]
    assert row["accuracy_groups"] == pytest.approx(np.mean(once))
    wilson = metrics.wilson(round(40 * row["accuracy"]), 40)
    assert (row["wilson_lower"], row["wilson_upper"]) == pytest.approx(wilson)
    # the right motif has probability 0.8 or 0.2
    assert row["ece"] == pytest.approx(abs(row["accuracy"] - 0.8))
