"""Runs in MLflow, where ``MLFLOW_TRACKING_URI`` is set.

    MLFLOW_TRACKING_URI=sqlite:///mlflow.db python -m batik_utils train ...

Every run's settings, scores, curves and tables go to the experiment ``MLFLOW_EXPERIMENT_NAME``
(``batik`` if unset). The CSV files stay what results are computed from.
Source: Chen et al., Developments in MLflow, 2020; https://mlflow.org/docs/latest.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import asdict

import pandas as pd

from batik_utils.errors import BatikError, need
from batik_utils.recipes import Recipe

#: Values of a run's row that were measured; the other ones were chosen.
_MEASURED = (
    *("accuracy", "precision_macro", "recall_macro", "f1_macro", "nll", "brier"),
    *("train_seconds", "train_images_per_second"),
)


def logger() -> Callable[[Recipe, dict, pd.DataFrame, pd.DataFrame], None]:
    """Return `log_run`, after a look whether MLflow takes runs.

    Raises:
        BatikError: MLflow is not installed, or does not take runs.
    """
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
    """Send one finished run to MLflow, see `experiments.run_grid`.

    Raises:
        BatikError: MLflow does not take the run.
    """
    mlflow = need("mlflow", "MLFLOW_TRACKING_URI")
    tags = {"dataset": row["dataset"], "mlflow.source.git.commit": row["git"]}
    settings = asdict(recipe) | {k: v for k, v in row.items() if k not in _MEASURED}
    try:
        with mlflow.start_run(run_name=row["run"], tags=tags):
            mlflow.log_params(settings)
            mlflow.log_metrics({k: float(row[k]) for k in _MEASURED if math.isfinite(row[k])})
            for epoch in history.astype(float).to_dict("records"):
                step = int(epoch.pop("epoch"))
                finite = {name: value for name, value in epoch.items() if math.isfinite(value)}
                mlflow.log_metrics(finite, step=step)
            for name, table in (("predictions", predictions), ("history", history)):
                if len(table):
                    mlflow.log_text(table.to_csv(index=False), f"{name}.csv")
    except mlflow.exceptions.MlflowException as error:
        raise BatikError(
            f"'{row['run']}' is finished and written, but MLflow at "
            f"{os.environ['MLFLOW_TRACKING_URI']} does not take it ({error}): mend that, or unset "
            f"MLFLOW_TRACKING_URI."
        ) from error
