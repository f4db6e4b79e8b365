"""ONNX file to onnxruntime session on the CPU, without torch.

Its usage reports are switched off where the package is imported, see `batik_utils`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from batik_utils.errors import BatikError

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path, threads: int = 0) -> "onnxruntime.InferenceSession":
    """Open an ONNX file with ``threads`` threads a run; 0: all cores. BatikError if it is none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    try:
        return onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    # onnxruntime has a dozen exception types of its own, without a common one
    except Exception as error:
        raise BatikError(f"{path} is no model that onnxruntime can open ({error}).") from error
