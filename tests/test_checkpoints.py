"""Result files are read as written; a checkpoint gives its network back, others do no harm."""

import contextlib
import errno
import math
import multiprocessing
import pickle
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from batik_utils import checkpoints, models, training
from batik_utils.checkpoints import RUN_COLUMNS, Checkpoint, CheckpointError, Store
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing

DIGEST = "d" * 64


def run_of(name: str, **changes) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    row = dict.fromkeys(RUN_COLUMNS, 1) | {"run": name, "recipe": "toy", "weights": "random"}
    row |= {"accuracy": 13 / 15, "torch": "2.10", "git": "1234e56", "dataset": DIGEST}
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
    assert not store.finished(DIGEST, ["toy-s0"])
    store.note_not_run("toy")
    assert not store.folder.exists()


def test_a_run_is_read_as_it_was_written(store):
    row, predictions, history = run_of("toy-s0")
    store.add(row, predictions, history)
    runs = store.read("runs")
    assert tuple(runs.columns) == RUN_COLUMNS
    written = runs.iloc[0].to_dict()
    assert written.pop("accuracy") == pytest.approx(row.pop("accuracy"), rel=1e-5)
    assert {k: str(v) for k, v in written.items()} == {k: str(v) for k, v in row.items()}
    for name, table in (("predictions", predictions), ("history", history)):
        found = store.read(name)
        assert set(found.pop("run")) == {"toy-s0"}
        pd.testing.assert_frame_equal(found, table, rtol=1e-5, check_dtype=False)
    assert store.finished(DIGEST, ["toy-s0", "toy-s1"]) == {"toy-s0"}
    assert {p.suffix for p in store.folder.iterdir()} <= {".csv", ""}
    # and is no run of other pictures
    with pytest.raises(BatikError, match=r"toy-s0.* of other pictures .*eeeeeeee"):
        store.finished("e" * 64, ["toy-s0"])


def test_a_repeated_run_takes_its_old_rows_place_and_numbers_do_not_wear_down(store):
    store.add(*run_of("toy-s0", accuracy=0.25))
    store.add(*run_of("toy-s1", nll=float("nan"), train_seconds=1234.567))
    before = store.read("runs").iloc[1]
    store.add(*run_of("toy-s0", accuracy=0.75))
    runs = store.read("runs")
    assert list(runs["run"]) == ["toy-s1", "toy-s0"] and list(runs["accuracy"])[1] == 0.75
    assert runs.iloc[0].equals(before) and math.isnan(before["nll"])
    for name in ("predictions", "history"):
        assert store.read(name).groupby("run").size().to_dict() == {"toy-s0": 2, "toy-s1": 2}


def test_a_run_interrupted_while_writing_is_not_finished(store, monkeypatch):
    """The row in runs.csv comes last; what is left of the others makes way."""
    real = checkpoints.replacing

    def interrupted(path):
        if path.name == "runs.csv":
            raise KeyboardInterrupt
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "replacing", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.add(*run_of("toy-s0"))
    assert len(store.read("predictions")) == 2
    assert not store.finished(DIGEST, ["toy-s0"])
    store.add(*run_of("toy-s0"))
    assert (len(store.read("predictions")), len(store.read("history"))) == (2, 2)
    assert store.finished(DIGEST, ["toy-s0"])


def test_several_processes_on_a_fresh_folder_lose_nothing(store):
    names = [f"toy-s{seed}" for seed in range(12)]

    def write(some: list[str]) -> None:
        mine = Store(store.folder)
        for name in some:
            mine.check_writable()
            mine.add(*run_of(name))
            mine.note_not_run(name, "none")
            mine.note_not_run(name)

    # copies of this process start at once, and do without the start method of some systems
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write, args=(names[k::4],)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert store.finished(DIGEST, names) == {*names} and store.read("not_run").empty
    assert len(store.read("predictions")) == len(store.read("history")) == 24
    files = {"runs.csv", "predictions.csv", "history.csv", "not_run.csv", ".lock"}
    assert {p.name for p in store.folder.iterdir()} <= files


def test_recipes_not_run_are_noted_once_and_forgotten(store):
    for name, remedy in (("toy", "pip install nothing"), ("other", "x"), ("toy", "or, not")):
        store.note_not_run(name, remedy)
    table = store.read("not_run").set_index("recipe")
    assert table["remedy"].to_dict() == {"other": "x", "toy": "or, not"}
    store.note_not_run("toy")
    assert list(store.read("not_run")["recipe"]) == ["other"]


# --- a disk that does not write ---------------------------------------------------------------


def is_a_file(store, monkeypatch):
    store.folder.parent.mkdir(parents=True)
    store.folder.write_text("no folder")


def is_damaged(store, monkeypatch):
    store.folder.mkdir(parents=True)
    (store.folder / "history.csv").write_bytes(b"")


def is_full(store, monkeypatch):
    refuse(monkeypatch, Path, "replace", store, OSError(errno.ENOSPC, "No space left"))


def is_locked(store, monkeypatch):
    refuse(monkeypatch, checkpoints, "locked", store, TimeoutError("somebody else has it"))


