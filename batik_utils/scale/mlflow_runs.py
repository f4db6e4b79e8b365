"""Runs in MLflow, where ``MLFLOW_TRACKING_URI`` is set; nothing at all where it is not.

    MLFLOW_TRACKING_URI=sqlite:///mlflow.db python -m batik_utils train ...

Every run's settings, scores, curves and tables go to the experiment ``MLFLOW_EXPERIMENT_NAME``
(``batik`` if unset). The CSV files stay what results are computed from.
Source: Chen et al., Developments in MLflow, 2020; https://mlflow.org/docs/latest.
"""

import logging
import math
import os
import time
from collections.abc import Mapping
from dataclasses import asdict

import pandas as pd

from batik_utils.errors import BatikError, need
from batik_utils.recipes import Recipe

#: Values of a run's row that were measured; the other ones were chosen.
_MEASURED = (
    "accuracy",
    "precision_macro",
    "recall_macro",
    "f1_macro",
    "nll",
    "brier",
    "train_seconds",
    "train_images_per_second",
)
#: A setting longer than this is cut by MLflow.
_LONGEST = 500


def wanted() -> bool:
    """Return whether runs go to MLflow."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI"))


def check() -> None:
    """See that MLflow can be written to, before anything is trained for it.

    Raises:
        BatikError: it is wanted and not installed, or does not take runs.
    """
    if wanted():
        _experiment()


def log_run(recipe: Recipe, row: Mapping, predictions: pd.DataFrame, history: pd.DataFrame) -> None:
    """Send one finished run to MLflow, if that is wanted.

    Args:
        recipe: what was trained.
        row: values of ``results.RUN_COLUMNS``.
        predictions: of the test pictures.
        history: see `engine.fit`; its columns become curves over epochs.

    Raises:
        BatikError: MLflow is not installed, or does not take the run.
    """
    if not wanted():
        return
    settings = asdict(recipe) | {k: v for k, v in row.items() if k not in _MEASURED}
    scores = {name: row[name] for name in _MEASURED if name in row}
    tables = {"predictions.csv": predictions, "history.csv": history}
    curves = {name: history.set_index("epoch")[name] for name in history if name != "epoch"}
    tags = {"dataset": row["dataset"], "mlflow.source.git.commit": row["git"]}
    _send(row["run"], settings, scores, curves, tables, tags)


def log_trial(recipe: Recipe, row: Mapping, dataset: str) -> None:
    """Send one finished trial of a search to MLflow, if that is wanted.

    Args:
        recipe: what the search started from.
        row: values of ``tuning.COLUMNS``.
        dataset: digest of the data set.

    Raises:
        BatikError: MLflow is not installed, or does not take the trial.
    """
    if not wanted():
        return
    measured = ("value", "accuracy", "folds", "seconds")
    settings = asdict(recipe) | {k: v for k, v in row.items() if k not in measured}
    scores = {name: row[name] for name in measured}
    name = f"tune-{recipe.name}-{row['number']}"
    _send(name, settings, scores, {}, {}, {"dataset": dataset})


def _send(
    name: str,
    settings: Mapping,
    scores: Mapping[str, float],
    curves: Mapping[str, pd.Series],
    tables: Mapping[str, pd.DataFrame],
    tags: Mapping[str, str],
) -> None:
    entities = need("mlflow.entities", "MLFLOW_TRACKING_URI")
    exceptions = need("mlflow.exceptions", "MLFLOW_TRACKING_URI")
    now = int(time.time() * 1000)
    metrics = [
        entities.Metric(score, float(value), now, 0)
        for score, value in scores.items()
        if math.isfinite(value)
    ]
    for curve, values in curves.items():
        points = values.astype(float).dropna()
        metrics += [entities.Metric(curve, y, now, int(epoch)) for epoch, y in points.items()]
    params = [entities.Param(k, str(v)[:_LONGEST]) for k, v in settings.items()]
    client, experiment = _experiment()
    try:
        run = client.create_run(experiment, run_name=name, tags=dict(tags)).info.run_id
        client.log_batch(run, params=params)
        # MLflow takes a thousand at a time
        for start in range(0, len(metrics), 1000):
            client.log_batch(run, metrics=metrics[start : start + 1000])
        for file, table in tables.items():
            if len(table):
                client.log_text(run, table.to_csv(index=False), file)
        client.set_terminated(run)
    except exceptions.MlflowException as error:
        raise BatikError(
            f"'{name}' is finished and written, but MLflow at {os.environ['MLFLOW_TRACKING_URI']} "
            f"does not take it ({error}): mend that, or unset MLFLOW_TRACKING_URI."
        ) from error


def _experiment():
    """Return a client and the number of the experiment, which is made if it is not there."""
    mlflow = need("mlflow", "MLFLOW_TRACKING_URI")
    exceptions = need("mlflow.exceptions", "MLFLOW_TRACKING_URI")
    # tables are made when a database is first opened, with a line for each step
    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "batik"
    try:
        client = mlflow.MlflowClient()
        found = client.get_experiment_by_name(name)
        return client, found.experiment_id if found else client.create_experiment(name)
    except exceptions.MlflowException as error:
        raise BatikError(
            f"MLflow at {os.environ['MLFLOW_TRACKING_URI']} cannot be used ({error}): use another "
            f"MLFLOW_TRACKING_URI, e.g. sqlite:///mlflow.db, or unset it."
        ) from error
