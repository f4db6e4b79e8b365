"""Runs in MLflow where it is asked for."""

from pathlib import Path

import pytest

from batik_utils import experiments
from batik_utils.errors import BatikError
from batik_utils.scale import mlflow_runs

mlflow = pytest.importorskip("mlflow", reason="needs the extra 'scale'")


def test_every_run_is_sent_with_settings_curves_and_tables(make, toy, tmp_path, monkeypatch):
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)  # artefacts go beside it
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    setup, server = make(), mlflow.MlflowClient(tracking_uri=address)
    experiments.run_grid(setup, "toy,majority", 1, on_run=mlflow_runs.logger())
    experiment = server.get_experiment_by_name("batik")
    runs = {run.info.run_name: run for run in server.search_runs([experiment.experiment_id])}
    rows = setup.store.read("runs").set_index("run")
    assert set(runs) == set(rows.index)
    run, row = runs["toy-e2-f0-s0"], rows.loc["toy-e2-f0-s0"]
    assert run.info.status == "FINISHED"
    wanted = {"batch_size": "8", "fold": "0", "architecture": "toy"}
    assert {name: run.data.params[name] for name in wanted} == wanted
    assert run.data.metrics["accuracy"] == pytest.approx(row["accuracy"], abs=1e-5)
    assert run.data.tags["dataset"] == setup.dataset.digest
    losses = setup.store.read("history")["train_loss"].tolist()
    curve = server.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in curve] == [1, 2]
    assert [point.value for point in curve] == pytest.approx(losses, abs=1e-4)
    files = {file.path for file in server.list_artifacts(run.info.run_id)}
    assert files == {"predictions.csv", "history.csv"}
    path = server.download_artifacts(run.info.run_id, "predictions.csv", str(tmp_path))
    assert len(Path(path).read_text().splitlines()) == 1 + row["n_test"]


def test_mlflow_that_does_not_answer_is_told_before_training(tmp_path, monkeypatch):
    # MLflow takes no folder of files any more, unless it is told to
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    with pytest.raises(BatikError, match=r"cannot be used .*sqlite:///mlflow\.db"):
        mlflow_runs.logger()
