"""The benchmark runs, and its ratios are limit / measured of sides that are timed in turn."""

from batik_utils import data
from batik_utils.scale import benchmark

ROWS = ["predict", "folder", "app", "scratch epoch", "frozen recipe", "protocol"]


def test_sides_are_timed_in_turn_after_a_warm_up():
    calls = []
    work = [lambda: calls.append("limit"), lambda: calls.append("work") or 2.5]
    _, seconds = benchmark.in_turn(work, 2)
    assert calls == ["limit", "work"] * 3
    assert list(seconds) == [2.5, 2.5]  # work that says itself how many seconds count


def test_every_row_is_written(small_dataset, model_folder, tmp_path, monkeypatch):
    sizes = {"REPETITIONS": 1, "FOLDS": 2, "REPEATS": 1, "PICTURES": 2, "WITH_RAY": 4}
    for name, value in sizes.items():
        monkeypatch.setattr(benchmark, name, value)
    monkeypatch.setattr(benchmark.cost, "measure", lambda setup, names, repetitions: None)
    benchmark.run(small_dataset, tmp_path / "bench", model=str(model_folder), ray="local")
    table = data.read_table(tmp_path / "bench" / "bench.csv")
    assert list(table["name"]) == [*ROWS, "worker"]
    assert (table["ratio"] > 0).all()
    assert not table.isna().any().any()
