"""Search a recipe's settings on the training pictures of a split; a search resumes.

A trial's score is the mean log-loss (nats) of stratified cross-validation inside the training
pictures. Optuna proposes values (TPE) and prunes trials worse than the median after as many folds.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sklearn.model_selection import StratifiedKFold
from tqdm.auto import tqdm

from batik_utils import data, experiments, recipes, training
from batik_utils.errors import BatikError
from batik_utils.experiments import Setup
from batik_utils.recipes import Recipe

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
#: Columns of ``tuning/<recipe>.csv``, explained in results/README.md.
COLUMNS = ("number", "state", "value", "accuracy", "folds", *PARAMETERS, "seconds")


def search(
    setup: Setup, name: str, trials: int = 30, *, folds: int = 4, seed: int = 0
) -> pd.DataFrame:
    """Bring a recipe's search to a number of finished trials and write ``tuning/<recipe>.csv``.

    The first trial is the recipe itself, brought into the ranges. All random numbers follow from
    the seed and the number of finished trials; an interrupted trial is repeated.
    """
    recipe = recipes.get(name)
    if trials < 1 or recipe.family == "baseline" or setup.folds is not None:
        raise BatikError(
            f"A search takes 1 trial or more, a network (is '{name}'?) and one set of training "
            f"pictures (not --grid cv)."
        )
    inner = _inside(setup, folds, seed)
    space = SPACES["head" if recipe.frozen == "backbone" else "network"]
    path = setup.store.folder / "tuning" / f"{name}.csv"
    facts = {"dataset": setup.dataset.digest, "split": setup.split_name, "folds": folds}
    facts |= {"seed": seed, "precision": setup.precision, "recipe": repr(recipe)}
    study = _open(path.with_suffix(".log"), facts | {"space": repr(space)})
    for trial in study.get_trials(states=(TrialState.RUNNING,)):  # it was interrupted
        study.tell(trial.number, state=TrialState.FAIL)
    done = len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))
    for number in tqdm(range(done, trials), desc=f"Trials of {name}", disable=None):
        # a sampler of its own for each trial, so that a resumed search proposes the same values
        study.sampler = optuna.samplers.TPESampler(seed=_seed(seed, number))
        if number == 0:
            study.enqueue_trial({key: _nearest(getattr(recipe, key), space[key]) for key in space})
        trial = study.ask(fixed_distributions=space)
        try:
            study.tell(trial, _score(trial, inner, replace(recipe, **trial.params), seed))
        except (optuna.TrialPruned, training.Diverged):
            study.tell(trial, state=TrialState.PRUNED)
        _write(study, path)
    return _write(study, path)


def read(folder: str | Path, name: str) -> pd.DataFrame:
    """Trials of a search, from ``<results>/<data set>/<split>``, one row each."""
    path = Path(folder) / "tuning" / f"{name}.csv"
    return data.read_table(path, COLUMNS, made_by=f"search --recipes {name}")


def best(table: pd.DataFrame) -> pd.Series:
    """Complete trial of the smallest loss."""
    complete = table[table["state"] == "COMPLETE"]
    if complete.empty:
        raise BatikError("No trial of the search was completed: run more trials.")
    return complete.loc[complete["value"].idxmin()]


def _inside(setup: Setup, folds: int, seed: int) -> Setup:
    """Set-up of a cross-validation of the training pictures; the others are not opened."""
    manifest = setup.dataset.manifest.iloc[setup.rows("train")].reset_index(drop=True)
    dataset = replace(setup.dataset, manifest=manifest)
    if not 2 <= folds <= manifest["motif"].value_counts().min():
        raise BatikError(f"There cannot be {folds} folds of these training pictures.")
    table = manifest[["path", "motif"]].assign(dataset=dataset.digest, repeat_0=0)
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for number, (_, held) in enumerate(parts.split(dataset.labels, dataset.labels)):
        table.loc[held, "repeat_0"] = number
    chosen = (setup.device, setup.precision)
    return Setup(dataset, setup.split_name, setup.split, setup.store, *chosen, table)


def _score(trial: optuna.Trial, setup: Setup, recipe: Recipe, seed: int) -> float:
    """Mean log-loss (nats) of the pictures that are held out, fold by fold."""
    folds = []
    for number in range(setup.n_folds):
        # the same random numbers in every trial, so that the values alone make the difference;
        # a frozen backbone's views are drawn once for all folds
        own = seed if recipe.frozen == "backbone" else _seed(seed, number)
        row = experiments.train(setup.at(0, number), recipe, own)[1].row
        folds.append((row["nll"], row["accuracy"], row["n_test"]))
        losses, right, sizes = zip(*folds, strict=True)
        trial.set_user_attr("accuracy", float(np.average(right, weights=sizes)))
        trial.set_user_attr("folds", len(folds))
        trial.report(np.average(losses, weights=sizes), len(folds))
        if len(folds) < setup.n_folds and trial.should_prune():
            raise optuna.TrialPruned
    return float(np.average(losses, weights=sizes))


def _nearest(value: float, space: Float | Int) -> float:
    value = min(max(value, space.low), space.high)
    return space.low + round((value - space.low) / space.step) * space.step if space.step else value


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _open(path: Path, facts: dict) -> optuna.Study:
    """Open the search's journal, or begin it; ``facts`` is what its trials must agree in."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        # open() locks work where links do not, e.g. on a mounted Google Drive
        backend = JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path)))
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(backend),
            study_name=path.stem,
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
        )
        found = study.user_attrs.get("settings", facts)
    except (ValueError, KeyError) as error:
        raise BatikError(f"{path} is damaged ({error}): remove it to search again.") from error
    if odd := [key for key in facts if found.get(key) != facts[key]]:
        raise BatikError(f"The search at {path} has another {' and '.join(odd)}: remove the file.")
    study.set_user_attr("settings", facts)
    return study


def _write(study: optuna.Study, path: Path) -> pd.DataFrame:
    table = study.trials_dataframe(("number", "state", "value", "duration", "params", "user_attrs"))
    table.columns = [name.removeprefix("params_").removeprefix("user_attrs_") for name in table]
    table["seconds"] = table["duration"].dt.total_seconds()
    table = table.reindex(columns=COLUMNS).astype({"value": float})
    data.write_table(table, path)
    return table
