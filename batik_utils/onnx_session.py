"""An ONNX file becomes an onnxruntime session that is as fast as it can be; without torch.

A file may hold constants that are still to be computed: limits of activations, empty biases,
kernels that are stored as float16 and cast (`export`). onnxruntime computes them once, but only
after it has looked for batch norms and activations to merge into convolutions, and then finds none
whose numbers are known: a picture takes three times as long. So the file is folded first, and the
session opened on the result. Its answers differ by rounding alone (tested).
"""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime

log = logging.getLogger(__name__)


def open_session(path: Path, threads: int = 0) -> "onnxruntime.InferenceSession":
    """Open a file on the CPU.

    Args:
        path: ONNX file.
        threads: of one run; 0 leaves it to onnxruntime, which takes all cores.

    Raises:
        Exception: of one of onnxruntime's own types, which have no common one, if the file is no
            model.
        OSError: the file cannot be read.
    """
    import onnxruntime

    options = _options()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(folded(path), options, providers=["CPUExecutionProvider"])


def folded(path: Path) -> bytes:
    """Return a model whose constants are computed, so that the next pass can merge layers.

    Where no temporary file can be written, a warning says so, and the file is returned as it is.
    """
    import onnxruntime

    content = path.read_bytes()
    options = _options()
    # nothing that depends on this machine's processor
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # this session is never run
    options.add_session_config_entry("session.disable_prepacking", "1")
    try:
        with tempfile.TemporaryDirectory(prefix="batik-onnx-") as place:
            written = Path(place) / "folded.onnx"
            options.optimized_model_filepath = str(written)
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
            return written.read_bytes()
    except OSError as error:
        log.warning("No temporary file can be written (%s): the model will be slower.", error)
        return content


def _options() -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return options
