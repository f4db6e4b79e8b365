"""A folder with a model: what must lie in it, checked before it is used, and its thresholds."""

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from batik_utils.errors import PROJECT, BatikError
from batik_utils.images.resize import Framing

if TYPE_CHECKING:
    import onnxruntime

# calibrated probability from which an older model's answer is called sure
_SURE_FROM = 0.7


@dataclass(frozen=True)
class Rules:
    """Thresholds of ``labels.json``.

    ``classes`` are in the order of the probabilities. Below ``familiarity`` no motif is named;
    below ``cloth`` such a picture shows no cloth either (NaN: the model cannot tell). From
    probability ``sure_from`` the motif is named as sure, from ``probably_from`` one is named at
    all, else the likeliest two.
    """

    classes: tuple[str, ...]
    familiarity: float
    cloth: float = math.nan
    sure_from: float = _SURE_FROM
    probably_from: float = _SURE_FROM

    @classmethod
    def from_labels(cls, path: Path) -> "Rules":
        """Read ``labels.json``."""
        labels = read_json(path)
        try:
            sure_from = float(labels.get("sure_from", _SURE_FROM))
            return cls(
                tuple(str(name) for name in labels["classes"]),
                float(labels["familiarity_threshold"]),
                float(labels.get("cloth_threshold", math.nan)),
                sure_from,
                float(labels.get("probably_from", sure_from)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BatikError(f"{path} does not say what it must ({error!r}).") from error


def default_folder() -> Path:
    """Return ``BATIK_MODEL_DIR``, or the model that is committed with the project."""
    named = os.environ.get("BATIK_MODEL_DIR", "")
    return Path(named).expanduser() if named else PROJECT / "results" / "kaggle" / "model"


def verify(folder: Path) -> None:
    """Check every file of a model folder against its ``SHA256SUMS``.

    Raises:
        BatikError: the folder or a file is missing, or a file is not the one that was published.
    """
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
    for name in ("model.onnx", "preprocessing.json", "labels.json"):
        if name not in sums:
            raise BatikError(f"{folder / 'SHA256SUMS'} does not name {name}.")
    for name, digest in sums.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise BatikError(
                f"{folder / name} cannot be read ({error.strerror}): fetch the model again."
            ) from error
        if hashlib.sha256(content).hexdigest() == digest.lower():
            continue
        unix = hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest()
        remedy = (
            "its line ends were changed, as git does with core.autocrlf: clone with "
            "'git clone -c core.autocrlf=false'"
            if unix == digest.lower()
            else "its SHA-256 differs from SHA256SUMS: fetch the model again"
        )
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


def check_session(
    session: "onnxruntime.InferenceSession", framing: Framing, classes: int, folder: Path
) -> None:
    """Raise a `BatikError` where inputs, outputs or shapes are not those of such a model."""
    size, names = framing.size, ["probabilities", "familiarity"]
    found = {put.name: (put.type, list(put.shape[1:])) for put in session.get_inputs()}
    if found != {"pixels": ("tensor(uint8)", [size, size, 3])}:
        raise BatikError(
            f"{folder / 'model.onnx'} takes {found}; expected pixels (N, {size}, {size}, 3), uint8."
        )
    if missing := set(names) - {put.name for put in session.get_outputs()}:
        raise BatikError(f"{folder / 'model.onnx'} does not give {', '.join(sorted(missing))}.")
    answers = session.run(names, {"pixels": np.zeros((2, size, size, 3), np.uint8)})
    shapes = [answer.shape for answer in answers]
    if shapes != [(2, classes), (2,)]:
        raise BatikError(
            f"{folder / 'model.onnx'} answers in shapes {shapes}; expected (2, {classes}) and "
            "(2,), as in labels.json."
        )
