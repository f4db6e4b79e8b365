"""Result files: whole rows, read as they were written, by several processes at once."""

import math
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest

from batik_utils.errors import BatikError
from batik_utils.results import NOT_RUN_COLUMNS, RUN_COLUMNS, Store

DIGEST = "d" * 64


def run_of(name: str, **changes) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    row = dict.fromkeys(RUN_COLUMNS, 1) | {
        "run": name,
        "recipe": "toy",
        "weights": "random",
        "accuracy": 13 / 15,
        "torch": "2.10",
        "git": "79e16dc",
        "dataset": DIGEST,
    }
    predictions = pd.DataFrame(
        {
            "path": ["batik-betawi/1.jpg", 'odd, "quoted" é/2.jpg'],
            "label": ["betawi", "tambal"],
            "predicted": ["betawi", "betawi"],
            "p_betawi": [0.75, 2 / 3],
            "p_tambal": [0.25, 1 / 3],
        }
    )
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [1.5, 0.5]})
    return row | changes, predictions, history


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "results" / "kaggle" / "course")


def test_nothing_is_there_and_nothing_made_before_the_first_run(store):
    for name in ("runs", "predictions", "history", "not_run"):
        assert store.read(name).empty
    assert tuple(store.read("runs").columns) == RUN_COLUMNS
    assert not store.has("toy-s0", DIGEST)
    assert not store.folder.exists()
    with pytest.raises(BatikError, match="Unknown result file"):
        store.read("scores")


def test_a_run_is_read_as_it_was_written(store):
    row, predictions, history = run_of("toy-s0")
    store.add(row, predictions, history)
    runs = store.read("runs")
    assert tuple(runs.columns) == RUN_COLUMNS
    for name, value in runs.iloc[0].items():
        wanted = pytest.approx(row[name], rel=1e-5) if name == "accuracy" else str(row[name])
        assert (value if name == "accuracy" else str(value)) == wanted
    for name, table in (("predictions", predictions), ("history", history)):
        written = store.read(name)
        assert set(written["run"]) == {"toy-s0"}
        pd.testing.assert_frame_equal(
            written.drop(columns="run"), table, rtol=1e-5, check_dtype=False
        )
    assert store.has("toy-s0", DIGEST)
    assert not store.has("toy-s1", DIGEST)
    assert not list(store.folder.glob("*.partial"))


@pytest.mark.parametrize("commit", ["1234e56", "0123456", "1234567", "79e1632", ""])
def test_a_commit_of_digits_stays_a_text(store, commit):
    for name in ("a", "b"):
        store.add(*run_of(name, git=commit))
    assert list(store.read("runs")["git"]) == [commit, commit]
    assert list(store.read("runs")["torch"]) == ["2.10", "2.10"]


def test_rewriting_does_not_wear_numbers_down(store):
    store.add(*run_of("first", accuracy=2 / 3, train_seconds=1234.567))
    before = store.read("runs").iloc[0]
    for k in range(5):
        store.add(*run_of(f"other-{k}"))
    assert store.read("runs").iloc[0].equals(before)
    assert store.read("runs")["seed"].dtype.kind == "i"


def test_a_number_that_is_none_stays_one(store):
    row, predictions, history = run_of("toy-s0", nll=float("nan"))
    store.add(row, predictions, history)
    store.add(*run_of("toy-s1"))
    values = store.read("runs")["nll"]
    assert values.dtype.kind == "f"
    assert math.isnan(values[0])


def test_a_repeated_run_takes_its_old_rows_place(store):
    store.add(*run_of("toy-s0", accuracy=0.25))
    store.add(*run_of("toy-s1"))
    store.add(*run_of("toy-s0", accuracy=0.75))
    runs = store.read("runs").set_index("run")
    assert runs["accuracy"].to_dict() == pytest.approx(
        {"toy-s1": 13 / 15, "toy-s0": 0.75}, rel=1e-5
    )
    assert store.read("predictions").groupby("run").size().to_dict() == {"toy-s0": 2, "toy-s1": 2}
    assert store.read("history").groupby("run").size().to_dict() == {"toy-s0": 2, "toy-s1": 2}


