"""ONNX, safetensors and .pt: same answers, nothing is executed, damage is a sentence."""

import json
import pickle

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file
from small_network import bank_of, network_of, noise

from batik_utils.app.onnx_session import open_session
from batik_utils.classifier import export
from batik_utils.classifier.network import OUTPUTS, FinalNetwork
from batik_utils.errors import BatikError


@pytest.fixture
def network(small):
    return network_of(bank_of())[0]


def run(network, pixels):
    with torch.inference_mode():
        return [found.numpy() for found in network(torch.from_numpy(pixels))]


def test_the_network_answers_as_the_fitted_parts():
    bank = bank_of()
    network, fitted = network_of(bank)
    raw = bank.scaled[-30:] * bank.scaler.scale + bank.scaler.mean
    with torch.inference_mode():
        probabilities, familiarity, cloth = network.answer(torch.tensor(raw).float())
    logits = fitted.motifs.logits(bank.scaled[-30:]) / 2
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(probabilities, wanted / wanted.sum(1, keepdims=True), atol=1e-3)
    parts = fitted.parts(bank.scaled[-30:])
    np.testing.assert_allclose(familiarity, fitted.familiarity(parts), rtol=1e-3)
    np.testing.assert_allclose(cloth, parts[:, 3], rtol=1e-3, atol=1e-2)


def test_evidence_is_for_a_motif_and_against_the_others(network):
    probabilities, *_, places = run(network, noise(3))
    assert places.shape == (3, 3, 16, 16)
    np.testing.assert_allclose(places.sum(1), 0, atol=1e-3)
    order = probabilities.argsort(1)
    assert (places.sum((2, 3)).argsort(1) == order).all()


def test_onnx_answers_as_torch_and_torch_is_read_back(network, tmp_path):
    notes = {"network": json.dumps(network.facts())}
    path = export.to_onnx(network, tmp_path / "model.onnx", size=64, notes=notes)
    pixels = noise(3)
    assert export.check(path, network, pixels) < export.TOLERANCE
    found = open_session(path, 1).run(list(OUTPUTS), {"pixels": pixels})
    assert [one.shape for one in found] == [(3, 3), (3,), (3,), (3, 3, 16, 16)]
    kernels = [t for t in onnx.load(path).graph.initializer if len(t.dims) == 4]
    assert {t.data_type for t in kernels} == {onnx.TensorProto.FLOAT16}
    assert str(tmp_path) not in path.read_bytes().decode("latin1")


def test_a_wrong_export_and_a_lossy_kernel_are_refused(network, tmp_path):
    path = export.to_onnx(network, tmp_path / "model.onnx", size=64)
    network.bias.add_(1)
    network.start.add_(1)
    with pytest.raises(BatikError, match="differs"):
        export.check(path, network, noise(1))
    next(network.network.parameters()).add_(1e-5)
    with pytest.raises(BatikError, match="loses digits"):
        export.to_onnx(network, tmp_path / "model.onnx", size=64)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_saved_files_answer_the_same_and_damage_is_a_sentence(network, tmp_path, suffix):
    path = export.save(network, tmp_path / f"model.{suffix}")
    pixels = noise(2)
    for a, b in zip(run(export.load(path), pixels), run(network, pixels), strict=True):
        np.testing.assert_array_equal(a, b)
    whole = path.read_bytes()
    for left in (0, 7, 1000, len(whole) // 2):
        path.write_bytes(whole[:left])
        with pytest.raises(BatikError, match=path.name):
            export.load(path)


def test_a_pickle_that_runs_something_is_refused(tmp_path, capsys):
    class Trap:
        def __reduce__(self):
            return print, ("sprung",)

    path = tmp_path / "gift.pt"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(BatikError, match="could run code"):
        export.load(path)
    torch.save({"format": "batik-model-2", "state": Trap()}, path)
    with pytest.raises(BatikError, match="could run code"):
        export.load(path)
    assert "sprung" not in capsys.readouterr().out


def test_numbers_of_another_network_are_a_sentence(network, tmp_path):
    state = network.state_dict()
    for change in ({"bias": torch.zeros(2)}, {"axes": torch.zeros(3, 3)}):
        with pytest.raises(BatikError, match="not of this network"):
            FinalNetwork.restored(network.facts(), state | change)
    with pytest.raises(BatikError, match="not of this network"):
        FinalNetwork.restored(network.facts(), {k: v for k, v in state.items() if k != "axes"})
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(BatikError, match="another project"):
        export.load(tmp_path / "bare.safetensors")


def test_wrong_names_and_older_models_are_sentences(tmp_path, model_folder):
    with pytest.raises(BatikError, match=r"\.safetensors or \.pt"):
        export.load(tmp_path / "model.h5")
    with pytest.raises(BatikError, match=r"no file .*model\.pt"):
        export.load(tmp_path / "model.pt")
    with pytest.raises(BatikError, match="h5"):
        export.write(tmp_path, "h5")
    with pytest.raises(BatikError, match="older version"):
        export.read(model_folder)
