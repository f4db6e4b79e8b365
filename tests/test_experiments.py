"""Whole runs of a toy recipe: what is written, reused, interrupted and refused."""

import copy
import logging
import pickle
from dataclasses import replace
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import toy_parts

from batik_utils import checkpoints, data, experiments, metrics, models, recipes, weights
from batik_utils import training as engine
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.weights import Weights, WeightsFile, WeightsNotFound

pytestmark = pytest.mark.usefixtures("without_batik_settings")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def setup(small_dataset, tmp_path, toy) -> experiments.Setup:
    return experiments.prepare(
        small_dataset, "stratified-0", results=tmp_path / "results", device="cpu"
    )


def grid(setup, names="toy", seeds=1, **settings) -> experiments.Outcome:
    return experiments.run_grid(setup, names, seeds, progress=False, **settings)


# --- preparation ------------------------------------------------------------------------------


def test_manifest_and_split_are_written_once_and_kept(setup, small_dataset, tmp_path):
    folder = tmp_path / "results" / small_dataset.name
    assert setup.store.folder == folder / "stratified-0"
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.csv", "stratified-0"]
    assert [p.name for p in setup.store.folder.iterdir()] == ["split.csv"]
    again = experiments.prepare(small_dataset, "stratified-0", results=tmp_path / "results")
    pd.testing.assert_frame_equal(again.split, setup.split)


@pytest.mark.parametrize(
    "settings", [{"precision": "float16"}, {"device": "abacus"}, {"split": "none"}]
)
def test_wrong_settings_are_refused(small_dataset, tmp_path, settings):
    with pytest.raises(BatikError, match="Unknown"):
        experiments.prepare(small_dataset, **{"split": "stratified-0"} | settings, results=tmp_path)


def test_results_of_other_pictures_are_refused(setup, small_dataset, tmp_path):
    """The same folder of results, after a picture was replaced."""
    grid(setup)
    first, second = small_dataset.paths[:2]
    first.write_bytes(second.read_bytes())
    changed = data.load("folder", small_dataset.root, progress=False)
    with pytest.raises(BatikError, match="other pictures"):
        experiments.prepare(
            replace(changed, name=small_dataset.name), "stratified-0", results=tmp_path / "results"
        )
    setup.dataset = changed
    with pytest.raises(BatikError, match="other pictures"):
        grid(setup)


def test_examples_are_the_pictures_of_a_subset(setup, small_dataset):
    sizes = {}
    for subset in ("train", "validation", "test"):
        found = setup.examples(subset, Preprocessing(size=8))
        wanted = setup.split["subset"] == subset
        labels = [small_dataset.classes.index(m) for m in setup.split.loc[wanted, "motif"]]
        assert found.labels.tolist() == labels
        assert tuple(found.pixels.shape) == (len(labels), 3, 8, 8)
        bare = setup.examples(subset, Preprocessing(size=8), pixels=False)
        assert bare.labels.tolist() == labels and tuple(bare.pixels.shape) == (0, 3, 8, 8)
        sizes[subset] = len(labels)
    assert sizes == {"train": 18, "validation": 3, "test": 3}


# --- what a run writes ------------------------------------------------------------------------


def test_the_three_files_agree_with_one_another(setup, small_dataset):
    outcome = grid(setup, seeds=2)
    assert outcome.trained == ("toy-e2-f0-s0", "toy-e2-f0-s1")
    runs, predictions, history = (setup.store.read(n) for n in ("runs", "predictions", "history"))
    assert list(runs["run"]) == list(outcome.trained)
    assert set(runs["n_train"]) == {18}
    assert set(runs["n_test"]) == {3}
    assert set(runs["dataset"]) == {small_dataset.digest}
    assert set(runs["split"]) == {"stratified-0"}
    assert set(runs["weights"]) == {"random"}
    assert set(runs["params"]) == {3 * 4 * 9 + 4 + 8 + 16 * 3 + 3}
    assert (runs["train_seconds"] > 0).all()
    assert all(datetime.fromisoformat(started).tzinfo for started in runs["started"])
    test_paths = list(setup.split.loc[setup.split["subset"] == "test", "path"])
    for row in runs.itertuples():
        mine = predictions[predictions["run"] == row.run]
        assert list(mine["path"]) == test_paths
        assert list(mine["label"]) == [path.split("/")[0][6:] for path in test_paths]
        probabilities = mine[[f"p_{motif}" for motif in small_dataset.classes]].to_numpy()
        np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
        labels = [small_dataset.classes.index(motif) for motif in mine["label"]]
        assert [small_dataset.classes[k] for k in probabilities.argmax(1)] == list(
            mine["predicted"]
        )
        probabilities /= probabilities.sum(1, keepdims=True)  # they were written with six digits
        for name, value in metrics.scores(labels, probabilities).items():
            assert getattr(row, name) == pytest.approx(value, rel=1e-4)
        assert list(history.loc[history["run"] == row.run, "epoch"]) == [1, 2]
    assert len(metrics.summarise(runs, predictions)) == 1


