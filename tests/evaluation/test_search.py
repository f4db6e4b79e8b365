"""A search on training pictures alone: seeded, resumable, pruned, written as a whole."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from batik_utils import experiments, recipes
from batik_utils.errors import BatikError
from batik_utils.evaluation import search

pytestmark = pytest.mark.usefixtures("without_batik_settings")

SHORT = {
    "epochs": Int(1, 3),
    "learning_rate": Float(1e-4, 1e-1, log=True),
    "dropout": Float(0.0, 0.6),
    "weight_decay": Float(1e-6, 1e-2, log=True),
    "augment": Float(0.0, 1.0, step=0.5),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(small_dataset, tmp_path, toy, monkeypatch):
    """Set-ups of the same pictures in results folders of their own."""
    for kind in search.SPACES:
        monkeypatch.setitem(search.SPACES, kind, SHORT)
    probe = replace(toy, name="probe", frozen="backbone")
    monkeypatch.setitem(recipes.RECIPES, "probe", probe)

    def setup(folder: str = "results") -> experiments.Setup:
        return experiments.prepare(
            small_dataset, "stratified-0", results=tmp_path / folder, device="cpu"
        )

    return setup


def run(setup, name="toy", trials=3, **settings) -> pd.DataFrame:
    return search.search(setup, name, trials, **{"folds": 3} | settings)


def without_time(table):
    return table.drop(columns="seconds")


def fold(function, monkeypatch):
    monkeypatch.setattr(search._Inner, "fold", function)


@pytest.mark.parametrize("name", ["toy", "probe"])
def test_trials_are_seeded_and_open_no_test_picture(make, name):
    expected = run(make("before"), name, 4)
    setup = make("after")
    held = setup.split.loc[setup.split["subset"] != "train", "path"]
    assert len(held) == 6
    for path in held:
        (setup.dataset.root / path).unlink()
    table = without_time(run(setup, name, 4))
    pd.testing.assert_frame_equal(table, without_time(expected))
    written = search.read(setup.store.folder, name)
    pd.testing.assert_frame_equal(without_time(written), table, rtol=1e-5, check_dtype=False)
    assert table["number"].tolist() == [0, 1, 2, 3]
    assert set(table["state"]) == {"COMPLETE"}  # pruning begins after five trials
    assert (table["accuracy"] * 18 % 1).lt(1e-9).all()  # each training picture once held out
    # the first trial is the recipe itself within the ranges
    first = table.loc[0, list(search.PARAMETERS)].tolist()
    assert first == pytest.approx([2, 0.01, 0.0, 1e-6, 0.0])
    for parameter, space in SHORT.items():
        assert table[parameter].between(space.low, space.high).all()
    other = run(make("other"), name, 2, seed=1)
    assert other["learning_rate"].iloc[1] != expected["learning_rate"].iloc[1]


def test_the_score_is_the_log_loss_of_the_held_out_pictures(make, monkeypatch):
    """With answers given by hand: right for one motif, undecided for the others."""
    seen = []

    def given(self, recipe, number, learn, held):
        assert not set(learn) & set(held) and len(learn) + len(held) == 18
        seen.extend(held)
        return torch.tensor([[0.5, 0.25, 0.25]]).numpy().repeat(len(held), axis=0)

    fold(given, monkeypatch)
    row = run(make(), trials=1).iloc[0]
    assert sorted(seen) == list(range(18))
    assert row["value"] == pytest.approx((0.6931 + 2 * 1.3863) / 3, abs=1e-4)
    assert row["accuracy"] == pytest.approx(1 / 3)


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(make, monkeypatch):
    expected = run(make("whole"), trials=4)
    setup = make("interrupted")
    real, calls = search._Inner.fold, []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3 + 3 + 2:  # in the middle of the third trial
            raise KeyboardInterrupt
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        fold(interrupted, patch)
        with pytest.raises(KeyboardInterrupt):
            run(setup, trials=4)
    assert len(search.read(setup.store.folder, "toy")) == 2
    table = run(setup, trials=4)
    assert table["state"].tolist() == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    finished = table[table["state"] == "COMPLETE"].reset_index(drop=True)
    columns = ["value", "accuracy", *search.PARAMETERS]
    pd.testing.assert_frame_equal(finished[columns], expected[columns])
    fold(None, monkeypatch)  # it would fail
    pd.testing.assert_frame_equal(run(setup, trials=4), table)


def test_trials_worse_than_the_median_are_pruned(make, monkeypatch):
    """Answers that depend on the number of the trial: each is worse than the one before."""
    calls = []

    def worse(self, recipe, number, learn, held):
        calls.append(number)
        right = 0.9 ** len(calls)
        rest = torch.full((len(held), 3), (1 - right) / 2)
        return rest.scatter(1, self.labels[held].view(-1, 1), right).numpy()

    fold(worse, monkeypatch)
    table = run(make(), trials=8)
    assert table["state"].tolist() == ["COMPLETE"] * 5 + ["PRUNED"] * 3
    assert table["folds"].tolist() == [3] * 5 + [1] * 3
    assert table["value"].notna().all()
    assert calls == [0, 1, 2] * 5 + [0] * 3
    assert search.best(table)["number"] == 0
    with pytest.raises(BatikError, match="No trial of the search was completed"):
        search.best(table.iloc[5:])


def test_a_training_that_diverges_is_pruned_and_not_the_end(make, toy, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "toy", replace(toy, learning_rate=1e30))
    monkeypatch.setitem(SHORT, "learning_rate", Float(1e-4, 1e30, log=True))
    table = run(make(), trials=2)
    assert table["state"].iloc[0] == "PRUNED"
    assert table["value"].isna().iloc[0]
    assert len(table) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "nothing"}, "Unknown recipe 'nothing'"),
        ({"name": "majority"}, "majority"),
        ({"name": "fix_efficientnet_b2_fixres"}, "one stage"),
        ({"trials": 0}, "1 trial"),
        ({"folds": 7}, "7 folds"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(make, settings, message):
    setup = make()
    with pytest.raises(BatikError, match=message):
        run(setup, **settings)
    assert not (setup.store.folder / "tuning").exists()


def test_other_settings_processes_and_damaged_files_are_refused(make):
    setup = make()
    with pytest.raises(BatikError, match=r"search --recipes toy"):
        search.read(setup.store.folder, "toy")
    run(setup, trials=1)
    with pytest.raises(BatikError, match=r"another folds and seed"):
        run(setup, folds=2, seed=5)
    path = setup.store.folder / "tuning" / "toy.log"
    path.write_text("no journal\n" * 3)
    with pytest.raises(BatikError, match="is damaged"):
        run(setup)
