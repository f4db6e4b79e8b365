"""A torch network becomes an ONNX file that needs nothing but onnxruntime, and is compared with it.

    >>> from batik_utils.classifier import export
    >>> export.to_onnx(network, "model.onnx", size=448, outputs=("probabilities", "familiarity"))
    >>> export.check("model.onnx", network, pixels)  # largest difference
    4.8e-07

Introduced in notebook 05.
"""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from batik_utils.app import onnx_session
from batik_utils.classifier.embedding import is_stored_half
from batik_utils.errors import BatikError

#: Version of the ONNX operators in the file; onnxruntime 1.15 and newer know it.
OPSET = 18
#: Largest difference to the torch network that is taken for rounding.
TOLERANCE = 1e-4


def to_onnx(
    network: nn.Module,
    path: str | Path,
    *,
    size: int,
    outputs: Sequence[str],
    notes: dict[str, str] | None = None,
) -> Path:
    """Write a network that takes uint8 pixels (N, size, size, 3), named ``pixels``, any N.

    Convolution kernels are stored as float16 and turned into float32 when the file is opened, so
    that the arithmetic is float32. A network whose kernels are no float16 numbers is refused: the
    file would not give its answers.

    Args:
        network: in evaluation mode; returns a tensor or a tuple of them.
        path: of the file.
        size: side of the square (px).
        outputs: names, in order.
        notes: kept in the file as its metadata.

    Returns:
        The path.

    Raises:
        BatikError: a kernel cannot be stored as float16 without loss.
    """
    import onnx
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    for name, tensor in network.state_dict().items():
        if is_stored_half(name, tensor) and not torch.equal(tensor, tensor.half().float()):
            raise BatikError(
                f"The kernel {name} loses digits as float16: round the network first "
                f"(embedding.build does)."
            )
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    # they tell of every step
    chatty = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # the exporter speaks of its own past and future here
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network.eval(),
                (example,),
                input_names=["pixels"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("N", min=1, max=4096)},),
                opset_version=OPSET,
                dynamo=True,
                # the optimiser would merge batch norm into kernels, which are float16 numbers only
                # as they are; onnxruntime merges them itself, in float32
                optimize=False,
                verbose=False,
            )
            _fold(program.model)
            # what was folded leaves its numbers behind
            RemoveUnusedNodesPass()(program.model)
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)
    model = program.model_proto
    _drop_empty_biases(model.graph)
    _store_half(model.graph)
    _strip(model)
    for key, value in (notes or {}).items():
        model.metadata_props.add(key=key, value=value)
    onnx.checker.check_model(model)
    path = Path(path)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def check(path: str | Path, network: nn.Module, pixels: np.ndarray) -> float:
    """Return the largest difference between the file's answers and the network's.

    Differences are relative where answers are larger than 1.

    Args:
        path: ONNX file.
        network: what it was made from.
        pixels: uint8 (N, size, size, 3).

    Raises:
        BatikError: the difference is above `TOLERANCE`, which is no rounding.
    """
    session = open_session(path)
    theirs = session.run(None, {"pixels": pixels})
    with torch.inference_mode():
        ours = network(torch.from_numpy(pixels))
    ours = ours if isinstance(ours, tuple) else (ours,)
    difference = max(
        float((np.abs(a - b.numpy()) / np.maximum(1, np.abs(b.numpy()))).max())
        for a, b in zip(theirs, ours, strict=True)
    )
    if not difference <= TOLERANCE:  # also a NaN
        raise BatikError(
            f"{path} differs from the torch network by {difference:.2g}, more than {TOLERANCE:g}: "
            f"the export is wrong."
        )
    return difference


def open_session(path: str | Path, threads: int = 1):
    """Return an onnxruntime session on the CPU.

    Args:
        path: ONNX file.
        threads: of one run.

    Raises:
        BatikError: no such file.
    """
    if not Path(path).is_file():
        raise BatikError(f"There is no file {path}: make it with 'python -m batik_utils build'.")
    return onnx_session.open_session(Path(path), threads)


def _fold(model) -> None:
    """Compute once what does not depend on the picture, such as limits and empty biases.

    The exporter leaves them as operators, and onnxruntime then neither merges batch norm into the
    convolutions nor lays out the maps for them: a picture took three times as long. What a network
    calls its own stays as it is, so that it can be read back (`batik_utils.formats`).
    """
    from onnxscript import optimizer

    own = set(model.graph.initializers)

    def may_fold(node) -> bool | None:
        reads_own = any(value is not None and value.name in own for value in node.inputs)
        return False if reads_own and node.op_type != "Shape" else None

    optimizer.fold_constants(model, onnx_shape_inference=True, should_fold=may_fold)


def _drop_empty_biases(graph) -> None:
    """Remove biases of zeros, which the exporter gives to every convolution without one."""
    from onnx import numpy_helper

    empty = {
        tensor.name
        for tensor in graph.initializer
        if len(tensor.dims) == 1 and not numpy_helper.to_array(tensor).any()
    }
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) == 3 and node.input[2] in empty:
            del node.input[2]
    read = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name in empty and t.name not in read]:
        graph.initializer.remove(tensor)


def _store_half(graph) -> None:
    """Replace large float32 kernels by float16 ones and a cast, which onnxruntime does once."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 4:
            continue
        name, values = tensor.name, numpy_helper.to_array(tensor)
        if values.size < 32:
            continue
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.node.insert(0, node)


def _strip(model) -> None:
    """Remove what the exporter notes about the machine and the source: paths, line numbers."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
