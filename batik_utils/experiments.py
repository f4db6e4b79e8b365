"""Run recipes on a data set and write down what they gave; a grid resumes where it stopped.

>>> setup = experiments.prepare(data.load("synthetic"), "course")
>>> outcome = experiments.run_grid(setup, "scratch1,efficientnet_lite0", seeds=3)

Of ``cv``, every division into folds is one seed. Introduced in notebook 02, "Many runs".
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from batik_utils import baselines, checkpoints, data, models, recipes, splits, training, transforms
from batik_utils.checkpoints import Checkpoint, Finished, Store, run_name
from batik_utils.data import Dataset
from batik_utils.errors import BatikError, NotWritten
from batik_utils.images.resize import IMAGENET, Preprocessing
from batik_utils.recipes import Recipe
from batik_utils.training import Examples
from batik_utils.weights import WeightsNotFound

log = logging.getLogger(__name__)


@dataclass
class Setup:
    """A data set, its split and where results go; see `prepare`."""

    dataset: Dataset
    split_name: str
    split: pd.DataFrame
    store: Store
    device: torch.device
    precision: str = "float32"
    folds: pd.DataFrame | None = None
    fold: int = 0
    git: str = field(default_factory=checkpoints.git_commit)
    # pixels and descriptions, shared by the set-ups of all folds
    _memory: dict[tuple, object] = field(default_factory=dict, repr=False)

    @property
    def n_folds(self) -> int:
        """Number of folds; 1 for a split without."""
        return 1 if self.folds is None else splits.n_folds(self.folds)

    def at(self, repeat: int, fold: int) -> "Setup":
        """Return the set-up of one fold of a repeat."""
        if self.folds is None:
            return self
        return replace(self, split=splits.of_fold(self.folds, repeat, fold), fold=fold)

    def rows(self, subset: str) -> list[int]:
        """Return the positions of a subset's pictures in the manifest."""
        return splits.indices(self.split, self.dataset, subset)

    def examples(self, subset: str, preprocessing: Preprocessing) -> Examples:
        """Return a subset's pictures at the input size, and their labels."""
        rows = self.rows(subset)
        return Examples(self.pixels(preprocessing)[rows], torch.tensor(self.dataset.labels)[rows])

    def pixels(self, preprocessing: Preprocessing) -> Tensor:
        """Return all pictures at the input size, uint8 (N, 3, S, S)."""
        key = ("pixels", preprocessing.size, preprocessing.interpolation)
        if key not in self._memory:
            self._memory[key] = transforms.load_pixels(self.dataset, preprocessing)
        return self._memory[key]

    def described(self, name: str) -> np.ndarray:
        """Return a baseline's description of all pictures, (N, F)."""
        if (key := ("described", name)) not in self._memory:
            describe, pixels = baselines.BASELINES[name].describe, self.pixels(IMAGENET).numpy()
            self._memory[key] = describe(self.dataset.manifest, pixels)
        return self._memory[key]

    def shares_views(self, recipe: Recipe) -> bool:
        """Return whether runs share `views`: nothing is drawn, or by the seed for all folds."""
        return self.folds is not None or not training.is_augmented(recipe)


@dataclass(frozen=True)
class Outcome:
    """What a grid did: names of runs; recipes without weights and failed runs, with the reason."""

    trained: tuple[str, ...]
    reused: tuple[str, ...]
    not_run: dict[str, str]
    failed: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{len(self.trained)} runs trained, {len(self.reused)} found and reused"]
        for recipe, remedy in self.not_run.items():
            lines.append(f"{recipe}: not run, weights not reachable. {remedy}")
        lines += [f"{run}: failed. {reason}" for run, reason in self.failed.items()]
        return "\n".join(lines)


def prepare(
    dataset: Dataset,
    split: str = "course",
    *,
    results: str | Path = "",
    device: str = "auto",
    precision: str = "float32",
    folds: int = 0,
    repeats: int = 5,
) -> Setup:
    """Write manifest and split where they are missing, and check them where they are not.

    ``split`` is ``course``, ``stratified-<seed>``, ``cv`` for grouped cross-validation, or
    ``cv-ungrouped``, which takes near-duplicates for different pictures, to show how much that
    inflates accuracy; ``folds`` 0 stands for as many as there are, or 10 where there are none yet.
    """
    chosen = training.choose_device(device)
    training.autocast(chosen, precision)
    results = data.results_root(results)
    data.write_manifest(dataset, results)
    folder = results / dataset.name / split
    divided = None
    if split in ("cv", "cv-ungrouped"):
        groups = results / dataset.audited_as / "duplicate_groups.csv" if split == "cv" else None
        asked = {"folds": folds, "repeats": repeats}
        divided = splits.open_or_make_folds(dataset, folder / "folds.csv", groups, **asked)
        table = splits.of_fold(divided, 0, 0)
    else:
        table = splits.open_or_make(split, dataset, folder / "split.csv")
    return Setup(dataset, split, table, Store(folder), chosen, precision, divided)


