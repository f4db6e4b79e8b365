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
from batik_utils.images.resize import Preprocessing

if TYPE_CHECKING:
    import onnxruntime


@dataclass(frozen=True)
class Rules:
    """Thresholds of ``labels.json``; the defaults are an older model's.

    ``classes`` are in the order of the probabilities. Below ``familiarity`` no motif is named;
    below ``cloth`` such a picture shows no cloth either (NaN: the model cannot tell). From
    ``sure_from`` and ``sure_familiarity`` the motif is sure, from ``probably_from`` it is named
    alone, else with the second.
    """

    classes: tuple[str, ...]
    familiarity: float
    cloth: float = math.nan
    sure_from: float = 0.7
    sure_familiarity: float = -math.inf
    probably_from: float = 0.7

    @classmethod
    def from_labels(cls, path: Path) -> "Rules":
        """Read ``labels.json``."""
        labels = read_json(path)
        known = ("sure_from", "sure_familiarity", "probably_from")
        try:
            more = {name: float(labels[name]) for name in known if name in labels}
            more["cloth"] = float(labels.get("cloth_threshold", math.nan))
            classes = tuple(str(name) for name in labels["classes"])
            return cls(classes, float(labels["familiarity_threshold"]), **more)
        except (KeyError, TypeError, ValueError) as error:
            raise BatikError(f"{path} does not say what it must ({error!r}).") from error


def default_folder() -> Path:
    """Return ``BATIK_MODEL_DIR``, or the model that is committed with the project."""
    named = os.environ.get("BATIK_MODEL_DIR", "")
    return Path(named).expanduser() if named else PROJECT / "results" / "kaggle" / "model"


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
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            raise BatikError(
                f"{folder / name} cannot be read ({error.strerror}): fetch the model again."
            ) from error
        if hashlib.sha256(content).hexdigest() == digest.lower():
            continue
        remedy = "its SHA-256 differs from SHA256SUMS: fetch the model again"
        if hashlib.sha256(content.replace(b"\r\n", b"\n")).hexdigest() == digest.lower():
            remedy = "git changed its line ends: clone with 'git clone -c core.autocrlf=false'"
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
    if (found := (values.get("fit"), values.get("colour"))) != ("squash", "RGB"):
        raise BatikError(f"{path} asks for fit and colour {found}; only squash and RGB are known.")
    try:
        shape = Preprocessing(size=int(values["size"]), interpolation=values["interpolation"])
    except (KeyError, TypeError, ValueError) as error:
        raise BatikError(f"{path} is incomplete or damaged ({error!r}).") from error
    return shape.size, shape.interpolation


def check(session: "onnxruntime.InferenceSession", size: int, classes: int, path: Path) -> None:
    """Raise a `BatikError` where inputs, outputs or shapes are not those of such a model."""
    names = ["probabilities", "familiarity"]
    found = {put.name: (put.type, list(put.shape[1:])) for put in session.get_inputs()}
    if found != {"pixels": ("tensor(uint8)", [size, size, 3])}:
        raise BatikError(f"{path} takes {found}; expected pixels (N, {size}, {size}, 3), uint8.")
    if missing := set(names) - {put.name for put in session.get_outputs()}:
        raise BatikError(f"{path} does not give {', '.join(sorted(missing))}.")
    answers = session.run(names, {"pixels": np.zeros((2, size, size, 3), np.uint8)})
    if (shapes := [answer.shape for answer in answers]) != [(2, classes), (2,)]:
        raise BatikError(f"{path} answers in shapes {shapes}; expected (2, {classes}) and (2,).")