def test_a_run_repeats_to_the_last_digit(setup):
    _, first = experiments.train(setup, recipes.get("toy"), 3, progress=False)
    before = setup.store.read("predictions")
    torch.rand(7)
    _, second = experiments.train(setup, recipes.get("toy"), 3, progress=False)
    assert first.equals(second)
    assert before.equals(setup.store.read("predictions"))
    _, other = experiments.train(setup, recipes.get("toy"), 4, progress=False)
    assert not first.equals(other)


def test_test_pictures_are_scored_once_and_after_training(setup, monkeypatch):
    test = setup.examples("test", models.IMAGENET).pixels
    calls = []
    real = engine.predict

    def watched(model, preprocessing, pixels, **settings):
        calls.append(torch.equal(pixels, test))
        return real(model, preprocessing, pixels, **settings)

    monkeypatch.setattr(engine, "predict", watched)
    grid(setup, epochs=4)
    assert calls == [False] * 4 + [True]


def test_two_stages_are_one_run(setup, toy, monkeypatch):
    staged = replace(toy, name="staged", fine_tune_size=24, fine_tune_epochs=3)
    monkeypatch.setitem(recipes.RECIPES, "staged", staged)
    model, history = experiments.train(setup, staged, 0, progress=False)
    assert list(history["epoch"]) == [1, 2, 3, 4, 5]
    assert model.frozen == "parameters"
    assert len(setup.store.read("runs")) == 1


# --- grids ------------------------------------------------------------------------------------


def test_runs_found_are_reused_and_not_trained_again(setup, toy, monkeypatch):
    grid(setup, seeds=2)
    before = {p.name: p.read_bytes() for p in setup.store.folder.glob("*.csv")}

    def never(recipe):
        raise AssertionError("trained again")

    monkeypatch.setitem(models.ARCHITECTURES, "toy", never)
    outcome = grid(setup, seeds=2)
    assert outcome.trained == ()
    assert outcome.reused == ("toy-e2-f0-s0", "toy-e2-f0-s1")
    assert str(outcome) == "0 runs trained, 2 found and reused"
    assert {p.name: p.read_bytes() for p in setup.store.folder.glob("*.csv")} == before


def test_other_epochs_are_another_run(setup):
    grid(setup)
    assert grid(setup, epochs=1).trained == ("toy-e1-f0-s0",)
    assert sorted(setup.store.read("runs")["epochs"]) == [1, 2]


def test_an_interrupted_grid_goes_on_where_it_stopped(setup, toy, monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "toy2", replace(toy, name="toy2", dropout=0.3))
    built = []

    def interrupted(recipe):
        built.append(recipe.name)
        if len(built) == 4:
            raise KeyboardInterrupt
        return toy_parts(recipe)

    with monkeypatch.context() as patch:
        patch.setitem(models.ARCHITECTURES, "toy", interrupted)
        with pytest.raises(KeyboardInterrupt):
            grid(setup, "toy,toy2", seeds=3)
    # seed by seed, so that every recipe has had its turn
    finished = ["toy-e2-f0-s0", "toy2-e2-f0-s0", "toy-e2-f0-s1"]
    runs = setup.store.read("runs")
    assert list(runs["run"]) == finished
    outcome = grid(setup, "toy,toy2", seeds=3)
    assert list(outcome.reused) == finished
    assert list(outcome.trained) == ["toy2-e2-f0-s1", "toy-e2-f0-s2", "toy2-e2-f0-s2"]
    after = setup.store.read("runs")
    assert len(after) == 6
    # a column of whole numbers is read as such until a fraction joins it
    pd.testing.assert_frame_equal(after.iloc[:3], runs, check_dtype=False)
    # the second call gave what an uninterrupted one would have given
    _, history = experiments.train(setup, recipes.get("toy2"), 1, progress=False)
    written = setup.store.read("history")
    written = written[written["run"] == "toy2-e2-f0-s1"].drop(columns="run")
    np.testing.assert_allclose(written, history, rtol=1e-5)


