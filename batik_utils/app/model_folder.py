"""A folder with a model: what must lie in it, checked before it is used, and its thresholds."""

import hashlib
import json
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from batik_utils.errors import PROJECT, BatikError, expanded
from batik_utils.images.resize import Preprocessing


@dataclass(frozen=True)
class Rules:
    """Thresholds of ``labels.json``; the defaults are an older model's.

    Below ``familiarity_threshold`` no motif is named; below ``cloth_threshold`` such a picture
    shows no cloth either (NaN: the model cannot tell). From ``sure_from`` and ``sure_familiarity``
    the motif is sure, from ``probably_from`` it is named alone, else with the second.
    """

    classes: tuple[str, ...]
    familiarity_threshold: float
    cloth_threshold: float = math.nan
    sure_from: float = 0.7
    sure_familiarity: float = -math.inf
    probably_from: float = 0.7

    @classmethod
    def read(cls, path: Path) -> "Rules":
        """Read ``labels.json``."""
        labels = read_json(path)
        try:
            numbers = {one.name for one in fields(cls)[1:]} & set(labels)
            classes = tuple(map(str, labels["classes"]))
            return cls(classes, **{name: float(labels[name]) for name in numbers})
        except (KeyError, TypeError, ValueError) as error:
            raise BatikError(f"{path} does not say what it must ({error!r}).") from error


def default_folder() -> Path:
    """Return ``BATIK_MODEL_DIR``, or the model that is committed with the project."""
    return expanded(os.environ.get("BATIK_MODEL_DIR") or PROJECT / "results" / "kaggle" / "model")


def verify(folder: Path) -> None:
    """Check every file of a model folder against its ``SHA256SUMS`` (BatikError)."""
    if not folder.is_dir():
        raise BatikError(
            f"There is no model folder {folder}: name one with --model, or set BATIK_MODEL_DIR."
        )
    try:
        lines = (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
        wanted = dict(reversed(line.split(maxsplit=1)) for line in lines if line.strip())
    except (OSError, ValueError) as error:
        raise BatikError(f"{folder / 'SHA256SUMS'} cannot be read ({error}).") from error
    sums = {name.strip().removeprefix("*").removeprefix("./"): s for name, s in wanted.items()}
    for name in {"model.onnx", "preprocessing.json", "labels.json"} - set(sums):
        raise BatikError(f"{folder / 'SHA256SUMS'} does not name {name}.")
    for name, digest in sums.items():
        remedy = "its SHA-256 differs from SHA256SUMS: fetch the model again"
        try:
            content = (folder / name).read_bytes()
            if hashlib.sha256(content).hexdigest() == digest.lower():
                continue
            if hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == digest.lower():
                remedy = "git changed its line ends: clone with 'git clone -c core.autocrlf=false'"
        except OSError as error:
            remedy = f"{error.strerror}: fetch the model again"
        raise BatikError(f"{folder / name} is not the published file ({remedy}).")


def read_json(path: Path) -> dict:
    """Read a JSON file of names and values."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BatikError(f"{path} cannot be read ({error}).") from error
    if not isinstance(values, dict):
        raise BatikError(f"{path} holds no table of names and values.")
    return values


def read_shape(path: Path) -> tuple[int, str]:
    """Read ``preprocessing.json``: side of the square (px) and interpolation."""
    values = read_json(path)
    try:
        if (values["fit"], values["colour"]) != ("squash", "RGB"):
            raise ValueError("only fit 'squash' and colour 'RGB' are known")
        shape = Preprocessing(size=int(values["size"]), interpolation=values["interpolation"])
    except (KeyError, TypeError, ValueError) as error:
        raise BatikError(f"{path} does not say what it must ({error!r}).") from error
    return shape.size, shape.interpolation


def open_session(path: Path, threads: int = 0) -> Any:
    """Return an onnxruntime session of ``threads`` threads a run; 0: all cores (BatikError)."""
    import onnxruntime  # its usage reports are switched off in `batik_utils`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    where = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=where)
    # onnxruntime has a dozen exception types of its own, without a common one
    except Exception as error:
        raise BatikError(f"{path} is no model that onnxruntime can open ({error}).") from error


def check(session: Any, size: int, classes: int, path: Path) -> None:
    """Raise a `BatikError` where a session's input or outputs are not those of such a model."""
    pixels = np.zeros((1, size, size, 3), np.uint8)
    try:
        found = session.run(["probabilities", "familiarity"], {"pixels": pixels})
        shapes: object = [answer.shape for answer in found]
    except Exception as error:  # noqa: BLE001  as above
        shapes = error
    if shapes != [(1, classes), (1,)]:
        raise BatikError(f"{path} does not name {classes} motifs in {size} px pictures ({shapes}).")
