"""A search on training pictures alone: seeded, resumable, pruned, written as a whole."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from batik_utils import experiments, recipes
from batik_utils.checkpoints import Finished
from batik_utils.errors import BatikError
from batik_utils.evaluation import search

SHORT = {
    "epochs": Int(1, 3),
    "learning_rate": Float(1e-4, 1e-1, log=True),
    "dropout": Float(0.0, 0.6),
    "weight_decay": Float(1e-6, 1e-2, log=True),
    "augment": Float(0.0, 1.0, step=0.5),
}


@pytest.fixture
def make(make, toy, monkeypatch):
    """Set-ups in results folders of their own, and short searches."""
    for kind in search.SPACES:
        monkeypatch.setitem(search.SPACES, kind, SHORT)
    monkeypatch.setitem(recipes.RECIPES, "probe", replace(toy, name="probe", frozen="backbone"))
    return make


def run(setup, name="toy", trials=3, **settings) -> pd.DataFrame:
    return search.search(setup, name, trials, **{"folds": 3} | settings)


@pytest.mark.parametrize("name", ["toy", "probe"])
def test_trials_are_seeded_and_open_no_test_picture(make, name):
    expected = run(make("before"), name, 4)
    setup = make("after")
    held = setup.split.loc[setup.split["subset"] != "train", "path"]
    assert len(held) == 6
    for path in held:
        (setup.dataset.root / path).unlink()
    table = run(setup, name, 4).drop(columns="seconds")
    pd.testing.assert_frame_equal(table, expected.drop(columns="seconds"))
    written = search.read(setup.store.folder, name).drop(columns="seconds")
    pd.testing.assert_frame_equal(written, table, rtol=1e-5, check_dtype=False)
    # the first trial is the recipe itself within the ranges
    first = table.loc[0, list(search.PARAMETERS)].tolist()
    assert first == pytest.approx([2, 0.01, 0.0, 1e-6, 0.0])


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(make, monkeypatch):
    expected = run(make("whole"), trials=4)
    setup = make("interrupted")
    real, calls = experiments.train, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3 + 3 + 2:  # in the middle of the third trial
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(experiments, "train", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(setup, trials=4)
    assert len(search.read(setup.store.folder, "toy")) == 2
    table = run(setup, trials=4)
    assert table["state"].tolist() == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    finished = table[table["state"] == "COMPLETE"].reset_index(drop=True)
    columns = ["value", "accuracy", *search.PARAMETERS]
    pd.testing.assert_frame_equal(finished[columns], expected[columns])
    monkeypatch.setattr(experiments, "train", None)  # it would fail
    pd.testing.assert_frame_equal(run(setup, trials=4), table)


def test_the_score_is_the_mean_over_pictures_and_trials_worse_than_the_median_are_pruned(
    make, monkeypatch
):
    tested = []

    def worse(setup, recipe, seed):
        tested.append(setup.rows("test"))
        row = {"nll": len(tested), "accuracy": len(tested) / 10, "n_test": len(tested[-1])}
        return None, Finished(row, None, None)

    monkeypatch.setattr(experiments, "train", worse)
    table = run(make(), trials=8, folds=4)
    assert table["state"].tolist() == ["COMPLETE"] * 5 + ["PRUNED"] * 3
    assert table["folds"].tolist() == [4] * 5 + [1] * 3
    assert sorted(np.concatenate(tested[:4])) == [*range(18)]
    first = np.average([1, 2, 3, 4], weights=[len(rows) for rows in tested[:4]])
    assert table.loc[0, ["value", "accuracy"]].tolist() == pytest.approx([first, first / 10])
    assert search.best(table)["number"] == 0
    with pytest.raises(BatikError, match="No trial of the search was completed"):
        search.best(table.iloc[5:])


def test_a_training_that_diverges_is_pruned_and_not_the_end(make, toy, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "toy", replace(toy, learning_rate=1e30))
    monkeypatch.setitem(SHORT, "learning_rate", Float(1e-4, 1e30, log=True))
    table = run(make(), trials=2)
    assert len(table) == 2
    assert table.loc[0, ["state", "value"]].fillna("none").tolist() == ["PRUNED", "none"]


def test_wrong_and_other_settings_and_damaged_files_are_refused(make):
    setup = make()
    wrong = (
        ({"name": "majority"}, "majority"),
        ({"trials": 0}, "1 trial"),
        ({"folds": 7}, "7 folds"),
    )
    for settings, message in wrong:
        with pytest.raises(BatikError, match=message):
            run(setup, **settings)
    with pytest.raises(BatikError, match=r"search --recipes toy"):
        search.read(setup.store.folder, "toy")
    run(setup, trials=1)
    with pytest.raises(BatikError, match=r"another folds and seed"):
        run(setup, folds=2, seed=5)
    (setup.store.folder / "tuning" / "toy.log").write_text("no journal\n" * 3)
    with pytest.raises(BatikError, match="is damaged"):
        run(setup)
