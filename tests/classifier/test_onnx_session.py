"""An exported file is opened on the CPU: onnxruntime merges its layers, nothing is left over."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from batik_utils.app import onnx_session
from batik_utils.classifier import export
from batik_utils.errors import BatikError

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
            layers += [convolution, norm, nn.ReLU6()]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels):
        return self.layers(pixels.permute(0, 3, 1, 2).float() / 255).mean((2, 3))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return export.to_onnx(Network().eval(), place, size=SIZE, outputs=("features",))


def test_onnxruntime_merges_the_layers(path, tmp_path):
    """Unmerged layers take three times as long; see `export`."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "merged.onnx")
    options.log_severity_level = 3  # that the file suits this machine
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "merged.onnx").graph.node]
    assert "BatchNormalization" in [node.op_type for node in onnx.load(path).graph.node]
    assert "BatchNormalization" not in kinds and "Clip" not in kinds
    assert "FusedConv" in kinds


def test_nothing_in_the_file_is_left_over(path):
    graph = onnx.load(path).graph
    used = {name for node in graph.node for name in node.input}
    assert {tensor.name for tensor in graph.initializer} <= used


def test_answers_are_those_of_the_network(path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)
    torch.manual_seed(0)
    with torch.inference_mode():
        wanted = Network().eval()(torch.from_numpy(pixels)).numpy()
    (found,) = onnx_session.open_session(path, 1).run(None, {"pixels": pixels})
    assert wanted.std() > 0.01
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(BatikError, match=r"none\.onnx"):
        onnx_session.open_session(Path(tmp_path / "none.onnx"))
