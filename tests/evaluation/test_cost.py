"""Costs are measured for networks, baselines and the final model."""

import shutil

import pytest

from batik_utils import data, models
from batik_utils.evaluation import cost


def test_a_row_a_recipe_and_one_of_the_final_model(make, toy, model_folder):
    setup = make()
    shutil.copytree(model_folder, setup.store.folder.parent / "model")
    cost.measure(setup, "toy,majority", repetitions=2)
    table = data.read_table(setup.store.folder / "cost.csv").set_index("recipe")
    assert set(table.index) == {"majority", "toy", "final"} and (table["latency_ms"] > 0).all()
    state = models.build_untrained(toy, 3).state_dict()
    size = {"toy": sum(t.numel() * t.element_size() for t in state.values())}
    size["final"] = (model_folder / "model.onnx").stat().st_size
    for name, n in size.items():
        assert table.loc[name, "megabytes"] == pytest.approx(n / 1e6, abs=1e-3)
