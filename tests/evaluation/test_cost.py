"""Costs are measured for networks and baselines alike, and kept beside each other."""

import shutil

import pandas as pd
import pytest

from batik_utils import experiments, models
from batik_utils.errors import BatikError
from batik_utils.evaluation import cost

pytestmark = pytest.mark.usefixtures("without_batik_settings")


@pytest.fixture
def setup(small_dataset, tmp_path, toy):
    return experiments.prepare(small_dataset, "stratified-0", results=tmp_path, device="cpu")


def test_a_row_a_recipe_beside_earlier_rows(setup, toy):
    first = cost.measure(setup, "toy,majority", repetitions=2, progress=False)
    assert list(first.columns) == list(cost.COLUMNS)
    assert set(first["recipe"]) == {"toy", "majority"}
    assert (first["latency_ms"] > 0).all()
    size = first.set_index("recipe").loc["toy", "megabytes"]
    state = models.build_untrained(toy, 3).state_dict()
    assert size * 1e6 == sum(t.numel() * t.element_size() for t in state.values())
    second = cost.measure(setup, "colour_histogram", repetitions=1, progress=False)
    assert set(second["recipe"]) == {"toy", "majority", "colour_histogram"}
    again = cost.measure(setup, "majority", repetitions=1, progress=False)
    assert len(again) == 3
    pd.testing.assert_frame_equal(cost.read(setup.store.folder).round(2), again.round(2), atol=0.02)


def test_the_final_model_is_measured_with_them(setup, model_folder):
    folder = setup.store.folder.parent / "model"
    shutil.copytree(model_folder, folder)
    table = cost.measure(setup, "majority", repetitions=1, progress=False).set_index("recipe")
    assert list(table.index) == ["majority", "final"]
    assert table.loc["final", "latency_ms"] > 0
    size = (folder / "model.onnx").stat().st_size
    assert table.loc["final", "megabytes"] == pytest.approx(size / 1e6)


def test_nothing_measured_yet(tmp_path):
    assert cost.read(tmp_path).empty


def test_unknown_recipes_are_refused(setup):
    with pytest.raises(BatikError, match="Unknown recipe"):
        cost.measure(setup, "nothing", progress=False)
