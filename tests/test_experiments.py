"""Whole runs of a toy recipe: what is written, reused, interrupted and refused."""

import copy
import logging
import pickle
import socket
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
from conftest import toy_backbone

from batik_utils import (
    checkpoints,
    data,
    experiments,
    metrics,
    models,
    recipes,
    training,
    weights,
)
from batik_utils.errors import BatikError, NotWritten
from batik_utils.images.resize import Preprocessing
from batik_utils.weights import Weights, WeightsFile, WeightsNotFound

#: What differs between two runs of the same thing.
TIMES = ["train_seconds", "train_images_per_second", "started"]


@pytest.fixture
def setup(make, toy) -> experiments.Setup:
    return make()


@pytest.fixture
def folded(make, small_dataset, tmp_path, toy) -> experiments.Setup:
    paths = small_dataset.manifest["path"]
    groups = pd.DataFrame({"path": paths, "group": paths})
    where = tmp_path / "results" / small_dataset.name / "duplicate_groups.csv"
    data.write_table(groups, where)
    return make(split="cv", folds=4, repeats=2)


@pytest.fixture
def add(monkeypatch, toy):
    """Return a function that adds a recipe to the table, as `toy` with other values."""

    def to_table(name: str, **change) -> recipes.Recipe:
        recipe = replace(toy, name=name, **change)
        monkeypatch.setitem(recipes.RECIPES, name, recipe)
        return recipe

    return to_table


def grid(setup, names="toy", seeds=1, **settings) -> experiments.Outcome:
    return experiments.run_grid(setup, names, seeds, **settings)


# --- what a run writes ------------------------------------------------------------------------


def test_the_three_files_agree_with_one_another(setup, small_dataset):
    outcome = grid(setup, seeds=2)
    runs, predictions, history = (setup.store.read(n) for n in ("runs", "predictions", "history"))
    assert list(runs["run"]) == list(outcome.trained) == ["toy-e2-f0-s0", "toy-e2-f0-s1"]
    constant = {"n_train": 18, "n_test": 3, "split": "stratified-0", "weights": "random"}
    constant |= {"dataset": small_dataset.digest, "params": 3 * 4 * 9 + 4 + 8 + 16 * 3 + 3}
    assert {name: set(runs[name]) for name in constant} == {k: {v} for k, v in constant.items()}
    assert all(datetime.fromisoformat(started).tzinfo for started in runs["started"])
    test = setup.split[setup.split["subset"] == "test"]
    for row in runs.itertuples():
        mine = predictions[predictions["run"] == row.run]
        assert list(mine["path"]) == list(test["path"])
        assert list(mine["label"]) == list(test["motif"])
        shares = mine[[f"p_{motif}" for motif in small_dataset.classes]].to_numpy()
        named = [small_dataset.classes[k] for k in shares.argmax(1)]
        assert named == list(mine["predicted"])
        shares /= shares.sum(1, keepdims=True)  # they were written with six digits
        labels = [small_dataset.classes.index(motif) for motif in mine["label"]]
        for name, value in metrics.scores(labels, shares).items():
            assert getattr(row, name) == pytest.approx(value, rel=1e-4)
        assert list(history.loc[history["run"] == row.run, "epoch"]) == [1, 2]
    found, _ = experiments.results_of(setup, "toy")
    pd.testing.assert_frame_equal(found, runs)
    with pytest.raises(BatikError, match="No finished run of majority"):
        experiments.results_of(setup, "majority")


# --- grids ------------------------------------------------------------------------------------


