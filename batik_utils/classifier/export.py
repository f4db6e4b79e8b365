"""The deployed network, and its files: ONNX (what the app runs), safetensors, torch's ``.pt``.

All that is learned are linear functions of frozen features, and distances to the motifs' means. The
torch network is read back out of the ONNX file, so no training picture is needed. All files hold
the same numbers by name, kernels as float16. Introduced in notebook 05.
"""

import json
import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from batik_utils.app import predict
from batik_utils.app.model_folder import open_session
from batik_utils.classifier import features
from batik_utils.classifier.features import Branch, is_stored_half
from batik_utils.classifier.refusal import NUMBERS, Refusal
from batik_utils.errors import BatikError, replacing

OUTPUTS = ("probabilities", "familiarity", "cloth", "evidence")
#: Version of the ONNX operators in the file; onnxruntime 1.15 and newer know it.
OPSET = 18
#: Largest difference to the torch network that is taken for rounding.
TOLERANCE = 1e-3
FORMATS = ("onnx", "safetensors", "pt")
_FORMAT = "batik-model-2"


class FinalNetwork(Refusal):
    """uint8 pixels (N, S, S, 3) to the four `OUTPUTS`."""

    def __init__(
        self, network: features.Features, branches: Sequence[Branch], size: int, numbers: dict
    ):
        super().__init__(numbers)
        self.network, self.branches, self.size = network, tuple(branches), size
        self.float().eval()

    def facts(self) -> dict:
        """Return what `restored` needs beside the numbers, as plain values."""
        return {"branches": [[b.recipe, list(b.taps)] for b in self.branches], "size": self.size}

    @classmethod
    def restored(cls, facts: dict, state: dict[str, Tensor]) -> "FinalNetwork":
        """Return the network of saved facts and numbers; float16 becomes float32."""
        try:
            branches = [Branch(str(recipe), tuple(taps)) for recipe, taps in facts["branches"]]
            backbones = features.build(branches, filled=False)
            model = cls(backbones, branches, int(facts["size"]), {n: state[n] for n in NUMBERS})
            own = model.state_dict()
            # counted while training, used by nothing here
            counted = {n: t for n, t in own.items() if n.endswith("num_batches_tracked")}
            model.load_state_dict({n: t for n, t in state.items() if n in own} | counted)
            # sizes of its numbers are only known to be right when they have been used
            with torch.inference_mode():
                model(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
        except (RuntimeError, AttributeError, TypeError, LookupError, ValueError) as error:
            first = " ".join(str(error).split())[:200]
            raise BatikError(f"These numbers are not of this network: {first}") from error
        return model

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four `OUTPUTS`."""
        maps, k = self.network.maps(pixels), len(self.means)
        weight, bias = self.weight[:, :k] / self.temperature, self.bias[:k] / self.temperature
        places = features.evidence(maps, weight, bias)
        probabilities, parts = self.answer(features.pool(maps))
        against = places - places.mean(1, keepdim=True)
        return probabilities, self.familiarity(parts), parts[:, 3], against


def to_onnx(network: FinalNetwork, path: Path, notes: dict[str, str]) -> Path:
    """Write a network that takes uint8 ``pixels`` (N, S, S, 3), any N; see `features.build`.

    Kernels are stored as float16 and cast to float32, for the arithmetic, when the file is opened.
    """
    import onnx
    from onnx_ir.passes import common
    from onnxscript import optimizer

    # every step is reported, and the exporter warns of its own history
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            (torch.zeros(2, network.size, network.size, 3, dtype=torch.uint8),),
            input_names=["pixels"],
            output_names=OUTPUTS,
            dynamic_shapes=({0: torch.export.Dim("N", min=1, max=4096)},),
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
    # What depends on no input is computed; otherwise onnxruntime does not merge batch norm into the
    # convolutions, three times as slow. The network's own numbers stay, to be read back; merged
    # here, kernels would not be float16 numbers.
    own = set(program.model.graph.initializers)

    def may_fold(node) -> bool | None:
        reads_own = any(value is not None and value.name in own for value in node.inputs)
        return False if reads_own and node.op_type != "Shape" else None

    optimizer.fold_constants(program.model, onnx_shape_inference=True, should_fold=may_fold)
    common.RemoveUnusedNodesPass()(program.model)
    # paths and line numbers of this machine
    common.ClearMetadataAndDocStringPass()(program.model)
    logging.disable(disabled)
    model = program.model_proto
    del model.graph.value_info[:]
    _store_half(model.graph)
    for key, value in {"network": json.dumps(network.facts()), **notes}.items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    with replacing(path) as partial:
        partial.write_bytes(model.SerializeToString(deterministic=True))
    return path


def _store_half(graph) -> None:
    """Replace large float32 kernels by float16 ones and a cast, which onnxruntime does once."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.FLOAT and values.ndim == 4 and values.size >= 32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)


def check(path: Path, network: FinalNetwork, pixels: np.ndarray) -> float:
    """Return the largest difference of the file's outputs to the network's, relative above 1."""
    theirs = open_session(path, 1).run(list(OUTPUTS), {"pixels": pixels})
    with torch.inference_mode():
        ours = network(torch.from_numpy(pixels))
    difference = max(
        float((np.abs(a - b.numpy()) / np.maximum(1, np.abs(b.numpy()))).max())
        for a, b in zip(theirs, ours, strict=True)
    )
    if not difference <= TOLERANCE:  # also a NaN
        raise BatikError(f"{path} differs from the torch network by {difference:.2g}: wrong export")
    return difference


def read(folder: Path | str | None = None) -> FinalNetwork:
    """Read the torch network back out of a model folder; None takes the committed one."""
    import onnx
    from onnx import numpy_helper

    path = predict.Predictor.load(folder, threads=1).folder / "model.onnx"
    model = onnx.load(path)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    if "network" not in notes:
        raise BatikError(f"{path} is of an older version: 'python -m batik_utils build' makes one.")
    state = {
        tensor.name.removesuffix("_half"): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    return FinalNetwork.restored(json.loads(notes["network"]), state)


def save(network: FinalNetwork, path: Path) -> Path:
    """Write all numbers and facts to one ``.safetensors`` or ``.pt`` file."""
    from safetensors.torch import save_file

    facts = {"format": _FORMAT, "network": json.dumps(network.facts())}
    state = {
        name: (tensor.half() if is_stored_half(name, tensor) else tensor).contiguous()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    with replacing(path) as partial:
        if path.suffix == ".pt":
            torch.save({**facts, "state": state}, partial)
        else:
            save_file(state, partial, metadata=facts)
    return path


def load(path: Path) -> FinalNetwork:
    """Open a file of `save`. Nothing in it is executed: a ``.pt`` may hold plain values alone."""
    from safetensors import safe_open

    try:
        if path.suffix == ".pt":
            facts = torch.load(path, map_location="cpu", weights_only=True)
            state = facts["state"]
        else:
            with safe_open(path, framework="pt") as opened:
                facts = opened.metadata()
                state = {name: opened.get_tensor(name) for name in list(opened.keys())}
        if facts["format"] != _FORMAT:
            raise ValueError(facts["format"])
        known = json.loads(facts["network"])
    # a damaged or foreign file may raise anything; torch's own text on pickles advises to switch
    # the protection off, so it is not repeated
    except Exception as error:
        raise BatikError(
            f"{path} was refused ({type(error).__name__}): it is missing, damaged, of another "
            f"project or version, or holds objects that could run code. Make it with 'python -m "
            f"batik_utils export'."
        ) from error
    return FinalNetwork.restored(known, state)


def write(output: Path, kind: str, folder: Path | str | None = None) -> Path:
    """Write the deployed model in one of `FORMATS`, and check it against the ONNX file."""
    if kind not in FORMATS:
        raise BatikError(f"Unknown format '{kind}': use web, space, {', '.join(FORMATS)}.")
    source = predict.Predictor.load(folder, threads=1).folder
    if kind == "onnx":
        return Path(shutil.copytree(source, output / "onnx", dirs_exist_ok=True))
    network = read(source)
    path = save(network, output / f"model.{kind}")
    noise = np.random.default_rng(0).integers(0, 256, (2, network.size, network.size, 3))
    check(source / "model.onnx", load(path), noise.astype(np.uint8))
    return path
