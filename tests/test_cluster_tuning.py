"""A search on Ray: the same table as one process writes, and either goes on from the other."""

import shutil

import pandas as pd
import pytest
import torch

from batik_utils import cluster, experiments, models, optional, recipes, tuning
from batik_utils.errors import BatikError
from batik_utils.tuning import Range

ray = pytest.importorskip("ray", reason=f"needs the extra 'scale': {optional.INSTALL}")

#: One value each, so that a trial gives the same figures wherever it runs.
FIXED = {
    "epochs": Range(1, 1),
    "learning_rate": Range(1e-3, 1e-3, log=True),
    "dropout": Range(0.25, 0.25),
    "weight_decay": Range(1e-4, 1e-4, log=True),
    "augment": Range(0.0, 1.0, step=1.0),
}


@pytest.fixture(scope="module")
def two_workers():
    with cluster.connected("local", cpus=2):
        yield


@pytest.fixture
def make(without_batik_settings, small_dataset, tmp_path, monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setitem(tuning.SPACES, "network", FIXED)

    def setup(folder: str) -> experiments.Setup:
        return experiments.prepare(
            small_dataset, "stratified-0", results=tmp_path / folder, device="cpu"
        )

    yield setup
    torch.set_num_threads(before)


def search(setup, trials, **settings):
    return tuning.search(setup, "scratch_ours", trials, folds=2, progress=False, **settings)


def test_trials_on_ray_give_the_figures_of_one_process(two_workers, make):
    alone, shared = make("alone"), make("shared")
    expected = search(alone, 2).set_index("augment")
    table = search(shared, 3, ray="auto")
    assert tuple(table.columns) == tuning.COLUMNS
    assert table["state"].tolist() == ["COMPLETE"] * 3
    assert (table["folds"] == 2).all() and (table["seconds"] > 0).all()
    # the first trial is the recipe itself, here as there
    first = recipes.get("scratch_ours").augment
    assert table["augment"][0] == expected.index[0] == round(first)
    for row in table.itertuples():
        if row.augment in expected.index:
            assert row.value == pytest.approx(expected.loc[row.augment, "value"], abs=1e-6)
            assert row.accuracy == pytest.approx(expected.loc[row.augment, "accuracy"])
    pd.testing.assert_frame_equal(
        tuning.read(shared.store.folder, "scratch_ours"), table, rtol=1e-5, check_dtype=False
    )
    folder = shared.store.folder / "tuning"
    assert {p.name for p in folder.iterdir()} == {
        p.name for p in (alone.store.folder / "tuning").iterdir()
    }

    # enough is there: nothing is done; more is asked for: it goes on, here or there
    again = search(shared, 3, ray="auto")
    pd.testing.assert_frame_equal(again, table)
    longer = search(shared, 4)
    assert longer["number"].tolist() == [0, 1, 2, 3]
    copied = make("copied").store.folder / "tuning"
    shutil.copytree(alone.store.folder / "tuning", copied)
    grown = search(make("copied"), 3, ray="auto")
    pd.testing.assert_frame_equal(grown[:2], search(alone, 2), check_dtype=False, check_exact=False)
    assert len(grown) == 3


def test_a_training_that_diverges_counts_as_pruned(two_workers, make, monkeypatch):
    endless = FIXED | {"learning_rate": Range(1e30, 1e30, log=True)}
    monkeypatch.setitem(tuning.SPACES, "network", endless)
    table = search(make("diverged"), 1, ray="auto")
    assert table["state"].tolist() == ["PRUNED"]
    assert table["value"].isna().all()


def test_a_trial_that_fails_is_told(two_workers, make, monkeypatch):
    def build(*_):
        return models.build_untrained(recipes.get("scratch_ours"), 3), ""

    monkeypatch.setattr(models, "build", build)
    monkeypatch.setattr(cluster, "RETRIES", 0)
    monkeypatch.setitem(tuning.SPACES, "network", FIXED | {"augment": Range(-3.0, -3.0, step=1.0)})
    with pytest.raises(BatikError, match=r"1 of 1 trials failed, the first with: .*augment"):
        search(make("failing"), 1, ray="auto")
