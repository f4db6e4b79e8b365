"""A folded model gives the answers of the file, with its layers merged."""

import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from batik_utils import export, onnx_session

SIZE = 32


class Network(nn.Module):
    """Two convolutions with batch norm, of uint8 pixels (N, S, S, 3)."""

    def __init__(self):
        super().__init__()
        layers = []
        for n_in, n_out in ((3, 8), (8, 16)):
            convolution = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
            convolution.weight.data = convolution.weight.data.half().float()
            norm = nn.BatchNorm2d(n_out)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            layers += [convolution, norm, nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels):
        return self.layers(pixels.permute(0, 3, 1, 2).float() / 255).mean((2, 3))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return export.to_onnx(Network().eval(), place, size=SIZE, outputs=("features",))


def nodes(content: bytes) -> list:
    return list(onnx.load_model_from_string(content).graph.node)


def casts_of_kernels(content: bytes) -> int:
    return sum(n.op_type == "Cast" and n.input[0].endswith("_half") for n in nodes(content))


def batch_norms(content: bytes) -> int:
    return sum(node.op_type == "BatchNormalization" for node in nodes(content))


def test_casts_are_gone_and_the_next_pass_merges_the_layers(path, tmp_path):
    before, folded = path.read_bytes(), onnx_session.folded(path)
    assert (casts_of_kernels(before), batch_norms(before)) == (2, 2)
    assert casts_of_kernels(folded) == 0
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "second.onnx")
    onnxruntime.InferenceSession(folded, options, providers=["CPUExecutionProvider"])
    assert batch_norms((tmp_path / "second.onnx").read_bytes()) == 0


def test_answers_are_those_of_the_file(path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    plain = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = plain.run(None, {"pixels": pixels})
    (found,) = onnx_session.open_session(path, 1).run(None, {"pixels": pixels})
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_without_a_temporary_folder_the_file_is_taken_as_it_is(path, monkeypatch, caplog):
    def none(**_):
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", none)
    assert onnx_session.folded(path) == path.read_bytes()
    assert "the model will be slower" in caplog.text


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        onnx_session.open_session(Path(tmp_path / "none.onnx"))