def test_an_interrupted_grid_goes_on_where_it_stopped(setup, make, add, monkeypatch):
    add("toy2", dropout=0.3)
    built = []

    def interrupted(recipe, n_classes):
        built.append(recipe.name)
        if len(built) == 4:
            raise KeyboardInterrupt
        return models.transfer(toy_backbone)(recipe, n_classes)

    with monkeypatch.context() as patch:
        patch.setitem(models.ARCHITECTURES, "toy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grid(setup, "toy,toy2", seeds=3)
    # seed by seed, so that every recipe has had its turn
    finished = ["toy-e2-f0-s0", "toy2-e2-f0-s0", "toy-e2-f0-s1"]
    assert list(setup.store.read("runs")["run"]) == finished
    outcome = grid(setup, "toy,toy2", seeds=3)
    assert list(outcome.reused) == finished
    assert list(outcome.trained) == ["toy2-e2-f0-s1", "toy-e2-f0-s2", "toy2-e2-f0-s2"]
    # the rows of a grid that was never interrupted
    whole = make("whole")
    grid(whole, "toy,toy2", seeds=3)
    for name in ("runs", "predictions", "history"):
        one, other = (
            s.store.read(name).drop(columns=TIMES, errors="ignore") for s in (setup, whole)
        )
        pd.testing.assert_frame_equal(one, other)
    # what is finished is not trained again, and no file changes
    before = {p: p.read_bytes() for p in setup.store.folder.glob("*.csv")}
    monkeypatch.setitem(models.ARCHITECTURES, "toy", None)  # it would fail
    again = grid(setup, "toy,toy2", seeds=3)
    assert not again.trained and len(again.reused) == 6
    assert {p: p.read_bytes() for p in setup.store.folder.glob("*.csv")} == before


def test_a_grid_goes_on_after_a_run_that_diverges(setup, add):
    add("wild", learning_rate=1e30)
    outcome = grid(setup, "wild,toy", seeds=2)
    assert outcome.trained == ("toy-e2-f0-s0", "toy-e2-f0-s1")
    assert list(outcome.failed) == ["wild-e2-f0-s0", "wild-e2-f0-s1"]
    assert "wild-e2-f0-s1" in str(outcome)


def test_a_map_computes_and_on_run_is_told_of_what_is_written(setup):
    told = []

    def apart(function, units):
        """As a map that works in other processes."""
        for unit in units:
            yield pickle.loads(pickle.dumps(function))(pickle.loads(pickle.dumps(unit)))

    outcome = grid(setup, "toy,majority", 2, map=apart, on_run=lambda *all: told.append(all))
    assert [row["run"] for _, row, _, _ in told] == list(outcome.trained)
    assert [recipe.name for recipe, *_ in told] == ["majority", "toy"] * 2


def test_a_recipe_without_its_weights_is_reported_and_the_others_run(
    setup, add, caplog, monkeypatch
):
    file = WeightsFile("none.pth", "0" * 64, "lite", "nobody", package="no-such-package-at-all")
    entry = Weights(Preprocessing(size=16), (file,))
    monkeypatch.setitem(weights.WEIGHTS, "none", entry)
    recipe = add("pretrained", weights="none")
    with caplog.at_level(logging.WARNING):
        outcome = grid(setup, "pretrained,toy", seeds=2)
    assert outcome.trained == ("toy-e2-f0-s0", "toy-e2-f0-s1")
    assert "no-such-package-at-all" in outcome.not_run["pretrained"]
    assert outcome.not_run["pretrained"] in str(outcome)
    assert len([r for r in caplog.records if "none" in r.getMessage()]) == 1  # not once a seed
    note = setup.store.read("not_run").iloc[0]
    assert (note["recipe"], note["remedy"]) == ("pretrained", outcome.not_run["pretrained"])
    # never random weights in their place
    with pytest.raises(WeightsNotFound):
        experiments.train(setup, recipe, 0)
    # once they can be had, the note goes
    monkeypatch.setitem(recipes.RECIPES, "pretrained", replace(recipe, weights=""))
    assert len(grid(setup, "pretrained,toy", seeds=2).trained) == 2
    assert setup.store.read("not_run").empty


@pytest.mark.parametrize("settings", [{"seeds": 0}, {"epochs": -1}, {"names": " , "}], ids=str)
def test_a_wrong_grid_is_refused_before_anything_is_trained(setup, settings):
    with pytest.raises(BatikError):
        grid(setup, **settings)
    assert not (setup.store.folder / "runs.csv").exists()


def test_two_motifs_of_ten_pictures_train_whatever_they_are_called(
    picture_tree, tmp_path, add, monkeypatch
):
    """From the folder to the summary, and nobody outside this machine is asked for anything."""
    monkeypatch.setattr(socket, "getaddrinfo", None)  # a call would fail
    monkeypatch.setattr(socket.socket, "connect", None)
    add("normed", head="modified", batch_size=5)  # 16 pictures to learn from: the last is alone
    dataset = data.load("folder", picture_tree({"true": 10, "false": 10}), "all")
    setup = experiments.prepare(dataset, "stratified-0", results=tmp_path / "results")
    outcome = grid(setup, "toy,normed,baseline", seeds=1)
    assert len(outcome.trained) == 6 and not outcome.failed
    runs, predictions = experiments.results_of(setup, "toy,normed,baseline")
    assert set(predictions["label"]) == {"true", "false"}
    assert len(metrics.summarise(runs, predictions)) == 6


# --- one network to look at -------------------------------------------------------------------


def test_a_network_is_trained_once_and_then_loaded(setup, monkeypatch):
    saved, history = experiments.train_or_load(setup, "toy", 1)
    files = {p: p.read_bytes() for p in setup.store.folder.glob("*.csv")}
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "train", None)  # it would fail
        again, same_history = experiments.train_or_load(setup, "toy", 1)
    pd.testing.assert_frame_equal(same_history, history)
    test = setup.examples("test", again.preprocessing)
    probabilities = training.predict(again.model, again.preprocessing, test.pixels)
    columns = [f"p_{motif}" for motif in saved.classes]
    np.testing.assert_allclose(probabilities, setup.store.read("predictions")[columns], atol=1e-5)
    # a finished run keeps its rows when only its network is missing
    path = setup.store.folder / "checkpoints" / "toy-e2-f0-s1.pt"
    path.unlink()
    experiments.train_or_load(setup, "toy", 1)
    assert path.is_file()
    assert {p: p.read_bytes() for p in setup.store.folder.glob("*.csv")} == files


