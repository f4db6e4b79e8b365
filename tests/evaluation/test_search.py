"""A search on training pictures alone: seeded, resumable, pruned, written down whole."""

from dataclasses import replace

import optuna
import pandas as pd
import pytest
import torch

from batik_utils import experiments, recipes
from batik_utils.__main__ import main
from batik_utils.errors import BatikError
from batik_utils.evaluation import search as tuning
from batik_utils.evaluation.search import Range

pytestmark = pytest.mark.usefixtures("without_batik_settings")

SHORT = {
    "epochs": Range(1, 3),
    "learning_rate": Range(1e-4, 1e-1, log=True),
    "dropout": Range(0.0, 0.6),
    "weight_decay": Range(1e-6, 1e-2, log=True),
    "augment": Range(0.0, 1.0, step=0.5),
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make(small_dataset, tmp_path, toy, monkeypatch):
    """Return set-ups of the same pictures in results folders of their own."""
    for kind in tuning.SPACES:
        monkeypatch.setitem(tuning.SPACES, kind, SHORT)
    probe = replace(toy, name="probe", frozen="backbone")
    monkeypatch.setitem(recipes.RECIPES, "probe", probe)

    def setup(folder: str = "results") -> experiments.Setup:
        return experiments.prepare(
            small_dataset, "stratified-0", results=tmp_path / folder, device="cpu"
        )

    return setup


def search(setup, name="toy", trials=3, **settings) -> pd.DataFrame:
    return tuning.search(setup, name, trials, progress=False, **{"folds": 3} | settings)


def without_time(table):
    return table.drop(columns="seconds")


# --- what a search leaves ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy", "probe"])
def test_every_trial_is_written_down_with_all_that_is_needed_to_draw_it(make, name):
    setup = make()
    table = search(setup, name, 4)
    assert tuple(table.columns) == tuning.COLUMNS
    pd.testing.assert_frame_equal(
        tuning.read(setup.store.folder, name), table, rtol=1e-5, check_dtype=False
    )
    assert table["number"].tolist() == [0, 1, 2, 3]
    assert set(table["state"]) == {"COMPLETE"}  # pruning begins after five trials
    assert table.notna().all(axis=None)
    assert (table["folds"] == 3).all()
    assert (table["seconds"] > 0).all()
    assert table["accuracy"].between(0, 1).all()
    assert (table["accuracy"] * 18 % 1).lt(1e-9).all()  # each training picture once held out
    for parameter, (low, high, *_) in SHORT.items():
        assert table[parameter].between(low, high).all()
    assert sorted(p.name for p in (setup.store.folder / "tuning").iterdir()) == [
        f"{name}.csv",
        f"{name}.lock",
        f"{name}.log",
    ]


def test_the_first_trial_is_the_recipe_itself_within_the_ranges(make):
    first = search(make(), trials=1).iloc[0]
    found = {name: first[name] for name in tuning.PARAMETERS}
    assert found == {
        "epochs": 2,
        "learning_rate": 0.01,
        "dropout": 0.0,
        "weight_decay": 1e-6,
        "augment": 0.0,
    }


def test_the_score_is_the_log_loss_of_the_held_out_pictures(make, monkeypatch):
    """With answers given by hand: right for one motif, undecided for the others."""
    answer = torch.tensor([[0.5, 0.25, 0.25]]).numpy()
    monkeypatch.setattr(tuning._Objective, "_fold", lambda *a: answer.repeat(len(a[-1]), axis=0))
    row = search(make(), trials=1).iloc[0]
    assert row["value"] == pytest.approx((0.6931 + 2 * 1.3863) / 3, abs=1e-4)
    assert row["accuracy"] == pytest.approx(1 / 3)


# --- training pictures only -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["toy", "probe"])
def test_test_and_validation_pictures_are_not_even_opened(make, name):
    expected = search(make("before"), name)
    setup = make("after")
    held = setup.split.loc[setup.split["subset"] != "train", "path"]
    assert len(held) == 6
    for path in held:
        (setup.dataset.root / path).unlink()
    pd.testing.assert_frame_equal(without_time(search(setup, name)), without_time(expected))


def test_a_training_picture_is_opened(make):
    setup = make()
    lost = setup.split.loc[setup.split["subset"] == "train", "path"].iloc[0]
    (setup.dataset.root / lost).unlink()
    with pytest.raises(BatikError, match=r"has changed since it was listed"):
        search(setup)


def test_held_out_pictures_are_not_learned_from(make, monkeypatch):
    seen = []

    def fold(self, recipe, number, learn, held):
        assert not set(learn) & set(held)
        assert len(learn) + len(held) == 18
        seen.extend(held)
        return torch.full((len(held), 3), 1 / 3).numpy()

    monkeypatch.setattr(tuning._Objective, "_fold", fold)
    search(make(), trials=1)
    assert sorted(seen) == list(range(18))


# --- seeds, interruption, pruning -------------------------------------------------------------


def test_one_seed_gives_one_search_and_another_seed_another(make):
    one, two, other = (
        without_time(search(make(str(k)), seed=seed)) for k, seed in enumerate((0, 0, 1))
    )
    pd.testing.assert_frame_equal(one, two)
    assert not one["learning_rate"].iloc[1:].equals(other["learning_rate"].iloc[1:])


def test_a_second_call_does_nothing_and_says_so(make, monkeypatch, caplog):
    setup = make()
    first = search(setup)
    monkeypatch.setattr(tuning._Objective, "__call__", None)  # it would fail
    with caplog.at_level("INFO"):
        second = search(setup)
    assert "nothing to do" in caplog.text
    pd.testing.assert_frame_equal(first, second)


def test_an_interrupted_search_goes_on_as_if_nothing_had_happened(make, monkeypatch, caplog):
    expected = search(make("whole"), trials=4)
    setup = make("interrupted")
    fold = tuning._Objective._fold
    calls = []

    def interrupted(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3 + 3 + 2:  # in the middle of the third trial
            raise KeyboardInterrupt
        return fold(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tuning._Objective, "_fold", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(setup, trials=4)
    assert len(tuning.read(setup.store.folder, "toy")) == 2
    with caplog.at_level("INFO"):
        table = search(setup, trials=4)
    assert "2 of 4 trials are there already" in caplog.text
    assert table["state"].tolist() == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    finished = table[table["state"] == "COMPLETE"].reset_index(drop=True)
    columns = ["value", "accuracy", *tuning.PARAMETERS]
    pd.testing.assert_frame_equal(finished[columns], expected[columns])


def test_trials_worse_than_the_median_are_pruned(make, monkeypatch):
    """Answers that depend on the number of the trial: each is worse than the one before."""
    calls = []

    def worse(self, recipe, number, learn, held):
        calls.append(number)
        sure = 0.9 ** len(calls)
        labels = self.labels[held]
        rest = torch.full((len(held), 3), (1 - sure) / 2)
        return rest.scatter(1, labels.view(-1, 1), sure).numpy()

    monkeypatch.setattr(tuning._Objective, "_fold", worse)
    table = search(make(), trials=8)
    assert table["state"].tolist() == ["COMPLETE"] * 5 + ["PRUNED"] * 3
    assert table["folds"].tolist() == [3] * 5 + [1] * 3
    assert table["value"].notna().all()
    assert calls == [0, 1, 2] * 5 + [0] * 3
    assert tuning.best(table)["number"] == 0


def test_a_training_that_diverges_is_pruned_and_not_the_end(make, toy, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "toy", replace(toy, learning_rate=1e30))
    monkeypatch.setitem(SHORT, "learning_rate", Range(1e-4, 1e30, log=True))
    table = search(make(), trials=2)
    assert table["state"].iloc[0] == "PRUNED"
    assert table["folds"].iloc[0] == 0
    assert table["value"].isna().iloc[0]
    assert len(table) == 2


# --- what a search is asked -------------------------------------------------------------------


def trials_table(values, states=None) -> pd.DataFrame:
    n = len(values)
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(n, 5, generator=generator).numpy()
    rows = {name: spread[:, k] for k, name in enumerate(tuning.PARAMETERS)}
    rows |= {"learning_rate": values, "value": values, "state": states or ["COMPLETE"] * n}
    rest = {"number": range(n), "accuracy": 0.5, "folds": 3, "seconds": 1.0}
    return pd.DataFrame(rows).assign(**rest)[list(tuning.COLUMNS)]


def test_the_best_trial_is_a_complete_one():
    table = trials_table([0.5, 0.3, 0.1], ["COMPLETE", "COMPLETE", "PRUNED"])
    assert tuning.best(table)["number"] == 1
    assert "best is number 1 with log-loss 0.300" in tuning.summary(table)
    with pytest.raises(BatikError, match="No trial of the search was completed"):
        tuning.best(table.iloc[2:])


def test_importance_finds_the_setting_that_matters():
    values = torch.linspace(0.1, 1, 20)[torch.randperm(20, generator=torch.manual_seed(0))]
    shares = tuning.importances(trials_table(values.tolist()))
    assert shares.index[0] == "learning_rate"
    assert shares.iloc[0] > 0.6
    assert shares.sum() == pytest.approx(1)
    assert set(shares.index) == set(tuning.PARAMETERS)
    for table in (trials_table([0.1, 0.2, 0.3]), trials_table([0.5] * 9)):
        with pytest.raises(BatikError, match="at least four complete, differing trials"):
            tuning.importances(table)


def test_the_real_ranges_hold_and_can_be_proposed():
    for space in tuning.SPACES.values():
        assert tuple(space) == tuning.PARAMETERS
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(0)).ask()
        values = tuning.suggest(trial, space)
        assert isinstance(values["epochs"], int)
        assert all(space[name].low <= v <= space[name].high for name, v in values.items())
    assert tuning.space_of(recipes.get("scratch_small")) is tuning.SPACES["network"]
    assert tuning.space_of(recipes.get("mobilenet_v2_probe")) is tuning.SPACES["head"]


# --- what goes wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "nothing"}, "Unknown recipe 'nothing'"),
        ({"name": "fix_efficientnet_b2_fixres"}, "two stages"),
        ({"trials": 0}, "at least 1 trial"),
        ({"folds": 1}, r"folds must be 2 to 6"),
        ({"folds": 7}, r"folds must be 2 to 6"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_written(make, settings, message):
    setup = make()
    with pytest.raises(BatikError, match=message):
        search(setup, **settings)
    assert not (setup.store.folder / "tuning").exists()


def test_a_search_of_other_settings_is_not_mixed_in(make, toy, monkeypatch):
    setup = make()
    search(setup, trials=1)
    with pytest.raises(BatikError, match=r"another folds and seed"):
        search(setup, folds=2, seed=5)
    setup.precision = "bfloat16"
    with pytest.raises(BatikError, match=r"another precision"):
        search(setup)
    setup.precision = "float32"
    monkeypatch.setitem(recipes.RECIPES, "toy", replace(toy, flip=0.0))
    with pytest.raises(BatikError, match=r"another recipe"):
        search(setup)


def test_two_processes_do_not_search_at_once(make):
    import filelock

    setup = make()
    search(setup, trials=1)
    with (
        filelock.FileLock(setup.store.folder / "tuning" / "toy.lock"),
        pytest.raises(BatikError, match="Another process is searching"),
    ):
        search(setup, trials=2)


def test_missing_and_damaged_files_are_named(make):
    setup = make()
    with pytest.raises(BatikError, match=r"tune --recipe toy"):
        tuning.read(setup.store.folder, "toy")
    search(setup, trials=1)
    path = setup.store.folder / "tuning" / "toy.csv"
    path.write_text("number,state\n0,COMPLETE\n")
    with pytest.raises(BatikError, match="should have the columns"):
        tuning.read(setup.store.folder, "toy")
    path.write_text("")
    with pytest.raises(BatikError, match="is damaged"):
        tuning.read(setup.store.folder, "toy")
    path.with_suffix(".log").write_text("no journal\n" * 3)
    with pytest.raises(BatikError, match="is damaged"):
        search(setup)


def test_the_command(make, small_dataset, tmp_path, capsys):
    words = ["tune", "--data", "folder", "--root", str(small_dataset.root), "--grid"]
    words += ["stratified-0", "--results", str(tmp_path), "--recipe", "toy", "--folds", "3"]
    assert main([*words, "--trials", "2"]) == 0
    out = capsys.readouterr().out
    assert "2 trials completed, 0 pruned; best is number" in out
    assert str(tmp_path / small_dataset.name / "stratified-0" / "tuning" / "toy.csv") in out
    assert main([*words, "--trials", "0"]) == 2
    assert main([*words[:-4], "--recipe", "nothing"]) == 2
    assert "Unknown recipe 'nothing'" in capsys.readouterr().err
