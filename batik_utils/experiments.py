"""Run recipes on a data set and keep what they gave; a grid resumes where it stopped.

    >>> from batik_utils import data, experiments
    >>> setup = experiments.prepare(data.load("synthetic"), "course")
    >>> outcome = experiments.run_grid(setup, "scratch1,efficientnet_lite0", seeds=3)

The split ``cv`` has several folds, and every division into folds is one seed: then a grid trains
each recipe once a fold and seed.
Introduced in notebook 02, section "Many runs".
"""

import contextlib
import copy
import logging
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from batik_utils import baselines, checkpoints, data, metrics, models, recipes, splits, transforms
from batik_utils import training as engine
from batik_utils.data import Dataset
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images import cache as array_cache
from batik_utils.images.resize import IMAGENET, Preprocessing
from batik_utils.recipes import Recipe
from batik_utils.results import Store
from batik_utils.scale import fabric as distributed
from batik_utils.scale import mlflow_runs as tracking
from batik_utils.scale import ray_cluster as cluster
from batik_utils.weights import WeightsNotFound

log = logging.getLogger(__name__)


#: Splits with folds; see `splits.make_folds`. The second one takes near-twins for different
#: pictures, to show how much that flatters.
CROSS_VALIDATION = ("cv", "cv-ungrouped")


