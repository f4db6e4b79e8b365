"""Search a recipe's settings on the training pictures alone; a search resumes where it stopped.

    >>> from batik_utils import data, experiments
    >>> from batik_utils.evaluation import search as tuning
    >>> setup = experiments.prepare(data.load("synthetic"), "stratified-0")
    >>> table = tuning.search(setup, "mobilenet_v2_probe", trials=30)

Test and validation pictures of the split are not even opened. Each trial is scored by stratified
cross-validation inside the training pictures: the mean log-loss (nats) of the held-out ones, once
every picture was held out. Accuracy decides nothing, though it is noted: over 120 pictures it moves
in steps of 0.8 points with a standard error of about 4, so that many trials tie, while the log-loss
hears every picture's probability. Near-twins may fall into different folds, which flatters all
trials alike.

Values are proposed by TPE (Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011); a
trial that is worse than the median of the earlier ones after as many folds is pruned. It is judged
after folds and not after epochs, because epochs and a schedule that ends with them are searched:
half-way losses of trials of different length say little about each other.
Source: Akiba et al., Optuna, 2019 (https://arxiv.org/abs/1907.10902).
Introduced in notebook 02, section "The search".
"""

import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import filelock
import numpy as np
import optuna
import pandas as pd
import torch
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sklearn.model_selection import StratifiedKFold
from tqdm.auto import tqdm

from batik_utils import models, recipes, splits, transforms
from batik_utils import training as engine
from batik_utils.errors import BatikError
from batik_utils.experiments import Setup
from batik_utils.images.resize import Preprocessing
from batik_utils.recipes import Recipe

log = logging.getLogger(__name__)


class Range(NamedTuple):
    """Values to choose from: whole numbers where ``low`` is one.

    Attributes:
        low: smallest value.
        high: largest value.
        step: distance of neighbours; None for any value (1 for whole numbers).
        log: whether orders of magnitude are equally likely.
    """

    low: float
    high: float
    step: float | None = None
    log: bool = False

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """Return the same for Optuna."""
        if isinstance(self.low, int):
            return optuna.distributions.IntDistribution(
                self.low, self.high, step=int(self.step or 1), log=self.log
            )
        return optuna.distributions.FloatDistribution(
            self.low, self.high, step=self.step, log=self.log
        )


#: What is searched, by what is trained: a whole network, or the head of a fixed backbone, where
#: each augmentation strength costs a pass of the backbone and so comes in steps.
SPACES: dict[str, dict[str, Range]] = {
    "network": {
        "epochs": Range(20, 60, step=10),
        "learning_rate": Range(5e-4, 1e-2, log=True),
        "dropout": Range(0.0, 0.6),
        "weight_decay": Range(1e-6, 1e-2, log=True),
        "augment": Range(0.0, 1.0),
    },
    "head": {
        "epochs": Range(10, 100, step=10),
        "learning_rate": Range(1e-4, 3e-2, log=True),
        "dropout": Range(0.0, 0.8),
        "weight_decay": Range(1e-6, 1e-1, log=True),
        "augment": Range(0.0, 1.0, step=0.25),
    },
}
PARAMETERS = tuple(SPACES["network"])
COLUMNS = ("number", "state", "value", "accuracy", "folds", *PARAMETERS, "seconds")


def space_of(recipe: Recipe) -> dict[str, Range]:
    """Return the ranges that are searched for a recipe."""
    return SPACES["head" if recipe.frozen == "backbone" else "network"]


