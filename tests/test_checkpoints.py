"""A checkpoint gives the same network back, and a file of anybody else does no harm."""

import contextlib
import io
import pickle
import random
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from batik_utils import checkpoints, models
from batik_utils import training as engine
from batik_utils.checkpoints import CheckpointError
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing

CLASSES = ("betawi", "sidoluhur", "tambal")
SETTINGS = Preprocessing(16, (0.5,) * 3, (0.25,) * 3, "bicubic")


@pytest.fixture
def model(toy):
    with engine.seeded(0):
        return models.build_untrained(toy, len(CLASSES)).eval()


@pytest.fixture
def saved(tmp_path, model, toy) -> Path:
    return checkpoints.save(tmp_path / "toy.pt", model, toy, CLASSES, SETTINGS, "d" * 64)


def rewritten(path: Path, **changes) -> Path:
    torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


def test_there_and_back(saved, model, toy):
    loaded = checkpoints.load(saved)
    assert not loaded.model.training
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    before = engine.predict(model, SETTINGS, pixels)
    assert np.array_equal(engine.predict(loaded.model, loaded.preprocessing, pixels), before)
    assert loaded.recipe == toy
    assert loaded.classes == CLASSES
    assert loaded.preprocessing == SETTINGS
    assert loaded.dataset == "d" * 64
    assert loaded.versions["torch"] == torch.__version__
    assert checkpoints.load(str(saved)).recipe == toy


def test_saving_makes_the_folder_and_leaves_nothing_else(tmp_path, model, toy):
    path = tmp_path / "new" / "folder" / "toy.pt"
    assert checkpoints.save(path, model, toy, CLASSES, SETTINGS, "d") == path
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_failed_save_leaves_the_old_file_whole(saved, model, toy, monkeypatch, error):
    content = saved.read_bytes()

    def half_a_save(values, target):
        Path(target).write_bytes(b"half of it")
        raise error

    monkeypatch.setattr(torch, "save", half_a_save)
    with pytest.raises(type(error)):
        checkpoints.save(saved, model, toy, CLASSES, SETTINGS, "d")
    assert saved.read_bytes() == content
    assert list(saved.parent.iterdir()) == [saved]


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(CheckpointError, match="No checkpoint at"):
            checkpoints.load(path)
    assert issubclass(CheckpointError, BatikError)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"PK\x03\x04",
        b"\x80\x02.",
        b"hello world\n" * 9,
        bytes(100),
        b"\x80\x05\x95" * 30,
    ],
)
def test_other_bytes_are_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        checkpoints.load(path)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
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
        except CheckpointError as error:
            assert str(error)
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    "content",
    [
        [1, 2, 3],
        "text",
        {"a": 1},
        {"state_dict": {"fc.weight": torch.zeros(2, 2)}, "epoch": 3},
        torch.zeros(3),
        torch.nn.Linear(2, 2).state_dict(),
    ],
)
def test_a_file_of_another_project_is_refused(tmp_path, content):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="of another project or version"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "batik-checkpoint-0"},
        {"surplus": 1},
        {"classes": "betawi"},
        {"classes": ["betawi", "tambal"]},
        {"state": {}},
        {"state": {1: 2}},
        {"state": {"head.1.weight": "text"}},
        {"preprocessing": {}},
        {"preprocessing": asdict(SETTINGS) | {"interpolation": "nearest"}},
        {"recipe": {}},
    ],
)
def test_changed_values_are_refused(saved, changes):
    with pytest.raises(CheckpointError):
        checkpoints.load(rewritten(saved, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "resnet999"},
        {"architecture": []},
        {"head": "none"},
        {"frozen": "maybe"},
        {"dropout": "much"},
        {"dropout": 7},
        {"unknown": 1},
    ],
)
def test_a_changed_recipe_is_refused(saved, toy, changes):
    with pytest.raises(CheckpointError):
        checkpoints.load(rewritten(saved, recipe=asdict(toy) | changes))


def test_tensors_of_another_shape_are_refused(saved, model):
    state = dict(model.state_dict())
    state["head.1.weight"] = torch.zeros(3, 17)
    with pytest.raises(CheckpointError, match="do not fit recipe 'toy'"):
        checkpoints.load(rewritten(saved, state=state))


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
        value = {"x": trap} if hidden_in != "classes" else [trap]
        rewritten(saved, **{hidden_in: value})
    with pytest.raises(CheckpointError, match="refused"):
        checkpoints.load(saved)
    assert not target.exists()
    with contextlib.suppress(RuntimeError):  # a plain pickle is no torch file, torch says later
        torch.load(saved, weights_only=False)
    assert target.exists()  # the trap is a real one


def test_a_checkpoint_is_plain_values_and_tensors(saved):
    content = torch.load(io.BytesIO(saved.read_bytes()), weights_only=True)
    assert content["classes"] == list(CLASSES)
    assert all(isinstance(value, torch.Tensor) for value in content["state"].values())


def test_a_refused_file_gives_one_error_and_no_warning_beside_it(tmp_path, recwarn):
    (tmp_path / "foreign.pt").write_bytes(pickle.dumps({"a": print}, protocol=4))
    with pytest.raises(CheckpointError):
        checkpoints.load(tmp_path / "foreign.pt")
    assert not [w for w in recwarn if "pickle protocol" in str(w.message)]
