"""Scores against values worked out by hand or published."""

import math

import numpy as np
import pandas as pd
import pytest

from batik_utils import metrics
from batik_utils.errors import BatikError

# three of five right: the second is taken for class 2, the fourth for class 0
LABELS = [0, 0, 1, 1, 2]
PROBABILITIES = np.array(
    [[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.2, 0.6, 0.2], [0.5, 0.3, 0.2], [0.0, 0.2, 0.8]]
)


def test_scores_by_hand():
    scores = metrics.scores(LABELS, PROBABILITIES)
    assert scores["accuracy"] == pytest.approx(3 / 5)
    assert scores["precision_macro"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert scores["recall_macro"] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert scores["f1_macro"] == pytest.approx((1 / 2 + 2 / 3 + 2 / 3) / 3)
    own = (0.7, 0.1, 0.6, 0.3, 0.8)
    assert scores["nll"] == pytest.approx(-sum(map(math.log, own)) / 5)
    squares = (0.14, 1.26, 0.24, 0.78, 0.08)
    assert scores["brier"] == pytest.approx(sum(squares) / 5)


def test_a_wrong_and_certain_answer_has_a_finite_loss():
    wrong = metrics.scores([1, 2, 0], np.eye(3))
    assert (wrong["accuracy"], wrong["brier"]) == (0, 2) and math.isfinite(wrong["nll"])


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        (13, 15, 0.621, 0.963),  # the best published model
        (10, 10, 0.7225, 1.0),
        (15, 148, 0.0624, 0.1605),  # Newcombe (1998), table I, method 3
        (0, 20, 0.0, 0.1611),
    ],
)
def test_wilson_intervals_as_published(right, total, low, high):
    assert metrics.wilson(right, total) == pytest.approx((low, high), abs=5e-4)


def test_a_confusion_matrix_has_the_true_motif_by_row():
    table = metrics.confusion(["a", "a", "b"], ["b", "a", "b"], ["a", "b", "c"])
    assert table.to_numpy().tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert (table.index.name, table.columns.name) == ("true motif", "predicted motif")


def runs_of(*rows: tuple[str, int, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """``runs.csv`` and ``predictions.csv`` of runs (recipe, seed, accuracy) on 15 pictures."""
    runs = pd.DataFrame(rows, columns=["recipe", "seed", "accuracy"])
    runs["run"] = runs["recipe"] + "-" + runs["seed"].astype(str)
    runs = runs.assign(f1_macro=runs["accuracy"] / 2, nll=1.0 + runs["seed"], brier=0.5)
    runs = runs.assign(epochs=10, family="ours", weights="random", n_test=15, params=7)
    runs["train_seconds"] = 2.0 * runs["seed"]
    return runs, pd.DataFrame({"run": runs["run"].repeat(15)})


def test_a_summary_has_one_row_a_recipe_and_the_best_first():
    rows = ("worse", 0, 6 / 15), ("better", 0, 12 / 15), ("better", 1, 14 / 15)
    table = metrics.summarise(*runs_of(*rows))
    assert list(table["recipe"]) == ["better", "worse"]
    better, worse = table.iloc[0], table.iloc[1]
    assert (better["runs"], better["accuracy"]) == (2, pytest.approx(13 / 15))
    assert better["sd"] == pytest.approx(math.sqrt(2) / 15) and math.isnan(worse["sd"])
    assert (better["min"], better["max"]) == pytest.approx((12 / 15, 14 / 15))
    # two runs on the same 15 pictures are no 30 pictures
    assert (better["lower"], better["upper"]) == pytest.approx((0.621, 0.963), abs=5e-4)
    means = better[["f1_macro", "nll", "train_seconds"]].tolist()
    assert means == pytest.approx([13 / 30, 1.5, 1.0])
    # other epochs are another row
    runs, predictions = runs_of(*rows)
    runs.loc[1, "epochs"] = 20
    assert list(metrics.summarise(runs, predictions)["epochs"]) == [10, 20, 10]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda runs, predictions: (runs, predictions[predictions["run"] != "toy-1"]), "toy-1"),
        (lambda runs, predictions: (runs.iloc[:1], predictions), "toy-1"),
        (lambda runs, predictions: (runs, predictions.iloc[:-1]), "number of rows"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(spoil, named):
    with pytest.raises(BatikError, match=f"do not belong together.*{named}"):
        metrics.summarise(*spoil(*runs_of(("toy", 0, 0.6), ("toy", 1, 0.8))))


def test_reproductions_stand_beside_the_published_values():
    runs, _ = runs_of(("toy", 0, 13 / 15), ("toy", 1, 12 / 15), ("new", 0, 1.0))
    table = metrics.reproduction(runs, {"missing": 0.5, "toy": 0.8667})
    assert list(table["recipe"]) == ["toy"]
    row = table.iloc[0]
    assert (row["mean"], row["share_at_or_above"]) == (pytest.approx(12.5 / 15), 0.5)
    assert (row["lower"], row["upper"]) == pytest.approx(metrics.wilson(25, 30))
    assert metrics.reproduction(runs.iloc[:0], {"toy": 0.5}).empty