@pytest.fixture
def without_weights(monkeypatch, toy) -> recipes.Recipe:
    """A recipe whose weights are nowhere to be had."""
    file = WeightsFile("none.pth", "0" * 64, "timm", "nobody", package="no-such-package-at-all")
    entry = Weights("none", "toy", Preprocessing(size=16), (file,))
    monkeypatch.setitem(weights.WEIGHTS, "none", entry)
    recipe = replace(toy, name="pretrained", weights="none")
    monkeypatch.setitem(recipes.RECIPES, "pretrained", recipe)
    return recipe


def test_a_recipe_without_its_weights_is_reported_and_the_others_run(
    setup, without_weights, toy, caplog, monkeypatch
):
    with caplog.at_level(logging.WARNING):
        outcome = grid(setup, "pretrained,toy", seeds=2)
    assert outcome.trained == ("toy-e2-f0-s0", "toy-e2-f0-s1")
    assert list(outcome.not_run) == ["pretrained"]
    remedy = outcome.not_run["pretrained"]
    assert "no-such-package-at-all" in remedy
    assert f"pretrained: not run, weights not reachable. {remedy}" in str(outcome)
    assert len([r for r in caplog.records if "none" in r.getMessage()]) == 1  # not once a seed
    note = setup.store.read("not_run").iloc[0]
    assert note.to_dict() == {
        "recipe": "pretrained",
        "reason": "not run: weights not reachable",
        "remedy": remedy,
    }
    assert set(setup.store.read("runs")["recipe"]) == {"toy"}
    # never random weights in their place
    with pytest.raises(WeightsNotFound):
        experiments.train(setup, without_weights, 0, progress=False)

    # once they can be had, the note goes
    monkeypatch.setitem(recipes.RECIPES, "pretrained", replace(without_weights, weights=""))
    assert len(grid(setup, "pretrained,toy", seeds=2).trained) == 2
    assert setup.store.read("not_run").empty


@pytest.mark.parametrize(
    "settings", [{"seeds": 0}, {"epochs": -1}, {"names": "toyy"}, {"names": " , "}]
)
def test_a_wrong_grid_is_refused_before_anything_is_trained(setup, settings):
    with pytest.raises(BatikError):
        grid(setup, **settings)
    assert not (setup.store.folder / "runs.csv").exists()


# --- one network to look at -------------------------------------------------------------------


def test_a_network_is_trained_once_and_then_loaded(setup, monkeypatch):
    saved, history = experiments.train_or_load(setup, "toy", 1)
    assert saved.classes == setup.dataset.classes
    assert list(history["epoch"]) == [1, 2]
    path = setup.store.folder / "checkpoints" / "toy-e2-f0-s1.pt"
    assert path.is_file()
    predictions = setup.store.read("predictions")

    monkeypatch.setattr(experiments, "train", None)  # it would fail
    again, same_history = experiments.train_or_load(setup, "toy", 1)
    np.testing.assert_allclose(same_history, history, rtol=1e-5)
    test = setup.examples("test", again.preprocessing)
    probabilities = engine.predict(again.model, again.preprocessing, test.pixels)
    columns = [f"p_{motif}" for motif in setup.dataset.classes]
    np.testing.assert_allclose(probabilities, predictions[columns], atol=1e-5)


def test_a_network_of_other_pictures_is_refused(setup, toy):
    saved, _ = experiments.train_or_load(setup, "toy")
    path = setup.store.folder / "checkpoints" / "toy-e2-f0-s0.pt"
    checkpoints.save(path, saved.model, toy, saved.classes, saved.preprocessing, "e" * 64)
    with pytest.raises(BatikError, match="trained on other pictures"):
        experiments.train_or_load(setup, "toy")