@dataclass
class Setup:
    """A data set, its split and where results go.

    Attributes:
        dataset: the data set.
        split_name: ``course``, ``stratified-<seed>``, ``cv`` or ``cv-ungrouped``.
        split: see `splits.make`; with folds, the first one until `at` is called.
        store: result files of this data set and split.
        device: where to compute.
        precision: see `engine.fit`.
        weights_directory: folder to look for pretrained weights first, or None.
        folds: of `splits.make_folds`; None for a split without folds.
        fold: which of them this is.
        n_train: at most this many training pictures a motif; 0 for all.
        devices: processes that share each batch, see `distributed.fit`.
        git: commit of the code, read when the set-up is made.
    """

    dataset: Dataset
    split_name: str
    split: pd.DataFrame
    store: Store
    device: torch.device
    precision: str = "float32"
    weights_directory: str | None = None
    folds: pd.DataFrame | None = None
    fold: int = 0
    n_train: int = 0
    devices: int = 1
    git: str = field(default_factory=lambda: git_commit())
    # computed once, and shared by the set-ups of all folds
    _pixels: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict, repr=False)
    _views: dict[str, torch.Tensor] = field(default_factory=dict, repr=False)
    _built: dict[tuple, tuple] = field(default_factory=dict, repr=False)
    _prints: WeakKeyDictionary = field(default_factory=WeakKeyDictionary, repr=False)
    _described: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict:
        """Return what goes to a worker: pixels and descriptions too, but nothing of a device."""
        kept = {f.name for f in fields(self) if f.name[0] != "_"} | {"_pixels", "_described"}
        return {name: value for name, value in vars(self).items() if name in kept}

    def __setstate__(self, state: dict) -> None:
        empty = {f.name: f.default_factory() for f in fields(self) if f.name[0] == "_"}
        vars(self).update(empty | state)

    @property
    def n_folds(self) -> int:
        """Number of folds; 1 for a split without."""
        return 1 if self.folds is None else splits.n_folds(self.folds)

    def at(self, repeat: int, fold: int, n_train: int = 0) -> "Setup":
        """Return the set-up of one fold, with fewer training pictures if asked for.

        Args:
            repeat: which division into folds; also draws which training pictures stay.
            fold: which fold is the test; 0 for a split without folds.
            n_train: at most this many training pictures a motif; 0 for all.

        Raises:
            BatikError: no such fold or repeat, or a negative ``n_train``.
        """
        table = self.split
        if self.folds is not None:
            table = splits.of_fold(self.folds, repeat, fold)
        if n_train:
            table = splits.thin(table, n_train, repeat)
        # apart from the full runs, so that nobody counts them together
        store = Store(self.store.folder / "learning") if n_train else self.store
        return replace(self, split=table, store=store, fold=fold, n_train=n_train)

    def pixels(self, preprocessing: Preprocessing) -> torch.Tensor:
        """Return all pictures at the input size, uint8 (N, 3, S, S); each size is decoded once."""
        key = (preprocessing.size, preprocessing.interpolation)
        if key not in self._pixels:
            self._pixels[key] = transforms.load_pixels(self.dataset, preprocessing)
        return self._pixels[key]

    def examples(
        self, subset: str, preprocessing: Preprocessing, *, pixels: bool = True
    ) -> engine.Examples:
        """Return a subset's pictures at the input size; none for a subset that is empty.

        Args:
            subset: ``train``, ``validation`` or ``test``.
            preprocessing: for the input size.
            pixels: False for the labels alone, where features take the place of pixels.
        """
        chosen = splits.indices(self.split, self.dataset, subset)
        labels = torch.tensor(self.dataset.labels)
        return engine.Examples(self.pixels(preprocessing)[chosen if pixels else []], labels[chosen])

    def views(
        self, model: models.Classifier, recipe: Recipe, preprocessing: Preprocessing, seed: int
    ) -> torch.Tensor:
        """Return `engine.views_of` all pictures, (V, N, F), computed once and kept on disk.

        Args:
            model: network with a fixed backbone.
            recipe: what is trained.
            preprocessing: what the network expects.
            seed: of the augmentation; without one, the views are the same for all seeds.
        """
        drawn = ""
        if recipe.augment:
            drawn = (
                f"augment {recipe.augment} flip {recipe.flip} ridge {recipe.ridge > 0} seed {seed}"
            )
        return self._features(
            f"views {drawn}",
            engine.n_views(recipe),
            model,
            recipe,
            preprocessing,
            lambda: engine.views_of(
                model,
                preprocessing,
                self.pixels(preprocessing),
                recipe,
                torch.Generator().manual_seed(seed),
                self.precision,
            ),
        )

    def plain(
        self, model: models.Classifier, recipe: Recipe, preprocessing: Preprocessing
    ) -> torch.Tensor:
        """Return a fixed backbone's features of all pictures as they are, (N, F)."""
        if not recipe.augment:
            return self.views(model, recipe, preprocessing, 0)[0]
        return self._features(
            "plain",
            1,
            model,
            recipe,
            preprocessing,
            lambda: engine.features(
                model, preprocessing, self.pixels(preprocessing), precision=self.precision
            )[None],
        )[0]

    def _features(
        self,
        what: str,
        n: int,
        model: models.Classifier,
        recipe: Recipe,
        preprocessing: Preprocessing,
        make: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """Return (n, N, F) numbers of a fixed backbone on the device, from memory or disk."""
        if model.backbone not in self._prints:
            self._prints[model.backbone] = models.fingerprint(model.backbone)
        parts = (
            f"{what} {recipe.architecture} {self.precision} {self.device.type} {preprocessing}",
            f"torch {torch.__version__}",
            self._prints[model.backbone],
            *transforms.what_gives_pixels(self.dataset, preprocessing),
        )
        key = array_cache.digest(parts)
        if key not in self._views:
            found = array_cache.cached("features", parts, n, lambda: make().cpu().numpy())
            self._views[key] = torch.from_numpy(found).to(self.device)
        return self._views[key]

    def built(self, recipe: Recipe, seed: int) -> tuple[models.Classifier, str]:
        """Return `models.build`, called once for all folds of a recipe and seed.

        Every fold of a seed starts from the same network and random state, so a fixed backbone is
        built once and shared by the folds' networks, each with a head of its own; the random state
        is put where building leaves it.
        """
        arguments = (recipe, len(self.dataset.classes), self.weights_directory)
        if recipe.frozen != "backbone":
            return models.build(*arguments)
        key = (*arguments, seed)
        if key not in self._built:
            self._built.clear()  # one is enough: a grid goes through all folds of a seed
            self._built[key] = (*models.build(*arguments), torch.get_rng_state())
        model, provenance, state = self._built[key]
        torch.set_rng_state(state)
        return models.Classifier(
            model.backbone, copy.deepcopy(model.head), recipe.frozen
        ), provenance

    def described(self, name: str) -> np.ndarray:
        """Return a baseline's description of all pictures, (N, F), computed once."""
        if name not in self._described:
            describe = baselines.BASELINES[name].describe
            pixels = self.pixels(IMAGENET).numpy()
            self._described[name] = describe(self.dataset.manifest, pixels)
        return self._described[name]


class Finished(NamedTuple):
    """What one run writes: the arguments of `Store.add`."""

    row: dict
    predictions: pd.DataFrame
    history: pd.DataFrame


@dataclass(frozen=True)
class Outcome:
    """What a grid did.

    Attributes:
        trained: runs trained now.
        reused: runs that were there already.
        not_run: recipes whose weights could not be had, with the one-line remedy.
    """

    trained: tuple[str, ...]
    reused: tuple[str, ...]
    not_run: dict[str, str]

    def __str__(self) -> str:
        text = f"{len(self.trained)} runs trained, {len(self.reused)} found and reused"
        for recipe, remedy in self.not_run.items():
            text += f"\n{recipe}: not run, weights not reachable. {remedy}"
        return text


def prepare(
    dataset: Dataset,
    split: str = "course",
    *,
    results: str | Path = "",
    device: str = "auto",
    precision: str = "float32",
    weights_directory: str | None = None,
    folds: int = 0,
    repeats: int = 5,
    devices: int = 1,
) -> Setup:
    """Write manifest and split where they are missing, and check them where they are not.

    Args:
        dataset: the data set.
        split: ``course``, ``stratified-<seed>``, ``cv`` for grouped cross-validation, or
            ``cv-ungrouped``.
        results: see `data.results_root`.
        device: see `engine.choose_device`.
        precision: ``float32`` or ``bfloat16``.
        weights_directory: folder to look for pretrained weights first, or None.
        folds: number of folds of ``cv``; 0 for as many as there are, or 10 where there are none.
        repeats: divisions into folds, where there are none yet.
        devices: processes that share each batch of a network's training; see `distributed.fit`.

    Raises:
        BatikError: a setting is wrong, the folder holds results of other pictures, or ``cv`` finds
            no groups of near-twins.
    """
    if precision not in engine.PRECISIONS:
        raise BatikError(
            f"Unknown precision '{precision}': use one of {', '.join(engine.PRECISIONS)}."
        )
    chosen_device = engine.choose_device(device)
    distributed.check(devices, chosen_device)
    results = data.results_root(results)
    data.write_manifest(dataset, results)
    folder = results / dataset.name / split
    divided = None
    if split in CROSS_VALIDATION:
        groups = results / dataset.name / "duplicate_groups.csv" if split == "cv" else None
        divided = splits.open_or_make_folds(
            dataset, folder / "folds.csv", groups, folds=folds, repeats=repeats
        )
        table = splits.of_fold(divided, 0, 0)
    else:
        table = splits.open_or_make(split, dataset, folder / "split.csv")
    return Setup(
        dataset,
        split,
        table,
        Store(folder),
        chosen_device,
        precision,
        weights_directory or None,
        divided,
        devices=devices,
    )


def run_name(recipe: Recipe, seed: int, fold: int = 0, n_train: int = 0) -> str:
    """Return the name of a run, e.g. ``scratch1-e10-f0-s3``, or ``...-n20`` for 20 a motif."""
    return f"{recipe.name}-e{recipe.epochs}-f{fold}-s{seed}" + (f"-n{n_train}" if n_train else "")


def train(
    setup: Setup, recipe: Recipe, seed: int, *, record: bool = True, progress: bool = True
) -> tuple[models.Classifier, pd.DataFrame]:
    """Train one network, score it once on the test pictures and write it down.

    Args:
        setup: data set, split (of one fold, see `Setup.at`), device.
        recipe: what to train; no baseline.
        seed: initial weights, order of pictures, augmentation, dropout.
        record: False leaves the result files as they are.
        progress: show a bar over epochs.

    Returns:
        The trained network and its history (see `engine.fit`).

    Raises:
        WeightsNotFound: the recipe's weights cannot be had.
    """
    model, history, finished = _train(setup, recipe, seed, test=record, progress=progress)
    if record:
        _write(setup.store, recipe, finished)
    return model, history


def compute(
    setup: Setup, recipe: Recipe, seed: int, fold: int = 0, n_train: int = 0, progress: bool = False
) -> "Finished | WeightsNotFound":
    """Train and score one run of a grid, and write nothing.

    Args:
        setup: data set and all folds.
        recipe: what to train; a baseline too.
        seed: see `train`; of ``cv``, the repeat.
        fold: which fold is the test; 0 for a split without folds.
        n_train: see `Setup.at`.
        progress: show a bar over epochs.

    Returns:
        What the run writes, or why its weights cannot be had.
    """
    here = setup.at(seed, fold, n_train)
    if recipe.family == "baseline":
        return score_baseline(here, recipe, seed)
    try:
        return _train(here, recipe, seed, progress=progress)[2]
    except WeightsNotFound as error:
        return error


def _train(
    setup: Setup, recipe: Recipe, seed: int, *, test: bool = True, progress: bool = True
) -> "tuple[models.Classifier, pd.DataFrame, Finished | None]":
    """Return the trained network, its history and, if it is to be tested, what the run writes."""
    started = datetime.now(timezone.utc)
    preprocessing = models.preprocessing_of(recipe)
    for _, seen in models.stages(recipe):
        setup.pixels(seen)  # decoded now, it does not count as training time
    with engine.seeded(seed) as generator:
        model, provenance = setup.built(recipe, seed)
        model.to(setup.device)
        clock = time.perf_counter()
        history = _fit_stages(setup, recipe, model, generator, seed, progress)
        seconds = engine.seconds_since(clock)
    if not test:
        return model, history, None
    finished = _finish(
        setup,
        recipe,
        seed,
        _predict(setup, recipe, model, preprocessing),
        history,
        weights=provenance,
        train_seconds=seconds,
        params=models.count_parameters(model),
        device=_device_name(setup.device, setup.devices),
        started=started.isoformat(timespec="seconds"),
    )
    return model, history, finished


def score_baseline(setup: Setup, recipe: Recipe, seed: int) -> Finished:
    """Fit one baseline, score it once on the test pictures and return what the run writes.

    Args:
        setup: data set and split (of one fold, see `Setup.at`).
        recipe: a baseline.
        seed: of what is random in it.
    """
    started = datetime.now(timezone.utc)
    features = setup.described(recipe.architecture)
    train_rows, test_rows = (
        np.array(splits.indices(setup.split, setup.dataset, subset)) for subset in ("train", "test")
    )
    clock = time.perf_counter()
    probabilities = baselines.fit_predict(
        recipe.architecture, features, np.array(setup.dataset.labels), train_rows, test_rows, seed
    )
    return _finish(
        setup,
        recipe,
        seed,
        probabilities,
        pd.DataFrame(columns=list(engine.HISTORY_COLUMNS)),
        weights="none",
        train_seconds=engine.seconds_since(clock),
        params=0,
        device="cpu",
        started=started.isoformat(timespec="seconds"),
    )


def run_grid(
    setup: Setup,
    names: str,
    seeds: int,
    *,
    epochs: int = 0,
    n_train: int = 0,
    ray: str = "",
    progress: bool = True,
) -> Outcome:
    """Train every run that is missing from ``runs.csv``.

    On a Ray cluster, runs are computed where there is room and written by this process alone, as
    they finish; at the end their rows stand in the order in which one process would have written
    them. The numbers are those of one process with one thread.

    Args:
        setup: data set, split, device.
        names: recipes or families, see `recipes.select`.
        seeds: number of seeds, 0 to seeds - 1, for each recipe; of ``cv``, number of its repeats.
        epochs: in place of the recipes' own, or 0.
        n_train: at most this many training pictures a motif; 0 for all. Such runs are kept apart,
            in the folder ``learning`` of the split.
        ray: compute on this Ray cluster, see `cluster.connected`; "" for this process.
        progress: show a bar over runs with the time left.

    Returns:
        What was trained, reused and not run.

    Raises:
        BatikError: a wrong setting. A recipe whose weights cannot be had is not an error here: it
            is reported, and written to ``not_run.csv``.
    """
    if seeds < 1:
        raise BatikError(f"SEEDS must be at least 1, not {seeds}.")
    if n_train < 0:
        raise BatikError(f"n_train must be 0 (all pictures) or positive, not {n_train}.")
    if setup.folds is not None and seeds > splits.n_repeats(setup.folds):
        raise BatikError(
            f"{setup.store.folder / 'folds.csv'} has {splits.n_repeats(setup.folds)} repeats, "
            f"fewer than the {seeds} seeds asked for: ask for fewer, or remove it and its results."
        )
    chosen = [recipes.with_epochs(recipe, epochs) for recipe in recipes.select(names)]
    store = setup.at(0, 0, n_train).store
    jobs, reused, trained, not_run = [], [], [], {}
    # seed by seed, so that a stopped grid has every recipe about equally often
    for seed in range(seeds):
        for recipe in chosen:
            for fold in range(setup.n_folds):
                name = run_name(recipe, seed, fold, n_train)
                if store.has(name, setup.dataset.digest):
                    reused.append(name)
                else:
                    jobs.append((recipe, seed, fold))
    bar = tqdm(total=len(jobs), desc="Runs", unit="run", disable=not progress or not jobs)
    units = [(*job, n_train) for job in jobs]
    tracking.check()
    results = _computed(setup, store, units, not_run, bar, ray, progress)
    with bar, contextlib.closing(results):
        for unit, outcome in results:
            recipe = unit[0]
            if isinstance(outcome, WeightsNotFound):
                if recipe.name not in not_run:
                    log.warning("%s", outcome)
                    reason = "not run: weights not reachable"
                    setup.store.note_not_run(recipe.name, reason, outcome.remedy)
                not_run[recipe.name] = outcome.remedy
                continue
            _write(store, recipe, outcome)
            trained.append(run_name(*unit))
            if recipe.family != "baseline":
                setup.store.forget_not_run(recipe.name)
    in_order = sorted(trained, key=[run_name(*unit) for unit in units].index)
    return Outcome(tuple(in_order), tuple(reused), not_run)


def _computed(
    setup: Setup,
    store: Store,
    units: Sequence[tuple],
    not_run: dict[str, str],
    bar: tqdm,
    ray: str,
    progress: bool,
) -> Iterator[tuple[tuple, "Finished | WeightsNotFound"]]:
    """Yield the units of a grid and what they gave, here in order, on a cluster as they finish."""

    def wanted(unit: tuple) -> bool:
        return unit[0].name not in not_run

    if not ray or not units:
        for unit in units:
            recipe, seed, fold, _ = unit
            bar.set_postfix_str(f"{recipe.name}, seed {seed}, fold {fold}")
            if wanted(unit):
                yield unit, compute(setup, *unit, progress)
            bar.update()
        return
    names = [run_name(*unit) for unit in units]
    with cluster.connected(ray):
        shared = _for_workers(setup, [unit[0] for unit in units])
        gpus = 1 if setup.device.type == "cuda" else 0
        try:
            for number, outcome in cluster.finished(
                compute, shared, units, gpus=gpus * setup.devices, wanted=wanted
            ):
                bar.set_postfix_str(names[number])
                bar.update()
                yield units[number], outcome
        finally:
            store.arrange(names)


def _for_workers(setup: Setup, chosen: Sequence[Recipe]) -> Setup:
    """Return the set-up with all pictures decoded: workers open no file of the data set."""
    for recipe in chosen:
        if recipe.family == "baseline":
            setup.described(recipe.architecture)
        else:
            for _, seen in models.stages(recipe):
                setup.pixels(seen)
    return setup


def results_of(setup: Setup, names: str, *, epochs: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the finished runs of some recipes, in table order, and their predictions.

    Args:
        setup: data set, split, device.
        names: see `recipes.select`.
        epochs: in place of the recipes' own, or 0.

    Raises:
        BatikError: none of them has a finished run.
    """
    chosen = [recipes.with_epochs(recipe, epochs) for recipe in recipes.select(names)]
    order = {(recipe.name, recipe.epochs): k for k, recipe in enumerate(chosen)}
    runs, predictions = setup.store.read("runs"), setup.store.read("predictions")
    place = pd.Series(zip(runs["recipe"], runs["epochs"], strict=True), index=runs.index).map(order)
    runs = runs.assign(place=place).dropna(subset="place").sort_values(["place", "seed", "fold"])
    if runs.empty:
        raise BatikError(
            f"No finished run of {names} in {setup.store.folder}: if their weights could not be "
            f"had, not_run.csv there tells how to get them."
        )
    runs = runs.drop(columns="place").reset_index(drop=True)
    return runs, predictions[predictions["run"].isin(runs["run"])].reset_index(drop=True)


def train_or_load(
    setup: Setup, name: str, seed: int = 0, *, epochs: int = 0
) -> tuple[checkpoints.Checkpoint, pd.DataFrame]:
    """Return one trained network to look at, from its checkpoint if there is one.

    Args:
        setup: data set, split, device.
        name: recipe.
        seed: see `train`.
        epochs: in place of the recipe's own, or 0.

    Returns:
        The checkpoint (network on the CPU) and the history of its training.

    Raises:
        WeightsNotFound: the recipe's weights cannot be had.
        BatikError: the checkpoint there belongs to other pictures.
    """
    recipe = recipes.with_epochs(recipes.get(name), epochs)
    run = run_name(recipe, seed)
    path = setup.store.folder / "checkpoints" / f"{run}.pt"
    finished = setup.store.has(run, setup.dataset.digest)
    saved = _saved(path) if finished else None
    if saved is None:
        # a finished run keeps its row: the network alone is missing
        model, _ = train(setup, recipe, seed, record=not finished)
        checkpoints.save(
            path,
            model,
            recipe,
            setup.dataset.classes,
            models.preprocessing_of(recipe),
            setup.dataset.digest,
        )
        saved = checkpoints.load(path)
    if saved.dataset != setup.dataset.digest:
        raise BatikError(f"{path} was trained on other pictures: remove it to train again.")
    history = setup.store.read("history")
    return saved, history[history["run"] == run].drop(columns="run").reset_index(drop=True)


def _saved(path: Path) -> checkpoints.Checkpoint | None:
    """Return a checkpoint that can be reused; None if there is none, or only an outdated one."""
    if not path.exists():
        return None
    try:
        saved = checkpoints.load(path)
    except checkpoints.OutdatedCheckpoint as error:
        log.warning("%s Training it again now.", error)
        return None
    log.info("Reusing %s", path)
    return saved


def _fit_stages(
    setup: Setup,
    recipe: Recipe,
    model: models.Classifier,
    generator: torch.Generator,
    seed: int,
    progress: bool,
) -> pd.DataFrame:
    """Train in the recipe's one or two stages; the second one's epochs count on in the history."""
    histories = []
    for stage, preprocessing in models.stages(recipe):
        shared = _shared(setup, stage)
        train_examples, validation = (
            setup.examples(subset, preprocessing, pixels=not shared)
            for subset in ("train", "validation")
        )
        model.freeze(stage.frozen)
        views = watched = None
        if shared:
            views = setup.views(model, stage, preprocessing, seed)
            views = views[:, splits.indices(setup.split, setup.dataset, "train")]
            watched = setup.plain(model, stage, preprocessing)
            watched = watched[splits.indices(setup.split, setup.dataset, "validation")]
        fit = distributed.fit_on(setup.devices) if setup.devices > 1 else engine.fit
        history = fit(
            model,
            stage,
            preprocessing,
            train_examples,
            validation if len(validation.labels) else None,
            generator=generator,
            precision=setup.precision,
            progress=progress,
            views=views,
            watched=watched,
        )
        history["epoch"] += sum(map(len, histories))
        histories.append(history)
    return pd.concat(histories, ignore_index=True)


def _shared(setup: Setup, stage: Recipe) -> bool:
    """Return whether a step of training learns from features that are computed once.

    Where nothing is drawn at random, all runs can share them. Augmented views of one split are
    drawn by each run's own random numbers; those of cross-validation by the seed, for all folds.
    """
    return stage.frozen == "backbone" and (setup.folds is not None or not stage.augment)


def _predict(
    setup: Setup, recipe: Recipe, model: models.Classifier, preprocessing: Preprocessing
) -> np.ndarray:
    """Return the probabilities of the test pictures, (n, K)."""
    last, _ = models.stages(recipe)[-1]
    if not _shared(setup, last):
        test = setup.examples("test", preprocessing)
        return engine.predict(model, preprocessing, test.pixels, precision=setup.precision)
    chosen = splits.indices(setup.split, setup.dataset, "test")
    features = setup.plain(model, last, preprocessing)[chosen]
    return engine.predict_head(model, features, precision=setup.precision)


def _finish(
    setup: Setup,
    recipe: Recipe,
    seed: int,
    probabilities: np.ndarray,
    history: pd.DataFrame,
    **facts: str | float,
) -> Finished:
    """Score one run's predictions of the test pictures and return what the run writes."""
    import torchvision

    dataset = setup.dataset
    rows = splits.indices(setup.split, dataset, "test")
    n_train = len(splits.indices(setup.split, dataset, "train"))
    predictions = pd.DataFrame(
        {
            "path": dataset.manifest["path"].iloc[rows].to_numpy(),
            "label": dataset.manifest["motif"].iloc[rows].to_numpy(),
            "predicted": [dataset.classes[k] for k in probabilities.argmax(1)],
            **{f"p_{motif}": probabilities[:, k] for k, motif in enumerate(dataset.classes)},
        }
    )
    labels = [dataset.labels[row] for row in rows]
    # a baseline counts as one pass over the pictures
    passes = max(1, len(history))
    row = {
        "run": run_name(recipe, seed, setup.fold, setup.n_train),
        "recipe": recipe.name,
        "family": recipe.family,
        "split": setup.split_name,
        "fold": setup.fold,
        "seed": seed,
        "epochs": recipe.epochs,
        "n_train": n_train,
        "n_test": len(rows),
        **metrics.scores(labels, probabilities),
        "train_images_per_second": round(n_train * passes / facts["train_seconds"], 1),
        "precision": setup.precision,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "git": setup.git,
        "dataset": dataset.digest,
        **facts,
    }
    return Finished(row, predictions, history)


def _write(store: Store, recipe: Recipe, finished: Finished) -> None:
    """Write a run down, and into MLflow where that is asked for."""
    store.add(*finished)
    tracking.log_run(recipe, *finished)


def _device_name(device: torch.device, number: int = 1) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return name if number == 1 else f"{number} × {name}"


def git_commit() -> str:
    """Return the short commit of this checkout, with ``+`` if files differ; empty outside git."""
    here = PROJECT / "batik_utils"

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "--", ".") else "")
    except FileNotFoundError:
        return ""