def test_appended_rows_are_written_as_a_whole_table_would_be(store):
    names = ["toy-s1", "toy-s10", "toy-s0"]  # the first is the beginning of the second
    for name in names:
        store.add(*run_of(name))
    for name in ("runs", "predictions", "history"):
        path = store.folder / f"{name}.csv"
        appended = path.read_bytes()
        store._replace(name, store.read(name))
        assert path.read_bytes() == appended
        assert list(store.read(name)["run"].unique()) == names


def test_a_file_with_other_columns_or_a_broken_last_line_is_not_appended_to(store):
    row, predictions, history = run_of("toy-s0")
    store.add(row, predictions, history)
    row, predictions, history = run_of("toy-s1")
    store.add(row, predictions, history.assign(validation_loss=[0.5, 0.25]))
    assert store.read("history")["validation_loss"].tolist()[2:] == [0.5, 0.25]
    path = store.folder / "history.csv"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    store.add(*run_of("toy-s2"))
    assert store.read("history").groupby("run").size().tolist() == [2, 2, 2]


def test_a_run_interrupted_while_writing_is_not_finished(store, monkeypatch):
    """The row in runs.csv comes last; what is left of the others makes way."""
    real = Store._append

    def interrupted(self, name, run, rows):
        if name == "runs":
            raise KeyboardInterrupt
        real(self, name, run, rows)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.add(*run_of("toy-s0"))
    assert len(store.read("predictions")) == 2
    assert not store.has("toy-s0", DIGEST)
    store.add(*run_of("toy-s0"))
    assert (len(store.read("predictions")), len(store.read("history"))) == (2, 2)
    assert store.has("toy-s0", DIGEST)


def test_several_writers_lose_nothing(store):
    names = [f"toy-s{seed}" for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        # a store of its own for each, as in processes
        list(pool.map(lambda name: Store(store.folder).add(*run_of(name)), names))
    assert sorted(store.read("runs")["run"]) == sorted(names)
    assert len(store.read("predictions")) == len(store.read("history")) == 24


def test_results_of_other_pictures_are_refused(store):
    store.add(*run_of("toy-s0"))
    with pytest.raises(BatikError, match=r"toy-s0.* of other pictures .*eeeeeeee"):
        store.has("toy-s0", "e" * 64)


@pytest.mark.parametrize("change", [{"surplus": 1}, {"git": None, "gti": "x"}])
def test_a_row_with_other_columns_is_refused(store, change):
    row, predictions, history = run_of("toy-s0")
    row |= change
    if "gti" in change:
        del row["git"]
    with pytest.raises(BatikError, match="exactly the columns"):
        store.add(row, predictions, history)
    assert not store.folder.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b'run,recipe\n"a', b"run,recipe\na,b,c\nd,e,f,g,h\n", b"\xff\xfe\x00", b"run\na\n"],
)
def test_a_damaged_file_is_refused_in_a_sentence(store, content):
    store.folder.mkdir(parents=True)
    (store.folder / "runs.csv").write_bytes(content)
    with pytest.raises(BatikError, match=r"runs\.csv (is damaged|lacks the column)"):
        store.read("runs")


def test_recipes_not_run_are_noted_once_and_forgotten(store):
    store.forget_not_run("toy")
    assert not store.folder.exists()
    store.note_not_run("toy", "no weights", "pip install nothing")
    store.note_not_run("other", "no weights", "x")
    store.note_not_run("toy", "no weights", "pip install something, or not")
    table = store.read("not_run")
    assert tuple(table.columns) == NOT_RUN_COLUMNS
    assert table.set_index("recipe")["remedy"].to_dict() == {
        "other": "x",
        "toy": "pip install something, or not",
    }
    store.forget_not_run("toy")
    assert list(store.read("not_run")["recipe"]) == ["other"]
