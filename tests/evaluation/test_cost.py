"""Costs are measured for networks, baselines and the final model, and kept beside each other."""

import shutil

import pytest

from batik_utils import data, models
from batik_utils.evaluation import cost


def test_a_row_a_recipe_beside_earlier_rows(make, toy, model_folder):
    setup = make()
    first = cost.measure(setup, "toy,majority", repetitions=2).set_index("recipe")
    assert (first["latency_ms"] > 0).all()
    state = models.build_untrained(toy, 3).state_dict()
    size = sum(t.numel() * t.element_size() for t in state.values())
    assert first.loc["toy", "megabytes"] == pytest.approx(size / 1e6, abs=1e-3)
    folder = setup.store.folder.parent / "model"
    shutil.copytree(model_folder, folder)
    again = cost.measure(setup, "majority", repetitions=1)
    assert set(again["recipe"]) == {"majority", "toy", "final"}
    size = (folder / "model.onnx").stat().st_size
    final = again.set_index("recipe").loc["final"]
    assert final["megabytes"] == pytest.approx(size / 1e6, abs=1e-3)
    written = data.read_table(setup.store.folder / "cost.csv")
    assert written["recipe"].tolist() == again["recipe"].tolist()
