"""A search by Optuna whose trials run on a Ray cluster: Ray Tune with the Optuna searcher.

The trials are kept in the study that is handed in, so a search that was begun on one machine goes
on on a cluster, and the other way round. Trials that run at the same time cannot learn from each
other: with several workers the proposals depend on which one ends first.
Sources: Liaw et al., Tune, 2018 (https://arxiv.org/abs/1807.05118); Golovin et al., Google Vizier,
2017, for the median stopping rule.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import optuna

from batik_utils import cluster, optional
from batik_utils.errors import BatikError

#: Trials that end before the median of the others stops one, as of `tuning`.
START_UP = 5


def run(
    address: str,
    objective: Callable[[optuna.trial.BaseTrial], float],
    space: Mapping[str, optuna.distributions.BaseDistribution],
    study: optuna.Study,
    trials: int,
    *,
    steps: int,
    folder: Path,
    first: Mapping[str, float] | None,
    seed: int,
    gpus: int = 0,
    on_trial: Callable[[], None],
) -> None:
    """Add finished trials to a study.

    Args:
        address: see `cluster.connected`.
        objective: as for Optuna; reports after each of its steps, 1 to ``steps``, having set the
            attribute ``accuracy``.
        space: what is searched.
        study: what the trials are added to, with a storage of its own.
        trials: how many.
        steps: of a whole trial; one that ends earlier counts as pruned.
        folder: for what Tune writes while it runs. On several machines all must see it.
        first: values to begin with, or None.
        seed: of the proposals.
        gpus: of one trial.
        on_trial: called after each trial.

    Raises:
        BatikError: no cluster answers, or a trial failed.
    """
    # before the import: no second set of logs, and no status table
    os.environ |= {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
    tune = optional.need("ray.tune", "--ray")
    schedulers = optional.need("ray.tune.schedulers", "--ray")
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    with cluster.connected(address):
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_trial, objective=objective), {"cpu": 1, "gpu": gpus}
            ),
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                num_samples=trials,
                max_concurrent_trials=cluster.cpus(),
                search_alg=_searcher(space, study, steps, first, seed, on_trial),
                scheduler=schedulers.MedianStoppingRule(
                    grace_period=1, min_samples_required=START_UP
                ),
            ),
            run_config=tune.RunConfig(
                name="ray",
                storage_path=str(folder.resolve()),
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=cluster.RETRIES),
            ),
        )
        errors = tuner.fit().errors
    if errors:
        last = str(errors[0]).strip().splitlines()[-1]
        raise BatikError(f"{len(errors)} of {trials} trials failed, the first with: {last}")


class _Reporting(optuna.trial.FixedTrial):
    """Values that were proposed elsewhere; what is reported goes to Tune."""

    def __init__(self, values: Mapping[str, float]):
        super().__init__(dict(values))
        self._clock = time.perf_counter()

    def report(self, value: float, step: int) -> None:
        """Send a step to Tune, which may end the process."""
        self.send(loss=value, steps=step)

    def send(self, **figures: float) -> None:
        """Send figures with the accuracy and the time so far."""
        from ray import tune

        accuracy = self.user_attrs.get("accuracy", math.nan)
        seconds = max(0.001, round(time.perf_counter() - self._clock, 3))
        tune.report({"accuracy": accuracy, "seconds": seconds, **figures})


def _trial(values: Mapping[str, float], objective: Callable) -> None:
    """Run one trial in a worker process."""
    trial = _Reporting(values)
    try:
        objective(trial)
    except optuna.TrialPruned:
        trial.send(loss=math.inf, steps=0)


def _searcher(
    space: Mapping[str, optuna.distributions.BaseDistribution],
    study: optuna.Study,
    steps: int,
    first: Mapping[str, float] | None,
    seed: int,
    on_trial: Callable[[], None],
):
    from ray.tune.search.optuna import OptunaSearch

    class Searcher(OptunaSearch):
        """Optuna's, which also tells whole trials from those that were stopped."""

        def on_trial_result(self, trial_id: str, result: dict) -> None:
            trial = self._ot_trials[trial_id]
            trial.set_user_attr("accuracy", result["accuracy"])
            trial.set_user_attr("seconds", result["seconds"])
            # again after a worker died: the same figures, which Optuna has already
            known = study._storage.get_trial(trial._trial_id).intermediate_values
            if math.isfinite(result["loss"]) and result["steps"] not in known:
                trial.report(result["loss"], result["steps"])

        def on_trial_complete(
            self, trial_id: str, result: dict | None = None, error: bool = False
        ) -> None:
            ended = result is not None and "steps" in result
            if ended and not error:
                # the result that made Tune stop a trial comes here alone
                self.on_trial_result(trial_id, result)
            # a loss that is no number is no result either
            whole = ended and result["steps"] == steps and math.isfinite(result["loss"])
            super().on_trial_complete(trial_id, result if whole and not error else None, error)
            on_trial()

        # the study keeps the state; Tune's own copies of the searcher are never opened
        def save(self, checkpoint_path: str) -> None:
            Path(checkpoint_path).touch()

        def __reduce__(self):
            return str, ("the study keeps the state",)

        def __deepcopy__(self, memo):
            return self

    return Searcher(
        space=dict(space),
        metric="loss",
        mode="min",
        points_to_evaluate=[dict(first)] if first else None,
        # others of its time count as bad for the sampler, so that it does not propose them again
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        study_name=study.study_name,
        storage=study._storage,
    )
