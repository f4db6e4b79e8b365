"""Search a recipe's settings on the training pictures of a split; a search resumes.

    >>> table = search.search(setup, "mobilenet_v2_probe", trials=30)

Test and validation pictures are not opened. A trial's score is the mean log-loss (nats) of
stratified cross-validation inside the training pictures. Near-duplicates may fall into different
folds, which inflates all trials alike. TPE proposes values (Bergstra et al., 2011), and a trial
that is worse than the median after as many folds is pruned; both are Optuna's (Akiba
et al., 2019). Its figures take the study that `study_of` makes. Used in notebooks 02 and 03.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import filelock
import numpy as np
import optuna
import pandas as pd
import torch
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sklearn.model_selection import StratifiedKFold
from tqdm.auto import tqdm

from batik_utils import data, models, recipes, splits, training, transforms
from batik_utils.errors import BatikError
from batik_utils.experiments import Setup
from batik_utils.recipes import Recipe

log = logging.getLogger(__name__)
OnTrial = Callable[[Recipe, dict, str], None] | None

#: What is searched, by what is trained: a whole network, or the head of a frozen backbone, where
#: each augmentation strength costs a pass of the backbone and so comes in steps.
SPACES: dict[str, dict[str, Float | Int]] = {
    "network": {
        "epochs": Int(20, 60, step=10),
        "learning_rate": Float(5e-4, 1e-2, log=True),
        "dropout": Float(0.0, 0.6),
        "weight_decay": Float(1e-6, 1e-2, log=True),
        "augment": Float(0.0, 1.0),
    },
    "head": {
        "epochs": Int(10, 100, step=10),
        "learning_rate": Float(1e-4, 3e-2, log=True),
        "dropout": Float(0.0, 0.8),
        "weight_decay": Float(1e-6, 1e-1, log=True),
        "augment": Float(0.0, 1.0, step=0.25),
    },
}
PARAMETERS = tuple(SPACES["network"])
COLUMNS = ("number", "state", "value", "accuracy", "folds", *PARAMETERS, "seconds")


def space_of(recipe: Recipe) -> dict[str, Float | Int]:
    """Ranges that are searched for a recipe."""
    return SPACES["head" if recipe.frozen == "backbone" else "network"]


def search(
    setup: Setup,
    name: str,
    trials: int = 30,
    *,
    folds: int = 4,
    seed: int = 0,
    on_trial: OnTrial = None,
) -> pd.DataFrame:
    """Bring a recipe's search to a number of finished trials, pruned ones included.

    The first trial is the recipe itself, brought into the ranges. Everything random in a trial
    follows from the seed and the number of finished trials, so an interrupted search goes on as if
    nothing had happened; the trial that was running is repeated. ``on_trial`` is called with the
    recipe, each finished trial's row and the data set's digest. Returns and writes
    ``tuning/<recipe>.csv``, see `read`.
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
            _run(study, objective, trials, seed, folder / f"{name}.csv", on_trial)
            return _write(study, folder / f"{name}.csv")
    except filelock.Timeout as error:
        raise BatikError(
            f"Another process is searching '{name}' in {folder}: wait for it, or use another "
            f"results folder."
        ) from error


def read(folder: str | Path, name: str) -> pd.DataFrame:
    """Trials of a search, from ``<results>/<data set>/<split>``, one row each.

    ``number, state`` (``COMPLETE``, ``PRUNED``, or ``FAIL`` if interrupted), ``value`` (mean
    log-loss of the pictures held out so far), ``accuracy`` of the same pictures, ``folds`` done,
    the settings, and ``seconds``.
    """
    path = Path(folder) / "tuning" / f"{name}.csv"
    return data.read_table(path, COLUMNS, made_by=f"search --recipe {name}")


def best(table: pd.DataFrame) -> pd.Series:
    """Complete trial of the smallest loss."""
    complete = table[table["state"] == "COMPLETE"]
    if complete.empty:
        raise BatikError("No trial of the search was completed: run more trials.")
    return complete.loc[complete["value"].idxmin()]