def test_a_network_that_cannot_be_used_or_saved(setup, monkeypatch, caplog):
    saved, _ = experiments.train_or_load(setup, "toy")
    path = setup.store.folder / "checkpoints" / "toy-e2-f0-s0.pt"
    checkpoints.save(path, replace(saved, dataset="e" * 64))
    with pytest.raises(BatikError, match=path.name):
        experiments.train_or_load(setup, "toy")
    # one of another version, or damaged, is trained again, and a full disk costs no network
    path.write_bytes(b"damaged")

    def refuse(*_):
        raise NotWritten("The disk is full.")

    monkeypatch.setattr(checkpoints, "save", refuse)
    saved, history = experiments.train_or_load(setup, "toy")
    assert saved.dataset == setup.dataset.digest and len(history) == 2
    assert path.name in caplog.text and "The disk is full." in caplog.text


# --- folds ------------------------------------------------------------------------------------


def test_a_grid_of_folds_tests_every_picture_once_a_repeat_and_resumes(folded, small_dataset):
    first = grid(folded, "toy,majority", seeds=1)
    expected = [f"majority-e0-f{k}-s0" for k in range(4)] + [f"toy-e2-f{k}-s0" for k in range(4)]
    assert list(first.trained) == expected  # in table order, fold by fold
    second = grid(folded, "toy,majority", seeds=2)
    assert (len(second.trained), set(second.reused)) == (8, set(first.trained))
    runs, predictions = folded.store.read("runs"), folded.store.read("predictions")
    assert set(runs["split"]) == {"cv"} and set(runs["n_train"]) == {18}
    joined = predictions.merge(runs[["run", "recipe", "seed", "fold"]])
    for (_, seed), part in joined.groupby(["recipe", "seed"]):
        assert sorted(part["path"]) == sorted(small_dataset.manifest["path"])
        fold_of = dict(zip(folded.folds["path"], folded.folds[f"repeat_{seed}"], strict=True))
        assert part["fold"].tolist() == [fold_of[path] for path in part["path"]]
    history = folded.store.read("history")
    assert set(history["run"]) == {r for r in runs["run"] if r.startswith("toy")}
    assert history["validation_loss"].isna().all()
    with pytest.raises(BatikError, match=r"folds.csv has 2 repeats.*3 seeds"):
        grid(folded, "toy", seeds=3)


# --- features of a fixed backbone -------------------------------------------------------------


@pytest.mark.parametrize("change", [{}, {"augment": 0.5}, {"extra": (("colour", 0.5),)}], ids=str)
def test_a_fixed_backbone_runs_once_for_all_folds(folded, add, monkeypatch, change):
    fixed = add("fixed", frozen="backbone", **change)
    # as after loading weights: the same backbone in each run, whatever the seed
    same = models.build_untrained(fixed, 3)
    monkeypatch.setattr(models, "build", lambda *_: (copy.deepcopy(same), "same"))
    calls, original = [], training.views_of
    spy = lambda *given: calls.append(training.is_augmented(given[3])) or original(*given)  # noqa: E731
    monkeypatch.setattr(training, "views_of", spy)
    grid(folded, "fixed", seeds=2)
    # augmented views are drawn by the seed; those of test pictures by none
    assert sorted(calls) == [False] + [True, True] * bool(change)
    # nor in the next process
    calls.clear()
    folded.store.folder.joinpath("runs.csv").unlink()
    grid(folded, "fixed", seeds=2)
    assert not calls


@pytest.mark.parametrize("split", ["folded", "setup"])
@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_answers_from_features_are_those_of_pixels(request, add, split, augment):
    fixed = add("fixed", frozen="backbone", augment=augment)
    here = request.getfixturevalue(split).at(0, 2)
    model, finished = experiments.train(here, fixed, 1)
    seen = models.preprocessing_of(fixed)
    slow = training.predict(model, seen, here.examples("test", seen).pixels)
    fast = finished.predictions[[f"p_{m}" for m in here.dataset.classes]]
    np.testing.assert_allclose(fast, slow, atol=1e-4)
    if augment:
        return
    # without augmentation the head learns what it would learn from pixels
    with training.seeded(1) as generator:
        model, _ = models.build(fixed, 3)
        batches = training.batches(here.examples("train", seen), fixed, seen, generator)
        alone = training.fit(model, fixed, batches)
    np.testing.assert_allclose(finished.history["train_loss"], alone["train_loss"], rtol=1e-4)