def test_a_finished_run_keeps_its_rows_when_only_its_network_is_missing(setup):
    experiments.train_or_load(setup, "toy")
    files = {path: path.read_text() for path in setup.store.folder.glob("*.csv")}
    path = setup.store.folder / "checkpoints" / "toy-e2-f0-s0.pt"
    path.unlink()
    experiments.train_or_load(setup, "toy")
    assert path.is_file()
    assert files == {path: path.read_text() for path in setup.store.folder.glob("*.csv")}


def test_an_outdated_checkpoint_is_trained_again_and_says_so(setup, caplog):
    experiments.train_or_load(setup, "toy")
    path = setup.store.folder / "checkpoints" / "toy-e2-f0-s0.pt"
    content = torch.load(path, weights_only=True)
    content["recipe"]["a_field_of_another_version"] = 1
    torch.save(content, path)
    saved, _ = experiments.train_or_load(setup, "toy")
    assert saved.recipe.name == "toy"
    assert "another version of the recipe table" in caplog.text
    assert "Training it again" in caplog.text


# --- folds ------------------------------------------------------------------------------------


@pytest.fixture
def folded(small_dataset, tmp_path, toy) -> experiments.Setup:
    results = tmp_path / "results" / small_dataset.name
    results.mkdir(parents=True)
    paths = small_dataset.manifest["path"]
    pd.DataFrame({"path": paths, "group": paths}).to_csv(
        results / "duplicate_groups.csv", index=False
    )
    return experiments.prepare(
        small_dataset, "cv", results=tmp_path / "results", device="cpu", folds=4, repeats=2
    )


def test_without_an_audit_there_are_no_folds(small_dataset, tmp_path):
    with pytest.raises(BatikError, match="batik_utils audit"):
        experiments.prepare(small_dataset, "cv", results=tmp_path)


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


def test_a_thinner_grid_has_names_of_its_own(folded):
    grid(folded, "toy")
    thin = grid(folded, "toy", n_train=2)
    assert thin.trained[0] == "toy-e2-f0-s0-n2" and not thin.reused
    assert set(folded.store.read("runs")["n_train"]) == {18}
    runs = experiments.Store(folded.store.folder / "learning").read("runs")
    assert runs["run"].tolist() == list(thin.trained)
    assert set(runs["n_train"]) == {6}
    assert len(grid(folded, "toy", n_train=2).reused) == 4
    with pytest.raises(BatikError, match="-1"):
        grid(folded, "toy", n_train=-1)


def test_more_repeats_than_the_folds_have_are_refused(folded):
    with pytest.raises(BatikError, match=r"folds.csv has 2 repeats.*3 seeds"):
        grid(folded, "toy", seeds=3)


@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_a_fixed_backbone_runs_once_for_all_folds(folded, toy, monkeypatch, augment):
    fixed = replace(toy, name="fixed", frozen="backbone", augment=augment)
    monkeypatch.setitem(recipes.RECIPES, "fixed", fixed)
    # as after loading weights: the same backbone in each run, whatever the seed
    weightless = models.build_untrained(fixed, 3)
    monkeypatch.setattr(models, "build", lambda *_: (copy.deepcopy(weightless), "same"))
    calls = []
    original = engine.views_of
    monkeypatch.setattr(
        engine, "views_of", lambda *given, **more: calls.append(1) or original(*given, **more)
    )
    grid(folded, "fixed", seeds=2)
    assert len(calls) == (2 if augment else 1)
    if not augment:  # the same losses as without sharing
        shared = folded.store.read("history")
        here = folded.at(1, 2)
        here.folds = None
        _, alone = experiments.train(here, fixed, 1, record=False, progress=False)
        mine = shared.loc[shared["run"] == "fixed-e2-f2-s1", "train_loss"]
        np.testing.assert_allclose(mine, alone["train_loss"], rtol=1e-4)


@pytest.fixture
def fixed(toy, monkeypatch):
    fixed = replace(toy, name="fixed", frozen="backbone")
    monkeypatch.setitem(recipes.RECIPES, "fixed", fixed)
    return fixed