def study_of(table: pd.DataFrame) -> optuna.Study:
    """Study with the complete trials of a table, for `optuna.visualization`."""
    complete = table[table["state"] == "COMPLETE"]
    if len(complete) < 4 or complete["value"].nunique() < 2:
        raise BatikError("Figures of a search need at least four complete, differing trials.")
    spaces = {
        name: Float(float(complete[name].min()), float(complete[name].max()), log=space.log)
        for name, space in SPACES["network"].items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    for row in complete.to_dict("records"):
        values = {name: float(row[name]) for name in PARAMETERS}
        study.add_trial(
            optuna.create_trial(params=values, distributions=spaces, value=row["value"])
        )
    return study


class _Objective:
    """Score of one set of values, from the training pictures of the split alone."""

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
        self.seen = models.stages(recipe)[0][1]
        self.labels = torch.tensor(labels)
        parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
        self.folds = list(parts.split(labels, labels))
        self._pixels: torch.Tensor | None = None
        self._features: torch.Tensor | None = None
        self._views: dict[float, torch.Tensor] = {}

    def __call__(self, trial: optuna.Trial) -> float:
        """Mean log-loss (nats) of the held-out pictures; TrialPruned if not promising."""
        recipe = replace(self.recipe, **trial.params)
        losses, right = [], []
        for number, (learn, held) in enumerate(self.folds):
            try:
                probabilities = self._fold(recipe, number, learn, held)
            except training.Diverged as error:
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

    def _fold(self, recipe: Recipe, number: int, learn: np.ndarray, held: np.ndarray) -> np.ndarray:
        """Train on one part and return the (n, K) probabilities of the other."""
        setup, n_classes = self.setup, len(self.dataset.classes)
        if self._pixels is None:
            self._pixels = transforms.load_pixels(self.dataset, self.seen)
        views = None
        if recipe.frozen == "backbone":
            views = self._views_of(recipe)[:, learn]
        examples = training.Examples(self._pixels[learn], self.labels[learn])
        # the same random numbers in every trial, so that the values alone make the difference
        with training.seeded(_seed(self.seed, number)) as generator:
            if views is None:
                model, _ = models.build(recipe, n_classes, setup.weights_directory)
            else:
                model = models.build_untrained(recipe, n_classes)
            model.to(setup.device, memory_format=torch.channels_last)
            if views is None:
                learner = model
                batches = training.batches(examples, recipe, self.seen, generator, setup.device)
            else:
                learner = model.head
                batches = training.view_batches(views, examples.labels, recipe, generator)
            training.fit(learner, recipe, batches, precision=setup.precision)
        if views is None:
            held_pixels = self._pixels[held]
            return training.predict(model, self.seen, held_pixels, precision=setup.precision)
        model.eval()
        with torch.no_grad():
            return model.head(self._features[held]).double().softmax(1).cpu().numpy()

    def _views_of(self, recipe: Recipe) -> torch.Tensor:
        """(V, N, F) features of a frozen backbone; each strength is computed once."""
        if recipe.augment not in self._views:
            setup = self.setup
            with training.seeded(self.seed) as generator:
                model, _ = models.build(recipe, len(self.dataset.classes), setup.weights_directory)
                model.to(setup.device)
                self._views[recipe.augment] = training.views_of(
                    model, self.seen, self._pixels, recipe, generator, setup.precision
                )
                if self._features is None:
                    self._features = training.features(
                        model, self.seen, self._pixels, precision=setup.precision
                    )
        return self._views[recipe.augment]


def _run(
    study: optuna.Study, objective: _Objective, trials: int, seed: int, csv: Path, on_trial: OnTrial
) -> None:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    log.info("%d of %d trials are there already", len(done), trials)
    recipe, space = objective.recipe, space_of(objective.recipe)
    for number in tqdm(range(len(done), trials), desc=f"Trials of {recipe.name}", disable=None):
        # a sampler of its own for each trial, so that a resumed search proposes the same values
        study.sampler = optuna.samplers.TPESampler(seed=_seed(seed, number))
        if number == 0:
            study.enqueue_trial(_within(recipe, space), skip_if_exists=False)
        trial = study.ask(fixed_distributions=space)
        clock = time.perf_counter()
        try:
            value, state = objective(trial), TrialState.COMPLETE
        except optuna.TrialPruned:
            value, state = None, TrialState.PRUNED
        trial.set_user_attr("seconds", round(time.perf_counter() - clock, 3))
        study.tell(trial, value, state)
        table = _write(study, csv)
        if on_trial is not None:
            row = table[table["number"] == trial.number].iloc[0].to_dict()
            on_trial(recipe, row, objective.setup.dataset.digest)


def _within(recipe: Recipe, space: dict[str, Float | Int]) -> dict[str, float]:
    """The recipe's own values, each moved to the nearest one that the ranges allow."""
    values = {}
    for name, span in space.items():
        value = min(max(getattr(recipe, name), span.low), span.high)
        if span.step:
            value = span.low + round((value - span.low) / span.step) * span.step
        values[name] = value
    return values


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _settings(setup: Setup, recipe: Recipe, folds: int, seed: int) -> dict:
    """What trials must agree in to be of one search."""
    plain = asdict(recipe)
    for name in ("name", "family", "published"):
        del plain[name]
    space = {name: [s.low, s.high, s.step, s.log] for name, s in space_of(recipe).items()}
    settings = {
        "recipe": plain,
        "space": space,
        "dataset": setup.dataset.digest,
        "split": setup.split_name,
        "folds": folds,
        "seed": seed,
        "precision": setup.precision,
    }
    return json.loads(json.dumps(settings))


def _open(path: Path, name: str, settings: dict) -> optuna.Study:
    """Open the search's journal, or begin it."""
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
            f"begin again, or use another results folder."
        )
    return study


def _write(study: optuna.Study, path: Path) -> pd.DataFrame:
    """Write the finished trials as CSV."""
    rows = [
        {
            "number": trial.number,
            "state": trial.state.name,
            "value": trial.value,
            "folds": len(trial.intermediate_values),
            **trial.params,
            **trial.user_attrs,
        }
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished()
    ]
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"value": float})
    data.write_table(table, path)
    return table
