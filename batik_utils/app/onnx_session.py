"""An ONNX file becomes an onnxruntime session on the CPU; without torch."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


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

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
