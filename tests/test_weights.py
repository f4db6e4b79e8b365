"""The table of pretrained weights, and the look-up; a folder stands in for the hub."""

import hashlib
import io
import os
import pickle
import socket

import pytest
import torch
from safetensors.torch import save

from batik_utils import weights
from batik_utils.errors import BatikError
from batik_utils.weights import WEIGHTS, Weights, WeightsFile, WeightsNotFound

CONTENT = b"weights" * 50_000


@pytest.fixture
def hub(tmp_path):
    (tmp_path / "hub").mkdir()
    return tmp_path / "hub"


@pytest.fixture(autouse=True)
def cache(without_batik_settings, tmp_path, monkeypatch, hub):
    """Keep every test off the real cache, the real folders and the network."""
    monkeypatch.setenv("BATIK_HUB_MIRROR", hub.as_uri())
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def toy(monkeypatch, hub):
    """Return a function that puts a file, first of all CONTENT, into the table under "toy"."""

    def enter(content, suffix=".pth", package=None):
        digest = hashlib.sha256(content).hexdigest()[:8]
        name = f"toy-{digest}{suffix}"
        url = f"https://hub.invalid/{name}"
        file = WeightsFile(name, digest, "torchvision", "a test", url, package)
        monkeypatch.setitem(WEIGHTS, "toy", Weights(weights.IMAGENET, (file,)))
        put(hub, name, content)
        return file

    enter.file = enter(CONTENT)
    return enter


def put(folder, filename, content=CONTENT):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / filename
    path.write_bytes(content)
    return path


def failure():
    with pytest.raises(WeightsNotFound) as caught:
        weights.find("toy")
    error = caught.value
    assert all(text in str(error) for text in (*error.tried, error.remedy, "'toy'"))
    assert "\n" not in str(error)
    return error


def test_addresses_equal_the_libraries_own():
    torchvision_models = pytest.importorskip("torchvision").models
    url_map = pytest.importorskip("efficientnet_pytorch.utils").url_map
    ours = {name: entry.files[0].url for name, entry in WEIGHTS.items()}
    b2 = torchvision_models.EfficientNet_B2_Weights.IMAGENET1K_V1
    assert {name: url for name, url in ours.items() if url} == {
        "efficientnet_b0": url_map["efficientnet-b0"],
        "efficientnet_b2": url_map["efficientnet-b2"],
        "mobilenet_v2": torchvision_models.MobileNet_V2_Weights.IMAGENET1K_V1.url,
        "efficientnet_b2_torchvision": b2.url,
    }


def test_places_are_searched_in_the_documented_order(tmp_path, monkeypatch, toy, cache, caplog):
    package = tmp_path / "site" / "toy_weights_model"  # which must not be imported
    put(package, "__init__.py", b"raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path / "site")
    name = toy(CONTENT, package="toy-weights-model").filename
    monkeypatch.setenv("BATIK_WEIGHTS_DIR", str(tmp_path / "given"))
    for path in [put(place, name) for place in (tmp_path / "given", cache, package / "models")]:
        assert weights.find("toy") == path
        path.unlink()
    assert not caplog.text
    assert weights.find("toy") == cache / name
    assert caplog.text.count("Fetching") == 1


def test_missing_folder_is_an_error(tmp_path, monkeypatch, toy):
    monkeypatch.setenv("BATIK_WEIGHTS_DIR", str(tmp_path / "missing"))
    with pytest.raises(BatikError, match=r"missing .*BATIK_WEIGHTS_DIR"):
        weights.find("toy")


def test_wrong_hash_in_the_given_folder_stops_at_once(tmp_path, toy, cache, caplog, monkeypatch):
    monkeypatch.setenv("BATIK_WEIGHTS_DIR", str(tmp_path / "given"))
    put(cache, toy.file.filename)
    bad = put(tmp_path / "given", toy.file.filename, b"other")
    error = failure()
    assert hashlib.sha256(b"other").hexdigest() in error.tried[0]
    assert toy.file.sha256 in error.tried[0]
    assert str(bad) in error.remedy
    assert not caplog.text


def test_download_then_reuse_without_a_request(toy, hub, cache, caplog):
    bad = put(cache, toy.file.filename, b"other")
    assert weights.find("toy") == bad
    assert bad.read_bytes() == CONTENT
    assert f"{hub.as_uri()}/{toy.file.filename}" in caplog.text  # said before it is asked
    assert weights.find("toy") == bad
    assert caplog.text.count("Fetching") == 1


def test_nothing_is_asked_offline(toy, monkeypatch, caplog):
    monkeypatch.setenv("BATIK_OFFLINE", "1")
    assert "offline" in failure().tried[1]
    assert not caplog.text
    monkeypatch.setenv("BATIK_OFFLINE", "0")
    assert weights.find("toy")


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("stalled", "timed out"),
        ("wrong hash", hashlib.sha256(b"portal").hexdigest()),
        ("missing", "No such file"),
        ("not writable", "Not a directory"),
    ],
)
def test_failed_download_says_why_and_leaves_nothing(toy, hub, cache, mode, words, monkeypatch):
    monkeypatch.setattr(weights, "TIMEOUT_S", 0.3)
    silent = socket.create_server(("127.0.0.1", 0))
    if mode == "stalled":
        monkeypatch.setenv("BATIK_HUB_MIRROR", f"http://127.0.0.1:{silent.getsockname()[1]}")
    if mode == "wrong hash":
        put(hub, toy.file.filename, b"portal")
    if mode == "missing":
        (hub / toy.file.filename).unlink()
    if mode == "not writable":
        put(cache.parents[1], "hub", b"")
    with silent:
        error = failure()
    address = f"{os.environ['BATIK_HUB_MIRROR']}/{toy.file.filename}"
    assert error.tried[1].startswith(f"{address}: ")
    assert words in error.tried[1]
    assert toy.file.url in error.remedy and "BATIK_WEIGHTS_DIR" in error.remedy
    assert not [p for p in cache.glob("*") if not p.name.endswith(".lock")]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_load_returns_tensors_entry_and_path(toy, cache, suffix):
    tensors = {"b.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
    if suffix == ".pth":
        buffer = io.BytesIO()
        torch.save(tensors, buffer)
        content = buffer.getvalue()
    else:
        content = save(tensors)
    file = toy(content, suffix)
    state_dict, entry, path = weights.load("toy")
    assert (entry, path) == (file, cache / file.filename)
    assert state_dict.keys() == tensors.keys()
    assert all(torch.equal(state_dict[key], tensors[key]) for key in tensors)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("content", ["evil", "evil zip", "number", "noise", "noise safetensors"])
def test_anything_but_a_state_dict_is_refused(tmp_path, toy, content, cache):
    marker = tmp_path / "executed"
    buffer = io.BytesIO()
    if content == "evil":
        pickle.dump({"weight": Evil(marker)}, buffer, protocol=2)
    elif content.startswith("noise"):
        buffer.write(b"noise")
    else:
        torch.save({"weight": Evil(marker) if content == "evil zip" else 1}, buffer)
    file = toy(buffer.getvalue(), ".safetensors" if "safetensors" in content else ".pth")
    with pytest.raises(WeightsNotFound, match="no plain state dict") as caught:
        weights.load("toy")
    assert str(cache / file.filename) in caught.value.remedy
    assert not marker.exists()