@pytest.mark.parametrize("augment", [0.0, 0.5])
def test_answers_from_kept_features_are_those_of_the_slow_path(folded, fixed, augment):
    """Views, history and predictions against the backbone run on pixels, to 1e-4."""
    fixed = replace(fixed, augment=augment)
    here = folded.at(1, 2)
    model, _ = experiments.train(here, fixed, 1, progress=False)
    seen = models.preprocessing_of(fixed)
    test = here.examples("test", seen)
    slow = engine.predict(model, seen, test.pixels)
    fast = folded.store.read("predictions")[[f"p_{m}" for m in here.dataset.classes]]
    np.testing.assert_allclose(fast, slow, atol=1e-4)
    plain = engine.features(model, seen, here.pixels(seen))
    np.testing.assert_allclose(here.plain(model, fixed, seen), plain, atol=1e-4)
    generator = torch.Generator().manual_seed(1)
    views = engine.views_of(model, seen, here.pixels(seen), fixed, generator)
    np.testing.assert_allclose(here.views(model, fixed, seen, 1), views, atol=1e-4)


def test_the_published_split_shares_features_too_with_the_same_history(setup, fixed, monkeypatch):
    _, shared = experiments.train(setup, fixed, 0, progress=False)
    monkeypatch.setattr(experiments, "_shared", lambda *_: False)
    _, alone = experiments.train(setup, fixed, 0, progress=False)
    np.testing.assert_allclose(shared, alone, rtol=1e-5)


def test_features_stay_on_disk_for_the_next_process(setup, fixed, tmp_path, monkeypatch):
    grid(setup, "fixed")
    monkeypatch.setattr(engine, "views_of", lambda *_: pytest.fail("computed again"))
    again = experiments.prepare(setup.dataset, "stratified-0", results=tmp_path / "other")
    grid(again, "fixed")
    pd.testing.assert_frame_equal(setup.store.read("predictions"), again.store.read("predictions"))


def test_other_weights_have_other_features(setup, fixed):
    """The toy's backbone is random, so another seed is another backbone."""
    seen = models.preprocessing_of(fixed)
    found = []
    for seed in (0, 1):
        with engine.seeded(seed):
            model, _ = setup.built(fixed, seed)
        found.append(setup.plain(model, fixed, seen))
    assert not torch.allclose(*found)


def test_a_network_is_built_once_for_all_folds_of_a_seed(folded, fixed, monkeypatch):
    calls = []
    original = models.build
    monkeypatch.setattr(models, "build", lambda *given: calls.append(1) or original(*given))
    grid(folded, "fixed", seeds=2)
    assert len(calls) == 2
    shared = folded.store.read("history")
    monkeypatch.setattr(experiments.Setup, "built", lambda self, recipe, seed: original(recipe, 3))
    _, alone = experiments.train(folded.at(1, 2), fixed, 1, record=False, progress=False)
    mine = shared.loc[shared["run"] == "fixed-e2-f2-s1", "train_loss"]
    np.testing.assert_allclose(mine, alone["train_loss"], rtol=1e-5)


def test_a_baseline_leaves_a_row_like_any_other(folded):
    grid(folded, "colour_histogram")
    row = folded.store.read("runs").iloc[0]
    assert (row["family"], row["weights"], row["params"]) == ("baseline", "none", 0)
    assert row["accuracy"] > 0.8  # the toy motifs differ in colour
    assert row["train_seconds"] > 0


def test_a_set_up_travels_with_its_pixels_and_without_features(folded, toy):
    fixed = replace(toy, frozen="backbone")
    folded.pixels(Preprocessing(size=16))
    model = models.build_untrained(fixed, 3)
    folded.views(model, fixed, Preprocessing(size=16), 0)
    again = pickle.loads(pickle.dumps(folded))
    pd.testing.assert_frame_equal(again.split, folded.split)
    assert again.git == folded.git and again.dataset.digest == folded.dataset.digest
    assert torch.equal(*(s.pixels(Preprocessing(size=16)) for s in (again, folded)))
    # views may lie on a device that the worker does not have, and are computed there once
    assert folded._views and not again._views
    assert again.at(0, 1)._pixels is again._pixels
