"""Cross-validation tables: every picture once a repeat, or a clear refusal."""

import numpy as np
import pandas as pd
import pytest

from batik_utils import data
from batik_utils.checkpoints import RUN_COLUMNS, Store
from batik_utils.errors import BatikError
from batik_utils.evaluation import out_of_fold

MOTIFS = ("betawi", "tambal")


def run_rows(recipe, right, *, folds=2):
    """Runs and predictions of one recipe; ``right`` is repeats by pictures.

    Picture k is tested in fold k % folds; its motif changes every two pictures.
    """
    right = np.asarray(right, dtype=bool)
    repeat, k = (part.ravel() for part in np.indices(right.shape))
    table = pd.DataFrame({"seed": repeat, "fold": k % folds, "right": right.ravel()})
    table["run"] = [f"{recipe}-e1-f{row.fold}-s{row.seed}" for row in table.itertuples()]
    first = k // 2 % 2 == 0
    said = np.where(first == table["right"], 0.8, 0.2)
    table = table.assign(path=[f"{number}.jpg" for number in k], label=np.where(first, *MOTIFS))
    table["predicted"] = np.where(said > 0.5, *MOTIFS)
    table[[f"p_{motif}" for motif in MOTIFS]] = np.stack([said, 1 - said], axis=1)
    runs = table.groupby(["run", "seed", "fold"], as_index=False, sort=False)["right"]
    runs = runs.agg(accuracy="mean", n_test="size").assign(recipe=recipe, family="ours", params=7)
    runs = runs.assign(train_seconds=2.0, precision="float32")
    return runs, table.drop(columns=["seed", "fold", "right"])


def joined(*recipes):
    return tuple(pd.concat(both, ignore_index=True) for both in zip(*recipes, strict=True))


@pytest.fixture
def tables():
    a = run_rows("a", [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 0]])
    return joined(a, run_rows("b", [[0, 1, 1, 1], [0, 1, 1, 1]]))


def test_what_does_not_fit_together_is_refused(tables):
    runs, predictions = tables
    again = [table[table["run"] == "a-e1-f0-s0"].assign(run="a-e2-f0-s0") for table in tables]
    twice = [pd.concat(both) for both in zip(tables, again, strict=True)]
    with pytest.raises(BatikError, match=r"'a' predicts 0\.jpg twice in repeat 0"):
        out_of_fold.pooled(*twice)
    for odd in (
        (runs[runs["run"] != "b-e1-f1-s1"], predictions),
        (runs, predictions[predictions["run"] != "b-e1-f1-s1"]),
    ):
        with pytest.raises(BatikError, match="'b' lacks 2 pictures in repeat 1"):
            out_of_fold.pooled(*odd)


def store(folder, recipe, right, *, left_out=()):
    """Write runs of a recipe with three folds as a grid does."""
    runs, predictions = run_rows(recipe, right, folds=3)
    for run in runs.drop(index=[*left_out]).to_dict("records"):
        own = predictions[predictions["run"] == run["run"]].drop(columns="run")
        Store(folder).add(dict.fromkeys(RUN_COLUMNS, 1) | run, own, pd.DataFrame({"epoch": [1]}))


@pytest.fixture
def results(tmp_path):
    folds = pd.DataFrame({"path": [f"{k}.jpg" for k in range(6)]})
    for name in ("cv", "cv-ungrouped"):
        data.write_table(folds, tmp_path / name / "folds.csv")
    store(tmp_path / "cv", "texture", [[1, 1, 1, 0, 0, 0]] * 2)
    store(tmp_path / "cv", "scratch_ours", [[1, 1, 0, 0, 0, 0]] * 2)
    return tmp_path


def test_what_is_read_is_finished_and_in_table_order(results):
    store(results / "cv", "efficientnet_lite0", [[1] * 6] * 2, left_out=[5])
    store(results / "cv" / "final", "final", [[1] * 6] * 2)
    runs, predictions, folds = out_of_fold.read(results)
    order = ["scratch_ours", "efficientnet_lite0", "texture", "final"]
    assert list(dict.fromkeys(runs["recipe"])) == order
    assert set(runs.loc[runs["recipe"] == "efficientnet_lite0", "seed"]) == {0}
    assert set(predictions["run"]) == set(runs["run"]) and len(folds) == 6
    (results / "cv" / "runs.csv").unlink()
    (results / "cv" / "final" / "runs.csv").unlink()
    for folder in (results, results / "elsewhere"):
        with pytest.raises(BatikError, match="train --grid cv"):
            out_of_fold.read(folder)


def test_accuracy_with_duplicates_split_and_together(results):
    store(results / "cv-ungrouped", "texture", [[1, 1, 1, 1, 1, 0]])
    table = out_of_fold.split_duplicates(results)
    assert table.loc["texture"].tolist() == pytest.approx([5 / 6, 1 / 2, 1 / 3])


def test_errors_by_who_doubts_the_label(tmp_path):
    sources = ["confident learning", "confident learning", "no cloth"]
    doubts = pd.DataFrame({"path": ["b", "c", "c"], "source": sources})
    data.write_table(doubts, tmp_path / "doubtful_labels.csv")
    rows = {"recipe": "final", "label": "m", "path": list("abc"), "right": [True, False, False]}
    kinds = out_of_fold.label_kinds(pd.DataFrame(rows), tmp_path)
    assert kinds["wrong"].tolist() == [0, 1, 1]
    assert kinds["kind"].tolist() == list(out_of_fold.LABEL_KINDS)
