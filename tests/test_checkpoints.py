"""Result files are read as written; a checkpoint gives its network back, others do no harm."""

import contextlib
import errno
import math
import multiprocessing
import os
import pickle
import random
import re
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from batik_utils import checkpoints, models, training
from batik_utils.checkpoints import (
    RUN_COLUMNS,
    Checkpoint,
    CheckpointError,
    OutdatedCheckpoint,
    Store,
)
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing

DIGEST = "d" * 64


def run_of(name: str, **changes) -> tuple[dict, pd.DataFrame, pd.DataFrame]:
    row = dict.fromkeys(RUN_COLUMNS, 1) | {"run": name, "recipe": "toy", "weights": "random"}
    row |= {"accuracy": 13 / 15, "torch": "2.10", "git": "79e16dc", "dataset": DIGEST}
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


@pytest.mark.parametrize("text", ["1234e56", "0123456", "1e5", "", "true", "False", "NA", "nan"])
def test_text_stays_text(store, text):
    for name in ("a", "b"):
        row, predictions, history = run_of(name, git=text, recipe=text)
        store.add(row, predictions.assign(label=text, predicted=text), history)
    runs, predictions = store.read("runs"), store.read("predictions")
    assert list(runs["git"]) == list(runs["recipe"]) == [text] * 2
    assert list(predictions["label"]) == list(predictions["predicted"]) == [text] * 4
    assert list(runs["torch"]) == ["2.10", "2.10"]


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
    """Each asks, writes and notes as a grid does."""
    names = [f"toy-s{seed}" for seed in range(12)]

    def write(some: list[str]) -> None:
        mine = Store(store.folder)
        for name in some:
            mine.check_writable()
            mine.finished(DIGEST, names)
            mine.add(*run_of(name))
            mine.note_not_run(name, "no weights", "none")
            mine.note_not_run(name)

    # copies of this process start at once, and do without the start method of some systems
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write, args=(names[k::4],)) for k in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert sorted(store.read("runs")["run"]) == sorted(names)
    assert len(store.read("predictions")) == len(store.read("history")) == 24
    assert store.read("not_run").empty
    assert {p.name for p in store.folder.iterdir()} <= {
        *("runs.csv", "predictions.csv", "history.csv", "not_run.csv", ".lock")
    }


def test_recipes_not_run_are_noted_once_and_forgotten(store):
    for name, remedy in (("toy", "pip install nothing"), ("other", "x"), ("toy", "or, not")):
        store.note_not_run(name, "no weights", remedy)
    table = store.read("not_run").set_index("recipe")
    assert table["remedy"].to_dict() == {"other": "x", "toy": "or, not"}
    store.note_not_run("toy")
    assert list(store.read("not_run")["recipe"]) == ["other"]


# --- a disk that does not write ---------------------------------------------------------------


def is_a_file(store, monkeypatch):
    store.folder.parent.mkdir(parents=True)
    store.folder.write_text("no folder")


def is_full(store, monkeypatch):
    store.folder.mkdir(parents=True)
    replace = Path.replace

    def refuse(path, *given):
        if store.folder in path.parents:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return replace(path, *given)

    monkeypatch.setattr(Path, "replace", refuse)


def is_damaged(store, monkeypatch):
    store.folder.mkdir(parents=True)
    (store.folder / "history.csv").write_bytes(b"")


def is_locked(store, monkeypatch):
    store.folder.mkdir(parents=True)
    held = checkpoints.locked

    def locked(path, timeout_s):
        if path.parent == store.folder:
            raise TimeoutError(str(path))
        return held(path, timeout_s)

    monkeypatch.setattr(checkpoints, "locked", locked)


@pytest.mark.parametrize("trouble", [is_a_file, is_full, is_damaged, is_locked])
def test_a_folder_that_cannot_be_written_is_told_before_and_loses_no_run(
    store, monkeypatch, tmp_path, trouble
):
    full = store.folder / "tmp"  # on the same disk, so another place must do
    monkeypatch.setattr(tempfile, "tempdir", str(full))
    monkeypatch.setenv("HOME", str(tmp_path))
    trouble(store, monkeypatch)
    with pytest.raises(BatikError, match=str(store.folder)):
        store.check_writable()
    with pytest.raises(BatikError, match=r"'toy-s0' is kept in (\S+):") as told:
        store.add(*run_of("toy-s0"))
    rescue = Store(re.search(r"kept in (\S+):", str(told.value))[1])
    assert rescue.finished(DIGEST, ["toy-s0"])
    assert len(rescue.read("predictions")) == len(rescue.read("history")) == 2