def refuse(monkeypatch, place, name, store, error):
    """Let a function of paths fail for those in the store's folder."""
    real = getattr(place, name)

    def refusing(path, *given):
        if store.folder in path.parents:
            raise error
        return real(path, *given)

    monkeypatch.setattr(place, name, refusing)


@pytest.mark.parametrize("trouble", [is_a_file, is_full, is_damaged, is_locked])
def test_a_folder_that_cannot_be_written_is_told_before_and_loses_no_run(
    store, monkeypatch, tmp_path, trouble
):
    # the temporary folder is on the same disk, so another place must do
    monkeypatch.setattr(tempfile, "tempdir", str(store.folder / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path))
    trouble(store, monkeypatch)
    with pytest.raises(BatikError, match=str(store.folder)):
        store.check_writable()
    with pytest.raises(BatikError, match=r"'toy-s0' is kept in (\S+):") as caught:
        store.add(*run_of("toy-s0"))
    rescue = Store(re.search(r"kept in (\S+):", str(caught.value))[1])
    assert rescue.finished(DIGEST, ["toy-s0"])
    assert len(rescue.read("predictions")) == len(rescue.read("history")) == 2


# --- checkpoints ------------------------------------------------------------------------------

CLASSES = ("betawi", "sidoluhur", "tambal")
SETTINGS = Preprocessing(16, (0.5,) * 3, (0.25,) * 3, "bicubic")


@pytest.fixture
def model(toy):
    with training.seeded(0):
        return models.build_untrained(toy, len(CLASSES)).eval()


@pytest.fixture
def saved(tmp_path, model, toy) -> Path:
    return checkpoints.save(tmp_path / "toy.pt", Checkpoint(model, toy, CLASSES, SETTINGS, DIGEST))


def rewritten(path: Path, changes: Callable[[dict], dict]) -> None:
    content = torch.load(path, weights_only=True)
    torch.save(content | changes(content), path)


def test_there_and_back(saved, model, toy):
    loaded = checkpoints.load(saved)
    assert not loaded.model.training
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    before = training.predict(model, SETTINGS, pixels)
    assert np.array_equal(training.predict(loaded.model, loaded.preprocessing, pixels), before)
    described = (loaded.recipe, loaded.classes, loaded.preprocessing, loaded.dataset)
    assert described == (toy, CLASSES, SETTINGS, DIGEST)


def other_recipe(**changes):
    return lambda content: {"recipe": content["recipe"] | changes}


#: What a file holds in place of a checkpoint: bytes, the first part of its own, an object of
#: another project, or other values.
NO_CHECKPOINTS = [
    *(None, b"", b"PK\x03\x04", b"\x80\x02.", b"hello\n" * 9, 0.01, 0.9, 0.999),
    *([1, 2, 3], torch.zeros(3), {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "epoch": 3}),
    *(lambda _, odd=odd: {"format": odd} for odd in (2, "batik-checkpoint-1")),
    *(lambda _, odd=odd: {"classes": odd} for odd in ("betawi", ["betawi", "tambal"])),
    *(lambda _, odd=odd: {"state": odd} for odd in ({}, {"head.1.weight": torch.zeros(3, 17)})),
    lambda _: {"preprocessing": {}},
    lambda content: {"preprocessing": content["preprocessing"] | {"interpolation": "odd"}},
    *(other_recipe(architecture="resnet999"), other_recipe(architecture=[])),
    *(other_recipe(frozen="maybe"), other_recipe(dropout="much"), other_recipe(note="")),
]


@pytest.mark.filterwarnings("ignore")  # torch remarks on odd pickle protocols
@pytest.mark.parametrize("content", NO_CHECKPOINTS)
def test_what_is_no_checkpoint_of_this_version_is_refused(saved, content):
    if content is None:
        saved.unlink()
    elif isinstance(content, float):
        whole = saved.read_bytes()
        saved.write_bytes(whole[: int(content * len(whole))])
    elif isinstance(content, bytes):
        saved.write_bytes(content)
    elif callable(content):
        rewritten(saved, content)
    else:
        torch.save(content, saved)
    with pytest.raises(CheckpointError, match=r"toy\.pt.*train"):
        checkpoints.load(saved)


class Trap:
    """Unpickled by anything careless, it makes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hidden_in", ["plain pickle", "torch file", "state", "recipe"])
def test_code_in_a_file_is_not_run(saved, tmp_path, hidden_in):
    target = tmp_path / "ran.txt"
    trap = Trap(target)
    if hidden_in == "plain pickle":
        saved.write_bytes(pickle.dumps(trap))
    elif hidden_in == "torch file":
        torch.save(trap, saved)
    else:
        rewritten(saved, lambda _: {hidden_in: {"x": trap}})
    with pytest.raises(CheckpointError, match="refused"):
        checkpoints.load(saved)
    assert not target.exists()
    with contextlib.suppress(RuntimeError):  # a plain pickle is no torch file, torch says later
        torch.load(saved, weights_only=False)
    assert target.exists()  # the trap is a real one
