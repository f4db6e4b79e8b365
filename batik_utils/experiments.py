"""Run recipes on a data set and keep what they gave; a grid resumes where it stopped.

    >>> from batik_utils import data, experiments
    >>> setup = experiments.prepare(data.load("synthetic"), "course")
    >>> outcome = experiments.run_grid(setup, "scratch1,efficientnet_lite0", seeds=3)

The split ``cv`` has several folds, and every division into folds is one seed: then a grid trains
each recipe once a fold and seed.
Introduced in notebook 02, section "Many runs".
"""

import logging
import os
import subprocess
import time
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from batik_utils import (
    baselines,
    checkpoints,
    data,
    engine,
    metrics,
    models,
    recipes,
    splits,
    transforms,
)
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.preprocessing import IMAGENET, Preprocessing
from batik_utils.recipes import Recipe
from batik_utils.results import Store
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
    git: str = field(default_factory=lambda: git_commit())
    # computed once, and shared by the set-ups of all folds
    _pixels: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict, repr=False)
    _views: dict[tuple, torch.Tensor] = field(default_factory=dict, repr=False)
    _described: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

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

    def examples(self, subset: str, preprocessing: Preprocessing) -> engine.Examples:
        """Return a subset's pictures at the input size; none for a subset that is empty."""
        chosen = splits.indices(self.split, self.dataset, subset)
        labels = torch.tensor(self.dataset.labels)
        return engine.Examples(self.pixels(preprocessing)[chosen], labels[chosen])

    def views(
        self, model: models.Classifier, recipe: Recipe, preprocessing: Preprocessing, seed: int
    ) -> torch.Tensor:
        """Return `engine.views_of` the training pictures, computed once for all folds.

        Args:
            model: network with a fixed backbone.
            recipe: what is trained.
            preprocessing: what the network expects.
            seed: of the augmentation; without one, the views are the same for all seeds.
        """
        key = (
            (recipe.architecture, recipe.weights, self.precision)
            + (preprocessing.size, preprocessing.interpolation)
            + ((recipe.flip, recipe.augment, recipe.ridge > 0, seed) if recipe.augment else ())
        )
        if key not in self._views:
            self._views[key] = engine.views_of(
                model,
                preprocessing,
                self.pixels(preprocessing),
                recipe,
                torch.Generator().manual_seed(seed),
                self.precision,
            )
        return self._views[key][:, splits.indices(self.split, self.dataset, "train")]

    def described(self, name: str) -> np.ndarray:
        """Return a baseline's description of all pictures, (N, F), computed once."""
        if name not in self._described:
            describe = baselines.BASELINES[name].describe
            pixels = self.pixels(IMAGENET).numpy()
            self._described[name] = describe(self.dataset.manifest, pixels)
        return self._described[name]


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
) -> Setup:
    """Write manifest and split where they are missing, and check them where they are not.

    Args:
        dataset: the data set.
        split: ``course``, ``stratified-<seed>``, ``cv`` for grouped cross-validation, or
            ``cv-ungrouped``.
        results: see `results_root`.
        device: see `engine.choose_device`.
        precision: ``float32`` or ``bfloat16``.
        weights_directory: folder to look for pretrained weights first, or None.
        folds: number of folds of ``cv``; 0 for as many as there are, or 10 where there are none.
        repeats: divisions into folds, where there are none yet.

    Raises:
        BatikError: a setting is wrong, the folder holds results of other pictures, or ``cv`` finds
            no groups of near-twins.
    """
    if precision not in engine.PRECISIONS:
        raise BatikError(
            f"Unknown precision '{precision}': use one of {', '.join(engine.PRECISIONS)}."
        )
    chosen_device = engine.choose_device(device)
    results = results_root(results)
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
    )


