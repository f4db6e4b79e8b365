"""Run recipes on a data set and keep what they gave; a grid resumes where it stopped.

    >>> from batik_utils import data, experiments
    >>> setup = experiments.prepare(data.load("synthetic"), "course")
    >>> outcome = experiments.run_grid(setup, "scratch1,efficientnet_lite0", seeds=3)

Introduced in notebook 02, section "Many runs".
"""

import logging
import os
import subprocess
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm

from batik_utils import checkpoints, data, engine, metrics, models, recipes, splits, transforms
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.preprocessing import Preprocessing
from batik_utils.recipes import Recipe
from batik_utils.results import Store
from batik_utils.weights import WeightsNotFound

log = logging.getLogger(__name__)


@dataclass
class Setup:
    """A data set, its split and where results go.

    Attributes:
        dataset: the data set.
        split_name: ``course`` or ``stratified-<seed>``.
        split: see `splits.make`.
        store: result files of this data set and split.
        device: where to compute.
        precision: see `engine.fit`.
        weights_directory: folder to look for pretrained weights first, or None.
        git: commit of the code, read when the set-up is made.
    """

    dataset: Dataset
    split_name: str
    split: pd.DataFrame
    store: Store
    device: torch.device
    precision: str = "float32"
    weights_directory: str | None = None
    git: str = field(default_factory=lambda: _git_commit())
    _pixels: dict[tuple[int, str], torch.Tensor] = field(default_factory=dict, repr=False)

    def examples(self, subset: str, preprocessing: Preprocessing) -> engine.Examples:
        """Return a subset's pictures at the input size; each size is decoded once."""
        key = (preprocessing.size, preprocessing.interpolation)
        if key not in self._pixels:
            self._pixels[key] = transforms.load_pixels(self.dataset, preprocessing)
        chosen = splits.indices(self.split, self.dataset, subset)
        labels = torch.tensor(self.dataset.labels)
        return engine.Examples(self._pixels[key][chosen], labels[chosen])


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
) -> Setup:
    """Write manifest and split where they are missing, and check them where they are not.

    Args:
        dataset: the data set.
        split: ``course`` or ``stratified-<seed>``.
        results: see `results_root`.
        device: see `engine.choose_device`.
        precision: ``float32`` or ``bfloat16``.
        weights_directory: folder to look for pretrained weights first, or None.

    Raises:
        BatikError: a setting is wrong, or the folder holds results of other pictures.
    """
    if precision not in engine.PRECISIONS:
        raise BatikError(
            f"Unknown precision '{precision}': use one of {', '.join(engine.PRECISIONS)}."
        )
    chosen_device = engine.choose_device(device)
    results = results_root(results)
    data.write_manifest(dataset, results)
    folder = results / dataset.name / split
    table = splits.open_or_make(split, dataset, folder / "split.csv")
    return Setup(
        dataset, split, table, Store(folder), chosen_device, precision, weights_directory or None
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


def run_name(recipe: Recipe, seed: int, fold: int = 0) -> str:
    """Return the name of a run, e.g. ``scratch1-e10-f0-s3``."""
    return f"{recipe.name}-e{recipe.epochs}-f{fold}-s{seed}"


def train(
    setup: Setup, recipe: Recipe, seed: int, *, record: bool = True, progress: bool = True
) -> tuple[models.Classifier, pd.DataFrame]:
    """Train one run, score it once on the test pictures and write it down.

    Args:
        setup: data set, split, device.
        recipe: what to train.
        seed: initial weights, order of pictures, augmentation, dropout.
        record: False leaves the result files as they are.
        progress: show a bar over epochs.

    Returns:
        The trained network and its history (see `engine.fit`).

    Raises:
        WeightsNotFound: the recipe's weights cannot be had.
    """
    import torchvision

    started = datetime.now(timezone.utc)
    preprocessing = models.preprocessing_of(recipe)
    dataset = setup.dataset
    for _, seen in models.stages(recipe):  # decoded now, it does not count as training time
        train_examples, _, test = (setup.examples(subset, seen) for subset in splits.SUBSETS)
    with engine.seeded(seed) as generator:
        model, provenance = models.build(recipe, len(dataset.classes), setup.weights_directory)
        model.to(setup.device)
        clock = time.perf_counter()
        history = _fit_stages(setup, recipe, model, generator, progress)
        seconds = engine.seconds_since(clock)
    if not record:
        return model, history
    probabilities = engine.predict(model, preprocessing, test.pixels, precision=setup.precision)
    test_rows = splits.indices(setup.split, dataset, "test")
    predictions = pd.DataFrame(
        {
            "path": dataset.manifest["path"].iloc[test_rows].to_numpy(),
            "label": dataset.manifest["motif"].iloc[test_rows].to_numpy(),
            "predicted": [dataset.classes[k] for k in probabilities.argmax(1)],
            **{f"p_{motif}": probabilities[:, k] for k, motif in enumerate(dataset.classes)},
        }
    )
    row = {
        "run": run_name(recipe, seed),
        "recipe": recipe.name,
        "family": recipe.family,
        "weights": provenance,
        "split": setup.split_name,
        "fold": 0,
        "seed": seed,
        "epochs": recipe.epochs,
        "n_train": len(train_examples.labels),
        "n_test": len(test.labels),
        **metrics.scores(test.labels.tolist(), probabilities),
        "train_seconds": seconds,
        "train_images_per_second": round(len(train_examples.labels) * len(history) / seconds, 1),
        "params": models.count_parameters(model),
        "device": _device_name(setup.device),
        "precision": setup.precision,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "git": setup.git,
        "started": started.isoformat(timespec="seconds"),
        "dataset": dataset.digest,
    }
    setup.store.add(row, predictions, history)
    return model, history


def run_grid(
    setup: Setup,
    names: str,
    seeds: int,
    *,
    epochs: int = 0,
    progress: bool = True,
) -> Outcome:
    """Train every run that is missing from ``runs.csv``.

    Args:
        setup: data set, split, device.
        names: recipes or families, see `recipes.select`.
        seeds: number of seeds, 0 to seeds - 1, for each recipe.
        epochs: in place of the recipes' own, or 0.
        progress: show a bar over runs with the time left.

    Returns:
        What was trained, reused and not run.

    Raises:
        BatikError: a wrong setting. A recipe whose weights cannot be had is not an error here: it
            is reported, and written to ``not_run.csv``.
    """
    if seeds < 1:
        raise BatikError(f"SEEDS must be at least 1, not {seeds}.")
    chosen = [recipes.with_epochs(recipe, epochs) for recipe in recipes.select(names)]
    jobs, reused, trained, not_run = [], [], [], {}
    # seed by seed, so that a stopped grid has every recipe about equally often
    for seed in range(seeds):
        for recipe in chosen:
            name = run_name(recipe, seed)
            if setup.store.has(name, setup.dataset.digest):
                reused.append(name)
            else:
                jobs.append((recipe, seed))
    bar = tqdm(jobs, desc="Runs", unit="run", disable=not progress or not jobs)
    for recipe, seed in bar:
        bar.set_postfix_str(f"{recipe.name}, seed {seed}")
        if recipe.name in not_run:
            continue
        try:
            train(setup, recipe, seed, progress=progress)
        except WeightsNotFound as error:
            log.warning("%s", error)
            not_run[recipe.name] = error.remedy
            setup.store.note_not_run(recipe.name, "not run: weights not reachable", error.remedy)
        else:
            trained.append(run_name(recipe, seed))
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
    runs = runs.assign(place=place).dropna(subset="place").sort_values(["place", "seed"])
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
    progress: bool,
) -> pd.DataFrame:
    """Train in the recipe's one or two stages; the second one's epochs count on in the history."""
    histories = []
    for stage, preprocessing in models.stages(recipe):
        train_examples, validation, _ = (
            setup.examples(subset, preprocessing) for subset in splits.SUBSETS
        )
        model.freeze(stage.frozen)
        history = engine.fit(
            model,
            stage,
            preprocessing,
            train_examples,
            validation,
            generator=generator,
            precision=setup.precision,
            progress=progress,
        )
        history["epoch"] += sum(map(len, histories))
        histories.append(history)
    return pd.concat(histories, ignore_index=True)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _git_commit() -> str:
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
