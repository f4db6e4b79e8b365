"""The bench runs and writes what it says; no test looks at how long anything took."""

import json
from dataclasses import replace

import pandas as pd
import pytest
import standin
import torch
from conftest import THREE, draw

from batik_utils import recipes
from batik_utils.__main__ import main
from batik_utils.classifier import final
from batik_utils.classifier.embedding import Branch
from batik_utils.errors import BatikError
from batik_utils.scale import benchmark as bench
from batik_utils.scale import timing
from batik_utils.scale.timing import Race, Ratio

pytestmark = pytest.mark.usefixtures("without_batik_settings")


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_sides_are_timed_in_turn_after_a_warm_up():
    order = []
    race = Race(
        {"a": lambda k: order.append(("a", k)), "b": lambda k: order.append(("b", k))}, 2, ()
    )
    seconds = timing.timed(race)
    assert order == [(side, k) for k in (0, 1, 2) for side in "ab"]
    assert [len(values) for values in seconds.values()] == [2, 2]
    # a side may say what counts
    assert timing.timed(Race({"a": lambda k: 10.0 * k}, 3, ())) == {"a": [10.0, 20.0, 30.0]}


def test_a_ratio_is_of_pairs_and_its_aim_is_met_or_missed():
    seconds = {"slow": [2.0, 6.0, 4.0], "fast": [1.0, 1.0, 2.0], "part": [0.5, 0.25, 0.5]}
    ratio = Ratio("x", "slow", "fast", "why", aim=2, parts=("part",))
    row = timing.as_row(ratio, seconds)
    assert tuple(row) == timing.COLUMNS
    assert (row["reference"], row["measured"]) == (4, 1)
    assert (row["ratio"], row["ratio_min"], row["ratio_max"], row["repetitions"]) == (2, 2, 6, 3)
    assert row["met"]
    assert row["time_goes_into"] == "part 500 ms"
    both = timing.as_row(replace(ratio, reference_parts=("slow",)), seconds)
    assert both["time_goes_into"] == "part 500 ms; the reference's into: slow 4 s"
    assert not timing.as_row(Ratio("x", "slow", "fast", "", aim=2.1), seconds)["met"]
    assert timing.as_row(Ratio("x", "slow", "fast", ""), seconds)["met"]
    assert timing.as_row(Ratio("x", "slow", "fast", "", limit_s=1), seconds)["met"]
    assert not timing.as_row(Ratio("x", "slow", "fast", "", limit_s=0.9), seconds)["met"]
    assert timing.as_row(Ratio("x", "slow", "fast", "", times=50), seconds)["ratio"] == 100


def test_a_missed_aim_is_said_with_its_parts():
    rows = [
        timing.as_row(
            Ratio(name, "slow", "fast", "", aim=aim, parts=("part",)),
            {"slow": [8.0], "fast": [1.0], "part": [0.75]},
        )
        for name, aim in (("reached", 4), ("not reached", 40))
    ]
    text = timing.summary(pd.DataFrame(rows))
    assert text.count("MISSED") == 1
    assert "Missed: not reached. The measured side's time goes into: part 750 ms." in text


def test_what_was_missed_is_told_in_the_notebook(tmp_path):
    assert timing.read(tmp_path) is None
    assert "Not measured here" in timing.describe(timing.read(tmp_path))
    seconds = {"slow": [8.0], "fast": [1.0], "part": [0.75]}
    rows = [
        timing.as_row(Ratio("reached", "slow", "fast", "", aim=4), seconds),
        timing.as_row(Ratio("not reached", "slow", "fast", "", aim=40, parts=("part",)), seconds),
        timing.as_row(Ratio("far away", "slow", "fast", "", aim=4000), seconds),
        timing.as_row(Ratio("too slow", "slow", "fast", "", limit_s=0.5), seconds),
        timing.as_row(Ratio("no aim", "slow", "fast", ""), seconds),
    ]
    timing.write(pd.DataFrame(rows).assign(**timing.machine()), tmp_path / "bench.csv")
    text = timing.describe(timing.read(tmp_path))
    assert "1 of 4 aims are reached" in text
    assert "**Missed:** far away: 8 times in place of 4,000 times." in text
    assert "**Missed:** not reached: 8 times in place of 40 times." in text
    assert "The time goes into: part 750 ms." in text
    assert "**Missed:** too slow: 1 s in place of 0.5 s.\n" in text + "\n"


@pytest.fixture
def larger_root(tmp_path):
    """Pictures that are large enough to be answered about."""
    root = tmp_path / "pictures"
    for folder, count in THREE.items():
        (root / folder).mkdir(parents=True)
        for number in range(1, count + 1):
            draw(folder[6:], number, side=48).save(root / folder / f"{number}.jpg")
    return root


@pytest.fixture
def small(toy, tmp_path_factory, monkeypatch):
    """Toy recipes in place of the real ones, and a stand-in model made of one small branch."""
    fixed = replace(toy, name="mobilenet_v2_probe", frozen="backbone")
    monkeypatch.setitem(recipes.RECIPES, "mobilenet_v2_probe", fixed)
    monkeypatch.setattr(bench, "QUICK", replace(bench.QUICK, scratch="toy"))
    monkeypatch.setattr(bench, "_published_b2", lambda: torch.nn.AdaptiveAvgPool2d(1))
    monkeypatch.setattr(final, "subsets", lambda: {"small": (Branch("efficientnet_lite0", (0,)),)})
    folder = standin.write(tmp_path_factory.mktemp("bench") / "model")
    metrics = json.dumps({"model": {"candidate": "small lda 0.3"}})
    (folder / "metrics.json").write_text(metrics)
    standin.seal(folder)
    return folder


def test_everything_runs_and_writes_its_columns(larger_root, tmp_path, small, capsys):
    words = ["bench", "--quick", "--data", "folder", "--root", str(larger_root)]
    words += ["--model", str(small), "--output", str(tmp_path), "--results", str(tmp_path / "r")]
    assert main(words) == 0
    table = pd.read_csv(tmp_path / "bench.csv")
    assert tuple(table.columns[: len(timing.COLUMNS)]) == timing.COLUMNS
    facts = {"cpu", "cores", "torch_threads", "torch", "onnxruntime", "date", "dataset"}
    assert facts <= set(table.columns)
    assert table["name"].is_unique
    assert len(table) == 13
    assert (table[["reference", "measured", "ratio"]] > 0).all().all()
    assert (table["ratio_min"] <= table["ratio"]).all()
    assert (table["ratio"] <= table["ratio_max"]).all()
    times = pd.read_csv(tmp_path / "repetitions.csv")
    assert tuple(times.columns) == timing.REPETITION_COLUMNS
    assert set(times["name"]) == {
        *("scratch_epoch", "frozen_recipe", "protocol", "one_picture", "folder", "start_up"),
    }
    assert (times["seconds"] > 0).all()
    shown = capsys.readouterr().out
    assert all(name in shown for name in table["name"])
    # the aims of the issue, each at its figure
    aims = table.set_index("name")["aim"].dropna()
    assert sorted(aims.round(2)) == [0.87, 2, 2.5, 4, 15, 40, 500, 1000, 1000]
    assert sorted(table["limit_s"].dropna()) == [0.3, 1]


def test_a_model_of_unknown_layers_is_refused(model_folder):
    with pytest.raises(BatikError, match="does not name the layers"):
        bench.eager_twin(model_folder)