def search(
    setup: Setup,
    name: str,
    trials: int = 30,
    *,
    folds: int = 4,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Bring a recipe's search to a number of finished trials.

    The first trial is the recipe itself, brought into the ranges. Everything random in a trial
    follows from the seed and the number of finished trials, so an interrupted search goes on as
    if nothing had happened; the trial that was running is repeated.

    Args:
        setup: data set, split, device.
        name: recipe to start from.
        trials: number of finished trials, pruned ones included, that there should be.
        folds: parts of the training pictures, each held out once.
        seed: of proposals, folds and trainings.
            A search may change between the two; proposals on a cluster depend on which trial ends
            first, so they are not the ones of this process.
        progress: show a bar over trials with the time left and the best loss.

    Returns:
        One row a trial, with ``COLUMNS``, as written to ``tuning/<recipe>.csv``; see `read`.

    Raises:
        WeightsNotFound: the recipe's weights cannot be had.
        BatikError: a wrong setting, or the search there has other settings or is running.
    """
    recipe = recipes.get(name)
    if trials < 1:
        raise BatikError(f"A search needs at least 1 trial, not {trials}.")
    if recipe.family == "baseline":
        raise BatikError(f"Recipe '{name}' is a baseline: it has nothing to search.")
    if setup.folds is not None:
        raise BatikError("A search needs one set of training pictures: use --grid course.")
    if recipe.fine_tune_epochs:
        raise BatikError(f"Recipe '{name}' trains in two stages: a search takes one-stage recipes.")
    objective = _Objective(setup, recipe, folds, seed)
    folder = setup.store.folder / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / f"{name}.lock", timeout=0):
            settings = _settings(setup, recipe, folds, seed)
            study = _open(folder / f"{name}.log", name, settings)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
            _run(study, objective, trials, seed, folder / f"{name}.csv", progress)
            return _write(study, folder / f"{name}.csv")
    except filelock.Timeout as error:
        raise BatikError(
            f"Another process is searching '{name}' in {folder}: wait for it, or use another "
            f"results folder."
        ) from error


def read(folder: str | Path, name: str) -> pd.DataFrame:
    """Return the trials of a search.

    Args:
        folder: ``<results>/<data set>/<split>``.
        name: recipe that the search started from.

    Returns:
        One row a trial: ``number``, ``state`` (``COMPLETE``, ``PRUNED``; ``FAIL`` for one that was
        interrupted), ``value`` (mean log-loss in nats over the pictures held out so far; NaN for a
        training that diverged), ``accuracy`` of the same pictures, ``folds`` done, the searched
        settings, and ``seconds``.

    Raises:
        BatikError: there is no such search, or its file is damaged.
    """
    path = Path(folder) / "tuning" / f"{name}.csv"
    if not path.is_file():
        raise BatikError(
            f"No search at {path}: run 'python -m batik_utils tune --recipe {name}' first."
        )
    try:
        table = pd.read_csv(path)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise BatikError(f"{path} is damaged ({error}): restore it with git.") from error
    if tuple(table.columns) != COLUMNS:
        raise BatikError(f"{path} is no search: it should have the columns {', '.join(COLUMNS)}.")
    return table


def best(table: pd.DataFrame) -> pd.Series:
    """Return the complete trial of the smallest loss.

    Raises:
        BatikError: no trial was completed.
    """
    complete = table[table["state"] == "COMPLETE"]
    if complete.empty:
        raise BatikError("No trial of the search was completed: run more trials.")
    return complete.loc[complete["value"].idxmin()]


def summary(table: pd.DataFrame) -> str:
    """Return what a search found, in one line."""
    counts = table["state"].value_counts()
    row = best(table)
    values = ", ".join(f"{name} {row[name]:.3g}" for name in PARAMETERS)
    return (
        f"{counts.get('COMPLETE', 0)} trials completed, {counts.get('PRUNED', 0)} pruned; best is "
        f"number {row['number']} with log-loss {row['value']:.3f} and accuracy "
        f"{row['accuracy']:.1%}: {values}"
    )


def importances(table: pd.DataFrame) -> pd.Series:
    """Return how much of the spread of the losses each setting explains.

    Args:
        table: see `read`; only complete trials count.

    Returns:
        Shares that sum to 1 by name of the setting, largest first.

    Raises:
        BatikError: fewer than four complete trials, or all of one loss.

    Source: Hutter et al., An Efficient Approach for Assessing Hyperparameter Importance (functional
    ANOVA), 2014.
    """
    complete = table[table["state"] == "COMPLETE"]
    if len(complete) < 4 or complete["value"].nunique() < 2:
        raise BatikError("Parameter importance needs at least four complete, differing trials.")
    spaces = {
        name: optuna.distributions.FloatDistribution(
            float(complete[name].min()), float(complete[name].max()), log=_is_log(name)
        )
        for name in PARAMETERS
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for row in complete.to_dict("records"):
        values = {name: float(row[name]) for name in PARAMETERS}
        study.add_trial(
            optuna.create_trial(params=values, distributions=spaces, value=row["value"])
        )
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    shares = pd.Series(found, dtype=float).reindex(PARAMETERS).fillna(0)
    return shares.sort_values(ascending=False, kind="stable").rename("importance")


def _is_log(name: str) -> bool:
    return SPACES["network"][name].log


class _Objective:
    """The score of one set of values, from the training pictures of the split alone."""

    def __init__(self, setup: Setup, recipe: Recipe, folds: int, seed: int):
        rows = splits.indices(setup.split, setup.dataset, "train")
        manifest = setup.dataset.manifest.iloc[rows].reset_index(drop=True)
        self.dataset = replace(setup.dataset, manifest=manifest)
        labels = self.dataset.labels
        smallest = min(labels.count(k) for k in range(len(self.dataset.classes)))
        if not 2 <= folds <= smallest:
            raise BatikError(
                f"The number of folds must be 2 to {smallest} (the training pictures of the "
                f"smallest motif), not {folds}."
            )
        self.setup, self.recipe, self.seed = setup, recipe, seed
        self.labels = torch.tensor(labels)
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
        self.folds = list(parts.split(labels, labels))
        self._pixels: torch.Tensor | None = None
        self._features: torch.Tensor | None = None
        self._views: dict[float, torch.Tensor] = {}

    def __call__(self, trial: optuna.Trial) -> float:
        """Return the mean log-loss (nats) of the held-out pictures.

        Raises:
            optuna.TrialPruned: not promising.
        """
        recipe = replace(self.recipe, **suggest(trial, space_of(self.recipe)))
        losses, right = [], []
        for number, (learn, held) in enumerate(self.folds):
            try:
                probabilities = self._fold(recipe, number, learn, held)
            except engine.Diverged as error:
                log.info("%s", error)
                raise optuna.TrialPruned from error
            labels = self.labels[held].numpy()
            given = probabilities[np.arange(len(held)), labels]
            losses.extend(-np.log(given.clip(1e-12)))
            right.extend(probabilities.argmax(1) == labels)
            trial.set_user_attr("accuracy", float(np.mean(right)))
            trial.report(float(np.mean(losses)), number + 1)
            if number + 1 < len(self.folds) and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(losses))

    def load_pixels(self) -> None:
        """Open the training pictures, once for all trials."""
        if self._pixels is None:
            _, seen = models.stages(self.recipe)[0]
            self._pixels = transforms.load_pixels(self.dataset, seen)

    def _fold(self, recipe: Recipe, number: int, learn: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Train on one part and return the (n, K) probabilities of the other."""
        setup, (_, seen) = self.setup, models.stages(recipe)[0]
        self.load_pixels()
        views = None
        if recipe.frozen == "backbone":
            views = self._views_of(recipe, seen)[:, learn]
        examples = engine.Examples(self._pixels[learn], self.labels[learn])
        # the same random numbers in every trial, so that the values alone make the difference
        with engine.seeded(_seed(self.seed, number)) as generator:
            if views is None:
                model, _ = models.build(recipe, len(self.dataset.classes), setup.weights_directory)
            else:
                model = models.build_untrained(recipe, len(self.dataset.classes))
            model.to(setup.device, memory_format=torch.channels_last)
            if views is None:
                learner = model
                batches = engine.batches(examples, recipe, seen, generator, setup.device)
            else:
                learner = model.head
                batches = engine.view_batches(views, examples.labels, recipe, generator)
            engine.fit(learner, recipe, batches, precision=setup.precision)
        if views is None:
            return engine.predict(model, seen, self._pixels[held], precision=setup.precision)
        model.eval()
        with torch.no_grad():
            return model.head(self._features[held]).double().softmax(1).cpu().numpy()

    def _views_of(self, recipe: Recipe, seen: Preprocessing) -> torch.Tensor:
        """Return (V, N, F) features of a fixed backbone; each strength is computed once."""
        if recipe.augment not in self._views:
            setup = self.setup
            with engine.seeded(self.seed) as generator:
                model, _ = models.build(recipe, len(self.dataset.classes), setup.weights_directory)
                model.to(setup.device)
                self._views[recipe.augment] = engine.views_of(
                    model, seen, self._pixels, recipe, generator, setup.precision
                )
                if self._features is None:
                    self._features = engine.features(
                        model, seen, self._pixels, precision=setup.precision
                    )
        return self._views[recipe.augment]


def suggest(trial: optuna.Trial, space: dict[str, Range]) -> dict[str, float]:
    """Return a value for each of the ranges."""
    values = {}
    for name, (low, high, step, is_log) in space.items():
        if isinstance(low, int):
            values[name] = trial.suggest_int(name, low, high, step=int(step or 1), log=is_log)
        else:
            values[name] = trial.suggest_float(name, low, high, step=step, log=is_log)
    return values


def _run(
    study: optuna.Study,
    objective: _Objective,
    trials: int,
    seed: int,
    csv: Path,
    progress: bool,
) -> None:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    if len(done) >= trials:
        log.info("%d of %d trials are there already: nothing to do", len(done), trials)
        return
    if done:
        log.info("%d of %d trials are there already: the search goes on", len(done), trials)
    first = _within(objective.recipe)
    bar = tqdm(
        range(len(done), trials),
        desc=f"Trials of {objective.recipe.name}",
        unit="trial",
        initial=len(done),
        total=trials,
        disable=not progress,
    )
    for number in bar:
        # a sampler of its own for each trial, so that a resumed search proposes the same values
        study.sampler = optuna.samplers.TPESampler(seed=_seed(seed, number))
        if number == 0:
            study.enqueue_trial(first, skip_if_exists=False)
        trial = study.ask()
        clock = time.perf_counter()
        try:
            value, state = objective(trial), TrialState.COMPLETE
        except optuna.TrialPruned:
            value, state = None, TrialState.PRUNED
        trial.set_user_attr("seconds", engine.seconds_since(clock))
        study.tell(trial, value, state)
        _show(_write(study, csv), trial.number, objective, bar)


def _show(table: pd.DataFrame, number: int, objective: _Objective, bar: tqdm) -> None:
    """Tell of a finished trial: the bar, and MLflow where that is asked for."""
    row = table[table["number"] == number].iloc[0].to_dict()
    if (table["state"] == "COMPLETE").any():
        row = best(table)
        bar.set_postfix_str(f"best loss {row['value']:.3f}, accuracy {row['accuracy']:.0%}")


def _within(recipe: Recipe) -> dict[str, float]:
    """Return the recipe's own values, each moved to the nearest one that the ranges allow."""
    values = {}
    for name, (low, high, step, _) in space_of(recipe).items():
        value = min(max(getattr(recipe, name), low), high)
        values[name] = low + round((value - low) / step) * step if step else value
    return values


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _settings(setup: Setup, recipe: Recipe, folds: int, seed: int) -> dict:
    """Return what trials must agree in to be of one search."""
    plain = asdict(recipe)
    for name in ("name", "family", "published", "note"):
        del plain[name]
    settings = {
        "recipe": plain,
        "space": {name: list(r) for name, r in space_of(recipe).items()},
        "dataset": setup.dataset.digest,
        "split": setup.split_name,
        "folds": folds,
        "seed": seed,
        "precision": setup.precision,
    }
    return json.loads(json.dumps(settings))


def _open(path: Path, name: str, settings: dict) -> optuna.Study:
    """Open the search's journal, or begin it.

    Raises:
        BatikError: damaged, or begun with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        # open() locks work where links do not, e.g. on a mounted Google Drive
        backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=name,
            load_if_exists=True,
            direction="minimize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        found = study.user_attrs.get("settings")
    except (ValueError, KeyError) as error:
        raise BatikError(f"{path} is damaged ({error}): remove it to search again.") from error
    if found is None:
        study.set_user_attr("settings", settings)
    elif found != settings:
        odd = [key for key in settings if found.get(key) != settings[key]]
        raise BatikError(
            f"The search at {path} was begun with another {' and '.join(odd)}: remove the file to "
            f"begin anew, or use another results folder."
        )
    return study


def _write(study: optuna.Study, path: Path) -> pd.DataFrame:
    """Write the finished trials as CSV, whole or not at all."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value if trial.value is not None else float("nan"),
            "accuracy": trial.user_attrs.get("accuracy", float("nan")),
            "folds": len(trial.intermediate_values),
            **{name: trial.params.get(name, float("nan")) for name in PARAMETERS},
            "seconds": trial.user_attrs.get("seconds", float("nan")),
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    partial = path.with_suffix(".partial")
    table.to_csv(partial, index=False, float_format="%.6g")
    partial.replace(path)
    return table
