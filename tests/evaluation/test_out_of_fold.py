"""Folds put together again: every picture once a repeat, or a clear refusal."""

import numpy as np
import pandas as pd
import pytest

from batik_utils.errors import BatikError
from batik_utils.evaluation import out_of_fold

MOTIFS = ("betawi", "tambal")


def run_rows(recipe, right, *, folds=2):
    """Make runs and predictions of one recipe.

    Args:
        recipe: name.
        right: repeats by pictures, whether the answer is right; even pictures are betawi.
        folds: picture k is tested in fold k % folds.
    """
    runs, predictions = [], []
    for repeat, row in enumerate(right):
        for fold in range(folds):
            run = f"{recipe}-e1-f{fold}-s{repeat}"
            tested = [k for k in range(len(row)) if k % folds == fold]
            share = np.mean([row[k] for k in tested])
            runs.append(
                {"run": run, "recipe": recipe, "family": "ours", "fold": fold, "seed": repeat,
                 "n_train": len(row) - len(tested), "n_test": len(tested), "accuracy": share,
                 "train_seconds": 2.0 + fold, "params": 7}
            )  # fmt: skip
            for k in tested:
                label, other = MOTIFS[k // 2 % 2], MOTIFS[1 - k // 2 % 2]
                predictions.append(
                    {"run": run, "path": f"{k}.jpg", "label": label,
                     "predicted": label if row[k] else other,
                     f"p_{label}": 0.8 if row[k] else 0.2, f"p_{other}": 0.2 if row[k] else 0.8}
                )  # fmt: skip
    return pd.DataFrame(runs), pd.DataFrame(predictions)


@pytest.fixture
def tables():
    a = run_rows("a", [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]])
    b = run_rows("b", [[0, 1, 1, 1], [0, 1, 1, 1]])
    runs, predictions = (pd.concat(both, ignore_index=True) for both in zip(a, b, strict=True))
    return runs, predictions


def test_every_picture_comes_once_a_repeat(tables):
    table = out_of_fold.pooled(*tables)
    assert table.groupby(["recipe", "repeat"])["path"].nunique().tolist() == [4] * 5
    assert len(table) == 20
    assert table["right"].mean() == pytest.approx((7 + 6) / 20)
    one = table[(table["recipe"] == "a") & (table["repeat"] == 1) & (table["path"] == "2.jpg")]
    assert one[["fold", "label", "predicted", "right"]].to_numpy().tolist() == [
        [0, "tambal", "betawi", False]
    ]


def test_predictions_of_other_runs_are_left_out(tables):
    runs, predictions = tables
    table = out_of_fold.pooled(runs[runs["recipe"] == "b"], predictions)
    assert set(table["recipe"]) == {"b"}


def test_shares_right_are_over_repeats(tables):
    shares = out_of_fold.shares_right(out_of_fold.pooled(*tables))
    assert shares.loc["1.jpg"].to_dict() == pytest.approx({"a": 2 / 3, "b": 1})
    assert shares.loc["0.jpg"].to_dict() == pytest.approx({"a": 1, "b": 0})


def test_a_doubled_picture_is_refused(tables):
    runs, predictions = tables
    curve = runs.iloc[[0]].assign(run="a-e1-f0-s0-n20")
    more = predictions[predictions["run"] == "a-e1-f0-s0"].assign(run="a-e1-f0-s0-n20")
    with pytest.raises(BatikError, match=r"'a' predicts 0\.jpg twice in repeat 0.*learning curve"):
        out_of_fold.pooled(pd.concat([runs, curve]), pd.concat([predictions, more]))


def test_a_missing_fold_is_refused_and_listed(tables):
    runs, predictions = tables
    runs = runs[runs["run"] != "b-e1-f1-s1"]
    with pytest.raises(BatikError, match="'b' lacks 2 of 4 pictures in repeat 1: finish the grid"):
        out_of_fold.pooled(runs, predictions)
    gaps = out_of_fold.unfinished(runs, predictions)
    assert gaps.to_dict("records") == [{"recipe": "b", "repeat": 1, "missing": 2}]
    assert out_of_fold.unfinished(*tables).empty


def test_a_run_without_predictions_is_refused(tables):
    runs, predictions = tables
    with pytest.raises(BatikError, match=r"no predictions \(first: b-e1-f1-s1\)"):
        out_of_fold.pooled(runs, predictions[predictions["run"] != "b-e1-f1-s1"])


def test_other_folds_or_labels_are_refused(tables):
    runs, predictions = tables
    moved = runs.assign(fold=runs["fold"].where(runs["recipe"] == "a", 1 - runs["fold"]))
    with pytest.raises(BatikError, match="different folds of repeat 0"):
        out_of_fold.pooled(moved, predictions)
    odd = predictions.copy()
    odd.loc[0, "label"] = "tambal"
    with pytest.raises(BatikError, match=r"disagree about the label of 0\.jpg"):
        out_of_fold.pooled(runs, odd)


def test_difficulty_counts_recipes_alike(tables):
    table = out_of_fold.difficulty(out_of_fold.pooled(*tables))
    # 3.jpg: a is always wrong, b never; 1.jpg: a is wrong once in three
    assert table["path"].tolist() == ["0.jpg", "3.jpg", "1.jpg", "2.jpg"]
    assert table["wrong"].tolist() == pytest.approx([1 / 2, 1 / 2, 1 / 6, 1 / 6])
    assert table["recipes_wrong"].tolist() == [1, 1, 0, 0]
    assert table["mostly_called"].tolist() == ["tambal", "betawi", "tambal", "betawi"]
    assert set(table["recipes"]) == {2}


def test_a_recipe_is_wrong_where_most_of_its_repeats_are():
    runs = run_rows("a", [[1, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 0]])
    table = out_of_fold.difficulty(out_of_fold.pooled(*runs)).set_index("path")
    assert table["wrong"].sort_index().tolist() == pytest.approx([0, 2 / 3, 1 / 3, 1])
    assert table["recipes_wrong"].sort_index().tolist() == [0, 1, 0, 1]


def test_a_picture_never_mistaken_is_called_nothing():
    table = out_of_fold.difficulty(out_of_fold.pooled(*run_rows("a", [[1, 1, 1, 0]])))
    assert table["mostly_called"].tolist() == ["betawi", "", "", ""]


def test_learning_table_keeps_sizes_apart(tables):
    full, _ = run_rows("a", [[1, 1, 1, 0], [1, 1, 0, 0]])
    few, _ = run_rows("a", [[0, 1, 0, 0], [0, 0, 0, 0]])
    few = few.assign(run=few["run"] + "-n1", n_train=1)
    table = out_of_fold.learning_table(pd.concat([full, few]))
    assert table.to_numpy().tolist() == [
        ["a", 1.0, 0, 0.25],
        ["a", 1.0, 1, 0.0],
        ["a", 2.0, 0, 0.75],
        ["a", 2.0, 1, 0.5],
    ]
    with pytest.raises(BatikError, match="'a' with 1 pictures a motif lacks folds of repeat 1"):
        out_of_fold.learning_table(pd.concat([full, few.iloc[:-1]]))