def _given(setup, subset: str, model, recipe: Recipe, seen) -> tuple:
    """Return how a subset is evaluated: a network and pixels, or its head and features."""
    pixels, rows, precision = setup.pixels(seen), setup.rows(subset), setup.precision
    if recipe.frozen != "backbone":
        return model, seen, pixels[rows]
    if not setup.shares_views(recipe):
        return model.head, None, training.features(model, seen, pixels[rows], precision)
    plain = replace(recipe, augment=0.0, extra=())
    views = training.cached_views(model, seen, setup.dataset, pixels, plain, 0, precision)
    return model.head, None, views[0][rows]


def _fit(setup, recipe: Recipe, seen, model, generator, seed: int, fit) -> pd.DataFrame:
    """Train a network, or the head of a frozen one on features, and return the history."""
    precision, device, validation = setup.precision, setup.device, None
    learner, prepared, inputs = _given(setup, "validation", model, recipe, seen)
    if len(inputs):
        validation = Examples(inputs, setup.examples("validation", seen).labels)
        validation = training.batches(validation, recipe, prepared, None, device)
    examples = setup.examples("train", seen)
    if recipe.frozen == "backbone":
        if setup.shares_views(recipe):
            arguments = (model, seen, setup.dataset, setup.pixels(seen), recipe, seed, precision)
            views = training.cached_views(*arguments)[:, setup.rows("train")]
        else:
            views = training.views_of(model, seen, examples.pixels, recipe, generator, precision)
        examples = Examples(views.transpose(0, 1), examples.labels)
    train = training.batches(examples, recipe, prepared, generator, device)
    return fit(learner, recipe, train, validation, precision=precision)


def train(
    setup: Setup, recipe: Recipe, seed: int, *, fit: Callable = training.fit
) -> tuple[nn.Module, Finished]:
    """Train one network and score it once on the test pictures; write nothing.

    Return the network and what `Store.add` takes. Raises `weights.WeightsNotFound`.
    """
    started, seen = datetime.now(timezone.utc), models.preprocessing_of(recipe)
    setup.pixels(seen)  # decoded now, it does not count as training time
    with training.seeded(seed) as generator:
        model, provenance = models.build(recipe, len(setup.dataset.classes))
        model.to(setup.device, memory_format=torch.channels_last)
        clock = time.perf_counter()
        history = _fit(setup, recipe, seen, model, generator, seed, fit)
        seconds = time.perf_counter() - clock
    given = training.predict(*_given(setup, "test", model, recipe, seen), precision=setup.precision)
    device, number = setup.device.type, getattr(fit, "devices", 1)
    device = torch.cuda.get_device_name(setup.device) if device == "cuda" else device
    facts = {"weights": provenance, "params": models.count_parameters(model)}
    facts |= {"started": started, "train_seconds": seconds}
    facts["device"] = device if number == 1 else f"{number} × {device}"
    return model, checkpoints.finish(setup, recipe, seed, given, history, facts)


def _score_baseline(setup: Setup, recipe: Recipe, seed: int) -> Finished:
    started, features = datetime.now(timezone.utc), setup.described(recipe.architecture)
    train, test = (np.array(setup.rows(subset)) for subset in ("train", "test"))
    labels, clock = np.array(setup.dataset.labels), time.perf_counter()
    given = baselines.fit_predict(recipe.architecture, features, labels, train, test, seed)
    facts = {"weights": "none", "params": 0, "device": "cpu", "started": started}
    facts["train_seconds"] = time.perf_counter() - clock
    history = pd.DataFrame(columns=list(training.HISTORY_COLUMNS))
    return checkpoints.finish(setup, recipe, seed, given, history, facts)


def compute(setup: Setup, unit: tuple, fit: Callable = training.fit) -> "Finished | BatikError":
    """Train and score one run of a grid, named as in `run_name`; return also why it failed."""
    recipe, seed, fold = unit
    try:
        here = setup.at(seed, fold)
        if recipe.family == "baseline":
            return _score_baseline(here, recipe, seed)
        return train(here, recipe, seed, fit=fit)[1]
    except BatikError as error:
        return error