def results_root(results: str | Path = "") -> Path:
    """Return the results folder as an absolute path.

    Args:
        results: a folder, relative to the project's root; "" for ``BATIK_RESULTS_DIR``, and
            ``results`` where that is not set.
    """
    root = Path(__file__).resolve().parents[1]
    # an installed copy of the package has no project around it
    root = root if (root / "notebooks").is_dir() else Path.cwd()
    return root / (results or os.environ.get("BATIK_RESULTS_DIR") or "results")


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
    started = datetime.now(timezone.utc)
    preprocessing = models.preprocessing_of(recipe)
    for _, seen in models.stages(recipe):
        setup.pixels(seen)  # decoded now, it does not count as training time
    with engine.seeded(seed) as generator:
        model, provenance = models.build(
            recipe, len(setup.dataset.classes), setup.weights_directory
        )
        model.to(setup.device)
        clock = time.perf_counter()
        history = _fit_stages(setup, recipe, model, generator, seed, progress)
        seconds = engine.seconds_since(clock)
    if record:
        test = setup.examples("test", preprocessing)
        probabilities = engine.predict(model, preprocessing, test.pixels, precision=setup.precision)
        _record(
            setup,
            recipe,
            seed,
            probabilities,
            history,
            weights=provenance,
            train_seconds=seconds,
            params=models.count_parameters(model),
            device=_device_name(setup.device),
            started=started.isoformat(timespec="seconds"),
        )
    return model, history


def score_baseline(setup: Setup, recipe: Recipe, seed: int) -> None:
    """Fit one baseline, score it once on the test pictures and write it down.

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
    _record(
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
    progress: bool = True,
) -> Outcome:
    """Train every run that is missing from ``runs.csv``.

    Args:
        setup: data set, split, device.
        names: recipes or families, see `recipes.select`.
        seeds: number of seeds, 0 to seeds - 1, for each recipe; of ``cv``, number of its repeats.
        epochs: in place of the recipes' own, or 0.
        n_train: at most this many training pictures a motif; 0 for all. Such runs are kept apart,
            in the folder ``learning`` of the split.
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
    bar = tqdm(jobs, desc="Runs", unit="run", disable=not progress or not jobs)
    for recipe, seed, fold in bar:
        bar.set_postfix_str(f"{recipe.name}, seed {seed}, fold {fold}")
        if recipe.name in not_run:
            continue
        here = setup.at(seed, fold, n_train)
        if recipe.family == "baseline":
            score_baseline(here, recipe, seed)
            trained.append(run_name(recipe, seed, fold, n_train))
            continue
        try:
            train(here, recipe, seed, progress=progress)
        except WeightsNotFound as error:
            log.warning("%s", error)
            not_run[recipe.name] = error.remedy
            setup.store.note_not_run(recipe.name, "not run: weights not reachable", error.remedy)
        else:
            trained.append(run_name(recipe, seed, fold, n_train))
            setup.store.forget_not_run(recipe.name)
    return Outcome(tuple(trained), tuple(reused), not_run)


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
        train_examples, validation = (
            setup.examples(subset, preprocessing) for subset in ("train", "validation")
        )
        model.freeze(stage.frozen)
        shared = setup.folds is not None and stage.frozen == "backbone"
        history = engine.fit(
            model,
            stage,
            preprocessing,
            train_examples,
            validation if len(validation.labels) else None,
            generator=generator,
            precision=setup.precision,
            progress=progress,
            views=setup.views(model, stage, preprocessing, seed) if shared else None,
        )
        history["epoch"] += sum(map(len, histories))
        histories.append(history)
    return pd.concat(histories, ignore_index=True)


def _record(
    setup: Setup,
    recipe: Recipe,
    seed: int,
    probabilities: np.ndarray,
    history: pd.DataFrame,
    **facts: str | float,
) -> None:
    """Score one run's predictions of the test pictures and write it down."""
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
    setup.store.add(row, predictions, history)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def git_commit() -> str:
    """Return the short commit of this checkout, with ``+`` if files differ; empty outside git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("+" if commit and git("status", "--porcelain", "--", ".") else "")
    except FileNotFoundError:
        return ""
