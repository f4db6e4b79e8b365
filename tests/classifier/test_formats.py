"""The deployed model in other formats: the same answers, and no harm from a foreign file."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from batik_utils import baselines
from batik_utils.__main__ import main
from batik_utils.app import predict
from batik_utils.classifier import embedding, export, final, formats, rejection
from batik_utils.errors import BatikError
from batik_utils.images import files
from batik_utils.images.resize import IMAGENET

SUFFIXES = ("safetensors", "pt")


@pytest.fixture(scope="module")
def model():
    return formats.from_onnx()


@pytest.fixture(scope="module")
def pixels(model):
    return formats.probe(model.framing.size, 3)


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("formats")
    return {suffix: formats.save(model, folder / f"model.{suffix}") for suffix in SUFFIXES}


def test_the_network_is_read_back_out_of_its_onnx_file(model, pixels):
    predictor = predict.Predictor.load(threads=1)
    for theirs, ours in zip(predictor.run(pixels)[:2], model.predict(pixels), strict=True):
        assert np.allclose(theirs, ours, atol=1e-4, rtol=1e-4)
    assert model.classes == predictor.classes
    assert (model.threshold, model.framing.size) == (predictor.threshold, predictor.size)
    assert len(model.dataset) == 64


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(model, saved, pixels, suffix):
    opened = formats.load(saved[suffix])
    assert opened.facts() == model.facts()
    assert not opened.network.training
    wanted = model.network.state_dict()
    for name, values in opened.network.state_dict().items():
        assert torch.equal(values, wanted[name]), name
    path = predict.default_folder() / "model.onnx"
    assert export.check(path, opened.network, pixels) < 1e-4
    # kernels are float16 numbers there, too
    assert saved[suffix].stat().st_size < 1.1 * path.stat().st_size
    assert {p.name for p in saved[suffix].parent.iterdir()} == {f"model.{s}" for s in SUFFIXES}


def test_a_pickle_that_runs_something_is_refused(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return print, ("sprung",)

    path = tmp_path / "gift.pt"
    for make in (pickle.dumps, None):
        if make:
            path.write_bytes(make(Trap()))
        else:
            torch.save({"format": "batik-model-1", "state": Trap()}, path)
        with pytest.raises(BatikError, match="could run code") as caught:
            formats.load(path)
        assert "weights_only" not in str(caught.value)
    assert "sprung" not in capsys.readouterr().out


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("left", [0, 7, 1000, 100_000])
def test_a_torn_file_is_a_sentence(saved, tmp_path, suffix, left):
    path = tmp_path / f"torn.{suffix}"
    path.write_bytes(saved[suffix].read_bytes()[:left])
    with pytest.raises(BatikError, match=r"torn\.\w+ (is damaged|was refused)"):
        formats.load(path)


def test_other_numbers_are_a_sentence(model, saved, tmp_path):
    state, facts = model.state(), {**model.facts()}
    first, kernel = "axes", next(name for name in state if name.endswith("conv_dw.weight"))
    for change, words in (
        ({"state": {k: v for k, v in state.items() if k != "bias"}}, "does not fit.*bias"),
        ({"state": {**state, first: torch.zeros(2)}}, "does not fit"),
        ({"state": {**state, kernel: torch.zeros(2)}}, "does not fit.*size mismatch"),
        ({"format": "another"}, "another project or version"),
        ({"extra": 1}, "another project or version"),
        ({"framing": {"size": -1}}, "does not fit"),
        ({"branches": [["nobody", [1]]]}, "does not fit.*nobody"),
        ({"branches": 3}, "is damaged"),
        ({"threshold": []}, "is damaged"),
    ):
        torch.save({**facts, "state": state, **change}, tmp_path / "model.pt")
        with pytest.raises(BatikError, match=words):
            formats.load(tmp_path / "model.pt")
    torch.save([1, 2], tmp_path / "model.pt")
    with pytest.raises(BatikError, match="is damaged or no model"):
        formats.load(tmp_path / "model.pt")
    save_file(load_file(saved["safetensors"]), tmp_path / "bare.safetensors")
    with pytest.raises(BatikError, match="another project or version"):
        formats.load(tmp_path / "bare.safetensors")


def test_wrong_names_are_sentences(model, tmp_path):
    with pytest.raises(BatikError, match=r"must end in .safetensors or .pt"):
        formats.save(model, tmp_path / "model.h5")
    with pytest.raises(BatikError, match=r"There is no file .*python -m batik_utils export"):
        formats.load(tmp_path / "model.pt")
    with pytest.raises(BatikError, match="Unknown format 'h5'"):
        formats.write(tmp_path, ["h5"])
    assert main(["export", "--format", "h5", "--output", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_a_model_of_another_kind_is_a_sentence(model_folder):
    with pytest.raises(BatikError, match="does not say which network it is"):
        formats.from_onnx(model_folder)


def test_one_command_writes_them(tmp_path, capsys):
    assert main(["export", "--format", "safetensors, pt", "--output", str(tmp_path / "new")]) == 0
    made = [tmp_path / "new" / f"model.{suffix}" for suffix in SUFFIXES]
    assert capsys.readouterr().out.split() == [str(path) for path in made]
    assert all(path.is_file() for path in made)


# ---- eight bits


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A network of the deployed kind, exported at 32 px: (file, network)."""
    torch.manual_seed(0)
    stages = [
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6()),
    ]
    network = embedding.Embedding([embedding.Taps(stages, (0, 1), IMAGENET)])
    for name, tensor in network.state_dict().items():
        if embedding.is_stored_half(name, tensor):
            tensor.copy_(tensor.half().float())
    width, (known, other) = 48, np.random.default_rng(0).normal(size=(2, 30, 48))
    labels = np.arange(30) % 3
    known += labels[:, None]
    scaler = baselines.Scaler(np.zeros(width), np.ones(width))
    familiarity = rejection.combined(known, labels, other)
    head = baselines.fit_linear(known, labels, baselines.Head("lda", 1.0), scaler)
    model = final.FinalNetwork(network, head, 2.0, familiarity, scaler)
    path = tmp_path_factory.mktemp("small") / "model.onnx"
    export.to_onnx(model, path, size=32, outputs=("probabilities", "familiarity"))
    return path, model


def noise(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def _pixels(path):
    return embedding.pixels_of(files.open_image(path))
