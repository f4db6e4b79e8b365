"""Runs in MLflow, where ``MLFLOW_TRACKING_URI`` is set.

    MLFLOW_TRACKING_URI=sqlite:///mlflow.db python -m batik_utils train ...

They go to the experiment ``MLFLOW_EXPERIMENT_NAME``; the CSV files stay what counts.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict

import pandas as pd

from batik_utils.errors import BatikError, need
from batik_utils.recipes import Recipe


def logger() -> Callable[[Recipe, dict, pd.DataFrame, pd.DataFrame], None]:
    """Return `log_run`, after a look whether MLflow takes runs."""
    mlflow = need("mlflow", "MLFLOW_TRACKING_URI")
    # tables are made when a database is first opened, with a line for each step
    for chatty in ("alembic", "mlflow"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    try:
        mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME") or "batik")
    except mlflow.exceptions.MlflowException as error:
        raise BatikError(
            f"MLflow at {os.environ['MLFLOW_TRACKING_URI']} cannot be used ({error}): use another "
            f"MLFLOW_TRACKING_URI, e.g. sqlite:///mlflow.db, or unset it."
        ) from error
    return log_run


def log_run(recipe: Recipe, row: dict, predictions: pd.DataFrame, history: pd.DataFrame) -> None:
    """Send one finished run's settings, scores, curves and tables, see `experiments.run_grid`."""
    mlflow = need("mlflow", "MLFLOW_TRACKING_URI")
    tags = {"dataset": row["dataset"], "mlflow.source.git.commit": row["git"]}
    try:
        with mlflow.start_run(run_name=row["run"], tags=tags):
            measured = _measured(row)
            mlflow.log_metrics(measured)
            mlflow.log_params(asdict(recipe) | {k: row[k] for k in row if k not in measured})
            for epoch in history.to_dict("records"):
                mlflow.log_metrics(_measured(epoch), step=int(epoch["epoch"]))
            mlflow.log_text(predictions.to_csv(index=False), "predictions.csv")
            mlflow.log_text(history.to_csv(index=False), "history.csv")
    except mlflow.exceptions.MlflowException as error:
        raise BatikError(
            f"'{row['run']}' is finished and written, but MLflow does not take it ({error}): mend "
            f"that, or unset MLFLOW_TRACKING_URI."
        ) from error


def _measured(values: dict) -> dict[str, float]:
    """Fractional numbers: what was chosen is text or whole."""
    floats = {name: value for name, value in values.items() if isinstance(value, float)}
    return {name: value for name, value in floats.items() if math.isfinite(value)}