def run_grid(
    setup: Setup,
    names: str,
    seeds: int,
    *,
    epochs: int = 0,
    map: Callable[[Callable, Iterable], Iterable] = map,
    on_run: Callable[[Recipe, dict, pd.DataFrame, pd.DataFrame], None] | None = None,
    fit: Callable[..., pd.DataFrame] = training.fit,
) -> Outcome:
    """Train every run that is missing from ``runs.csv``.

    Each recipe has the seeds 0 to ``seeds`` - 1; of ``cv``, so many of its repeats. ``map`` yields
    what `compute` gives for each unit, in order; ``on_run`` gets recipe and tables of a run.
    """
    units, reused = _units(setup, names, seeds, epochs)
    if units:
        setup.store.check_writable()
    for recipe, *_ in units:  # decoded here: a worker elsewhere opens no file of the data set
        if recipe.family == "baseline":
            setup.described(recipe.architecture)
        else:
            setup.pixels(models.preprocessing_of(recipe))
    trained, not_run, failed, sent = [], {}, {}, []

    def wanted() -> Iterator[tuple]:
        for unit in units:
            if unit[0].name not in not_run:
                sent.append(unit)
                yield unit

    results = map(partial(compute, setup, fit=fit), wanted())
    bar = tqdm(results, "Runs", len(units), unit="run") if units else results
    for number, result in enumerate(bar):
        name, recipe = run_name(*sent[number]), sent[number][0]
        if isinstance(result, WeightsNotFound):
            if recipe.name not in not_run:
                log.warning("%s", result)
                setup.store.note_not_run(recipe.name, result.remedy)
            not_run[recipe.name] = result.remedy
        elif isinstance(result, BatikError):
            log.warning("%s: %s", name, result)
            failed[name] = str(result)
        else:
            setup.store.add(*result)
            trained.append(name)
            if recipe.family != "baseline":
                setup.store.note_not_run(recipe.name)
            if on_run:
                on_run(recipe, *result)
    return Outcome(tuple(trained), tuple(reused), not_run, failed)


def _units(setup, names, seeds, epochs) -> tuple[list[tuple], list[str]]:
    """Return the runs of a grid that are missing, and the names of those that are there."""
    if seeds < 1:
        raise BatikError(f"SEEDS must be 1 or more, not {seeds}.")
    if setup.folds is not None and seeds > splits.n_repeats(setup.folds):
        raise BatikError(
            f"{setup.store.folder / 'folds.csv'} has {splits.n_repeats(setup.folds)} repeats, "
            f"fewer than the {seeds} seeds asked for: ask for fewer, or remove it and its results."
        )
    chosen = [recipes.with_epochs(recipe, epochs) for recipe in recipes.select(names)]
    # seed by seed, so that a stopped grid has every recipe about equally often
    folds = range(setup.n_folds)
    units = [(r, seed, fold) for seed in range(seeds) for r in chosen for fold in folds]
    runs = [run_name(*unit) for unit in units]
    there = setup.store.finished(setup.dataset.digest, runs)
    missing = [unit for unit, run in zip(units, runs, strict=True) if run not in there]
    return missing, [run for run in runs if run in there]


def results_of(setup: Setup, names: str, *, epochs: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the finished runs of some recipes, in table order, and their predictions."""
    chosen = [recipes.with_epochs(recipe, epochs) for recipe in recipes.select(names)]
    runs, predictions = setup.store.read("runs"), setup.store.read("predictions")
    found = [runs[(runs["recipe"] == r.name) & (runs["epochs"] == r.epochs)] for r in chosen]
    runs = pd.concat([table.sort_values(["seed", "fold"]) for table in found], ignore_index=True)
    if runs.empty:
        raise BatikError(
            f"No finished run of {names} in {setup.store.folder}: call 'python -m batik_utils "
            f"train' first; missing weights are named in not_run.csv."
        )
    return runs, predictions[predictions["run"].isin(runs["run"])].reset_index(drop=True)


def train_or_load(
    setup: Setup, name: str, seed: int = 0, *, epochs: int = 0
) -> tuple[Checkpoint, pd.DataFrame]:
    """Return one trained network and its history, from its checkpoint if there is one."""
    recipe = recipes.with_epochs(recipes.get(name), epochs)
    run = run_name(recipe, seed)
    path = setup.store.folder / "checkpoints" / f"{run}.pt"
    finished = bool(setup.store.finished(setup.dataset.digest, [run]))
    try:
        saved = checkpoints.load(path) if finished and path.exists() else None
    except checkpoints.CheckpointError as error:
        log.warning("%s Training it again now.", error)
        saved = None
    if saved is None:
        if not finished:
            setup.store.check_writable()
        model, run_rows = train(setup, recipe, seed)
        if not finished:  # a finished run keeps its rows: the network alone is missing
            setup.store.add(*run_rows)
        seen, dataset = models.preprocessing_of(recipe), setup.dataset
        saved = Checkpoint(model.cpu().eval(), recipe, dataset.classes, seen, dataset.digest)
        try:
            checkpoints.save(path, saved)
        except NotWritten as error:
            log.warning("The trained network is in memory alone: %s", error)
    if saved.dataset != setup.dataset.digest:
        raise BatikError(f"{path} was trained on other pictures: remove it to train again.")
    history = setup.store.read("history")
    return saved, history[history["run"] == run].drop(columns="run").reset_index(drop=True)
