"""ONNX, safetensors and .pt: same answers, nothing is executed, damage is a sentence."""

import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from small_network import fitted_to, network_of, noise, samples_of

from batik_utils.app.model_folder import open_session
from batik_utils.classifier import export
from batik_utils.classifier.export import OUTPUTS, FinalNetwork
from batik_utils.errors import BatikError


@pytest.fixture
def network(small):
    return network_of(samples_of())


def run(network, pixels):
    with torch.inference_mode():
        return [found.numpy() for found in network(torch.from_numpy(pixels))]


def test_raw_features_are_answered_as_scaled_ones():
    samples = samples_of()
    fitted, scaled = fitted_to(samples), torch.from_numpy(samples.scaled[-30:])
    raw = scaled * torch.tensor(samples.scaler.scale) + torch.tensor(samples.scaler.mean)
    for ours, wanted in zip(
        fitted.of_raw(samples.scaler).answer(raw), fitted.answer(scaled), strict=True
    ):
        np.testing.assert_allclose(ours, wanted, rtol=1e-6)


def test_evidence_is_for_a_motif_and_against_the_others(network):
    probabilities, *_, places = run(network, noise(3))
    assert places.shape == (3, 3, 16, 16)
    np.testing.assert_allclose(places.sum(1), 0, atol=1e-3)
    order = probabilities.argsort(1)
    assert (places.sum((2, 3)).argsort(1) == order).all()


def test_onnx_answers_as_torch_and_a_wrong_export_is_refused(network, tmp_path):
    path = export.to_onnx(network, tmp_path / "model.onnx", {})
    pixels = noise(3)
    assert export.check(path, network, pixels) < export.TOLERANCE
    found = open_session(path, 1).run(list(OUTPUTS), {"pixels": pixels})
    assert [one.shape for one in found] == [(3, 3), (3,), (3,), (3, 3, 16, 16)]
    graph = onnx.load(path).graph
    kernels = [tensor for tensor in graph.initializer if len(tensor.dims) == 4]
    assert {tensor.data_type for tensor in kernels} == {onnx.TensorProto.FLOAT16}
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used
    assert str(tmp_path) not in path.read_bytes().decode("latin1")
    network.bias.add_(1)
    network.start.add_(1)
    with pytest.raises(BatikError, match="differs"):
        export.check(path, network, noise(1))


def test_onnxruntime_merges_the_layers(network, tmp_path):
    """Unmerged layers take three times as long; see `export`."""
    path = export.to_onnx(network, tmp_path / "model.onnx", {})
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "merged.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {node.op_type for node in onnx.load(tmp_path / "merged.onnx").graph.node}
    assert "FusedConv" in kinds and "BatchNormalization" not in kinds


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
    torch.save({"format": "batik-model-2", "state": Trap()}, path)
    for content in (path.read_bytes(), pickle.dumps(Trap(), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(BatikError, match="could run code"):
            export.load(path)
    assert "sprung" not in capsys.readouterr().out


def test_numbers_of_another_network_are_a_sentence(network, tmp_path):
    state = network.state_dict()
    fewer = {name: tensor for name, tensor in state.items() if name != "axes"}
    for other in (state | {"bias": torch.zeros(2)}, state | {"axes": torch.zeros(3, 3)}, fewer):
        with pytest.raises(BatikError, match="not of this network"):
            FinalNetwork.restored(network.facts(), other)
    save_file({"a": torch.zeros(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(BatikError, match=r"bare\.safetensors"):
        export.load(tmp_path / "bare.safetensors")


def test_wrong_names_and_older_models_are_sentences(tmp_path, model_folder):
    with pytest.raises(BatikError, match="h5"):
        export.write(tmp_path, "h5")
    with pytest.raises(BatikError, match="older version"):
        export.read(model_folder)
