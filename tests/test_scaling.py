"""Scaling efficiency: what counts as the stretch in which all workers are at work."""

import pandas as pd
import pytest

from batik_utils import optional, predict, scaling, synthetic
from batik_utils.errors import BatikError


def batches(*rows):
    return pd.DataFrame(rows, columns=["worker", "time", "pictures"])


def test_one_worker_answers_after_its_first_batch():
    # 8 pictures in 2 s, then 8 in 1 s; the first batch only starts the clock
    assert scaling.speed(batches((1, 5.0, 8), (1, 7.0, 8), (1, 8.0, 8))) == pytest.approx(16 / 3)


def test_only_the_time_in_which_all_are_at_work_counts():
    slow_start = batches(
        *[(1, float(t), 4) for t in range(1, 11)],  # 4 a second from 1 to 10
        *[(2, float(t), 4) for t in range(6, 21)],  # 4 a second from 6 to 20, half of it alone
    )
    assert scaling.speed(slow_start) == pytest.approx(8)
    # a pause in between counts
    paused = slow_start[~slow_start["time"].isin([7, 8, 9])]
    assert scaling.speed(paused) == pytest.approx(2)


def test_workers_that_did_not_overlap_are_refused():
    with pytest.raises(BatikError, match="measure with more pictures"):
        scaling.speed(batches((1, 1.0, 8), (1, 2.0, 8), (2, 3.0, 8), (2, 4.0, 8)))
    with pytest.raises(BatikError, match="from 1 worker on"):
        scaling.measure_scaling([])
    with pytest.raises(BatikError, match="from 1 worker on"):
        scaling.measure_scaling(["a.png"], workers=(2,))


def test_two_workers_are_measured(model_folder, tmp_path, monkeypatch):
    pytest.importorskip("ray", reason=f"needs the extra 'scale': {optional.INSTALL}")
    monkeypatch.setattr(scaling, "BATCHES", 12)
    path = tmp_path / "cloth.png"
    synthetic.draw("tambal", 0, (120, 100)).save(path)
    table = scaling.measure_scaling([path], repetitions=1, model=model_folder)
    assert tuple(table.columns) == scaling.COLUMNS
    assert table["name"].str.contains("1 worker$|2 workers$").all()
    assert (table["measured"] > 0).all()
    # speeds are for an idle machine to tell; that they belong together is for any
    pd.testing.assert_series_equal(
        table["ratio"], table["reference"] / table["measured"], check_names=False
    )
    assert table["reference"][1] == pytest.approx(table["measured"][0] / 2)


# --- the plan ---------------------------------------------------------------------------------


def a_plan(**changes):
    numbers = {
        "pictures": 3_600_000,
        "megabytes": 0.5,
        "cores": 10,
        "gigabits": 10.0,
        "answers_per_second": 2000.0,
    }
    return scaling.plan({"open": 0.03, "model": 0.07}, **numbers | changes)


def test_the_plan_names_what_everything_waits_for():
    table = a_plan()
    # 0.1 s a picture on 10 cores; 4 Mbit at 10 Gbit/s; 2000 lines a second
    assert table["hours"].tolist() == pytest.approx([10, 0.4, 0.5])
    assert table["bottleneck"].tolist() == [True, False, False]
    assert a_plan(cores=1000)["bottleneck"].tolist() == [False, False, True]
    assert a_plan(cores=1000, gigabits=1)["bottleneck"].tolist() == [False, True, False]
    with pytest.raises(BatikError, match="positive numbers"):
        a_plan(cores=0)


def test_the_stages_of_one_core(predictor, tmp_path):
    path = tmp_path / "cloth.png"
    synthetic.draw("tambal", 0, (120, 100)).save(path)
    stages = scaling.measure_stages(predictor, [path] * 11)
    assert list(stages) == ["open", "model"]
    assert all(0 < seconds < 1 for seconds in stages.values())
    (answer,) = predictor.predict([path])
    assert scaling.writing_speed(answer, predictor.classes, 100) > 0
    assert len(predict.row(answer, predictor.classes)) == len(predict.columns(predictor.classes))
