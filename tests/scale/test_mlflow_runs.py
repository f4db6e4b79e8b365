"""Runs in MLflow where it is asked for, and no trace of it where it is not."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from batik_utils import experiments
from batik_utils.errors import BatikError
from batik_utils.scale import mlflow_runs as tracking

mlflow = pytest.importorskip("mlflow", reason="needs the extra 'scale'")


@pytest.fixture
def setup(without_batik_settings, small_dataset, tmp_path, toy):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield experiments.prepare(
        small_dataset, "stratified-0", results=tmp_path / "results", device="cpu"
    )
    torch.set_num_threads(before)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A data base of its own, and its artefacts beside it."""
    address = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return mlflow.MlflowClient(tracking_uri=address)


def test_every_run_is_sent_with_settings_curves_and_tables(setup, server, tmp_path):
    experiments.run_grid(setup, "toy,majority", 1, progress=False)
    experiment = server.get_experiment_by_name("batik")
    runs = {run.info.run_name: run for run in server.search_runs([experiment.experiment_id])}
    rows = setup.store.read("runs").set_index("run")
    assert set(runs) == set(rows.index)
    run, row = runs["toy-e2-f0-s0"], rows.loc["toy-e2-f0-s0"]
    assert run.info.status == "FINISHED"
    assert run.data.params["batch_size"] == "8" and run.data.params["fold"] == "0"
    assert run.data.params["architecture"] == "toy"
    assert run.data.metrics["accuracy"] == pytest.approx(row["accuracy"], abs=1e-5)
    assert run.data.tags["dataset"] == setup.dataset.digest
    history = setup.store.read("history")
    curve = server.get_metric_history(run.info.run_id, "train_loss")
    assert [point.step for point in curve] == [1, 2]
    assert [point.value for point in curve] == pytest.approx(
        history["train_loss"].tolist(), abs=1e-4
    )
    files = {file.path for file in server.list_artifacts(run.info.run_id)}
    assert files == {"predictions.csv", "history.csv"}
    path = server.download_artifacts(run.info.run_id, "predictions.csv", str(tmp_path))
    assert len(Path(path).read_text().splitlines()) == 1 + row["n_test"]
    # a second call trains nothing, and sends nothing
    experiments.run_grid(setup, "toy,majority", 1, progress=False)
    assert len(server.search_runs([experiment.experiment_id])) == 2


def test_without_the_variable_mlflow_is_not_even_imported(tmp_path):
    code = (
        "import sys, os; os.environ.pop('MLFLOW_TRACKING_URI', None);"
        "from batik_utils import tracking; tracking.check();"
        "tracking.log_run(None, {}, None, None); tracking.log_trial(None, {}, '');"
        "print([m for m in sys.modules if m.startswith('mlflow')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_mlflow_that_is_missing_or_does_not_answer_stops_before_training(
    setup, tmp_path, monkeypatch
):
    # MLflow takes no folder of files any more, unless it is told to
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    with pytest.raises(BatikError, match=r"cannot be used .*sqlite:///mlflow\.db, or unset it"):
        experiments.run_grid(setup, "toy", 1, progress=False)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(BatikError, match=r"MLFLOW_TRACKING_URI needs the package 'mlflow'"):
        experiments.run_grid(setup, "toy", 1, progress=False)
    assert setup.store.read("runs").empty
    assert tracking.wanted()