@pytest.mark.filterwarnings("ignore:flock not supported")
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_drive_without_locks_and_flushes_still_takes_runs(store, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", refuse)
    if number == errno.ENOSYS:
        monkeypatch.setattr(os, "fsync", refuse)
    store.check_writable()
    store.add(*run_of("toy-s0"))
    assert store.finished(DIGEST, ["toy-s0"])


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


def rewritten(path: Path, **changes) -> Path:
    torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


def test_there_and_back(saved, model, toy):
    loaded = checkpoints.load(saved)
    assert not loaded.model.training
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    before = training.predict(model, SETTINGS, pixels)
    assert np.array_equal(training.predict(loaded.model, loaded.preprocessing, pixels), before)
    described = (loaded.recipe, loaded.classes, loaded.preprocessing, loaded.dataset)
    assert described == (toy, CLASSES, SETTINGS, DIGEST)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="No checkpoint at"):
            checkpoints.load(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x02.", b"hello\n" * 9, 0.01, 0.9, 0.999]
)
def test_other_bytes_and_a_part_of_a_file_are_refused(saved, content):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(content * len(whole))] if isinstance(content, float) else content)
    with pytest.raises(CheckpointError, match=r"toy\.pt"):
        checkpoints.load(saved)


@pytest.mark.filterwarnings("ignore")  # torch remarks on odd pickle protocols
def test_damaged_bytes_give_a_network_or_a_refusal_and_nothing_else(saved):
    whole, chance = saved.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        content = bytearray(whole)
        for _ in range(chance.choice((1, 2, 5))):
            # the head of the file is the pickle, where damage can do most
            content[chance.randrange(1500)] = chance.randrange(256)
        saved.write_bytes(content)
        try:
            checkpoints.load(saved)
        except CheckpointError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "content",
    [
        *([1, 2, 3], "text", {"a": 1}, torch.zeros(3), torch.nn.Linear(2, 2).state_dict()),
        {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "epoch": 3},
    ],
)
def test_a_file_of_another_project_is_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"other\.pt"):
        checkpoints.load(path)


@pytest.mark.parametrize("older", ["format", "recipe"])
def test_an_older_checkpoint_must_be_trained_again(saved, toy, older):
    changes = {"format": "batik-checkpoint-1", "recipe": asdict(toy) | {"note": ""}}
    with pytest.raises(OutdatedCheckpoint, match=r"toy\.pt.* train again"):
        checkpoints.load(rewritten(saved, **{older: changes[older]}))


@pytest.mark.parametrize(
    "changes",
    [
        *({"format": 2}, {"classes": "betawi"}, {"classes": ["betawi", "tambal"]}),
        *({"state": {}}, {"state": {1: 2}}, {"state": {"head.1.weight": "text"}}),
        {"state": {"head.1.weight": torch.zeros(3, 17)}},
        *({"preprocessing": {}}, {"preprocessing": asdict(SETTINGS) | {"interpolation": "odd"}}),
        *({"recipe": {}}, {"recipe": []}, {"recipe": {"architecture": "resnet999"}}),
        *({"recipe": {"architecture": []}}, {"recipe": {"head": "none"}}),
        *({"recipe": {"frozen": "maybe"}}, {"recipe": {"dropout": "much"}}, {"recipe": {"odd": 1}}),
    ],
    ids=str,
)
def test_changed_values_are_refused(saved, toy, changes):
    if changes.get("recipe"):
        changes = {"recipe": asdict(toy) | changes["recipe"]}
    with pytest.raises(CheckpointError):
        checkpoints.load(rewritten(saved, **changes))


class Trap:
    """Unpickled by anything careless, it makes a file."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("hidden_in", ["plain pickle", "torch file", "state", "recipe", "classes"])
def test_code_in_a_file_is_not_run(saved, tmp_path, hidden_in):
    target = tmp_path / "ran.txt"
    trap = Trap(target)
    if hidden_in == "plain pickle":
        saved.write_bytes(pickle.dumps(trap))
    elif hidden_in == "torch file":
        torch.save(trap, saved)
    else:
        rewritten(saved, **{hidden_in: [trap] if hidden_in == "classes" else {"x": trap}})
    with pytest.raises(CheckpointError, match="refused"):
        checkpoints.load(saved)
    assert not target.exists()
    with contextlib.suppress(RuntimeError):  # a plain pickle is no torch file, torch says later
        torch.load(saved, weights_only=False)
    assert target.exists()  # the trap is a real one
