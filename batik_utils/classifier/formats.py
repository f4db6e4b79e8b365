"""The deployed model in other formats: ONNX, safetensors, and the pickle ``.pt`` of the course.

    python -m batik_utils export --format safetensors,pt --output build/formats
    >>> from batik_utils.classifier import formats
    >>> model = formats.from_onnx("results/kaggle/model")
    >>> formats.load(formats.save(model, "model.safetensors")).predict(pixels)
    (array([[0.02, 0.03, 0.95]], dtype=float32), array([1.3], dtype=float32))

The model is read back out of its ONNX file, so no training picture is needed. Both files hold the
same: every number of the network by name, kernels as float16 as in the ONNX file, and what belongs
to them: backbones, motifs, threshold, framing, digest of the data. Source of the plain format:
https://huggingface.co/docs/safetensors. Introduced in notebook 05.
"""

import json
import os
import pickle
import shutil
import struct
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from batik_utils.app import predict
from batik_utils.classifier import build, embedding, export, final, model_card
from batik_utils.classifier.embedding import Branch
from batik_utils.errors import BatikError
from batik_utils.images.resize import Framing

#: What `write` makes; ``int8`` is made by `batik_utils.quantised`.
FORMATS = ("onnx", "safetensors", "pt")
_FORMAT = "batik-model-1"
_KEYS = {"format", "branches", "classes", "threshold", "framing", "dataset", "candidate"}
# what torch, its unpickler and safetensors raise on damaged or foreign files, as in checkpoints
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    struct.error,
)


@dataclass(frozen=True)
class TorchModel:
    """The deployed model as a torch network, with all that is needed to use it.

    Attributes:
        network: uint8 pixels (N, S, S, 3) to probabilities (N, K) and familiarity (N,).
        branches: the backbones and where they are read.
        classes: motifs in the order of the probabilities.
        threshold: familiarity under which the answer is "none of these".
        framing: how pictures are brought to the square.
        dataset: digest of the data set that it learned from.
        candidate: name of what was chosen (`batik_utils.selection`).
    """

    network: final.FinalNetwork = field(repr=False)
    branches: tuple[Branch, ...]
    classes: tuple[str, ...]
    threshold: float
    framing: Framing
    dataset: str
    candidate: str

    def predict(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return probabilities (N, K) and familiarity (N,) of uint8 pixels (N, S, S, 3)."""
        with torch.inference_mode():
            probabilities, familiarity = self.network(torch.from_numpy(pixels))
        return probabilities.numpy(), familiarity.numpy()

    def facts(self) -> dict:
        """Return all but the network as plain values, for the file."""
        return {
            "format": _FORMAT,
            "branches": [[branch.recipe, list(branch.taps)] for branch in self.branches],
            "classes": list(self.classes),
            "threshold": self.threshold,
            "framing": self.framing.as_dict(),
            "dataset": self.dataset,
            "candidate": self.candidate,
        }

    def state(self) -> dict[str, Tensor]:
        """Return every number by name; kernels, which are float16 numbers, as float16."""
        return {
            name: (tensor.half() if embedding.is_stored_half(name, tensor) else tensor).contiguous()
            for name, tensor in self.network.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }


def from_onnx(folder: Path | str | None = None) -> TorchModel:
    """Read the torch network back out of a model folder.

    Args:
        folder: of `batik_utils.build`; None takes `predict.default_folder`.

    Raises:
        BatikError: the folder is not whole, or its model is none of ours.
    """
    import onnx
    from onnx import numpy_helper

    predictor = predict.Predictor.load(folder, threads=1)
    path = predictor.folder / "model.onnx"
    model = onnx.load(path)
    notes = {entry.key: entry.value for entry in model.metadata_props}
    candidate = notes.get("candidate", "")
    sets = final.subsets()
    name = candidate.split(" ")[0]
    if name not in sets:
        raise BatikError(
            f"{path} does not say which network it is (candidate '{candidate}', known: "
            f"{', '.join(sets)}): make it with 'python -m batik_utils build'."
        )
    network = embedding.build_untrained(sets[name])
    found = {
        tensor.name.removesuffix("_half"): torch.from_numpy(numpy_helper.to_array(tensor).copy())
        for tensor in model.graph.initializer
    }
    # besides the network's own numbers the exporter keeps some of its operators'
    inner = {f"network.{key}" for key in network.state_dict()}
    state = {
        key: values
        for key, values in found.items()
        if key in inner or final.FinalNetwork.OWN.fullmatch(key)
    }
    return TorchModel(
        final.FinalNetwork.filled(network, state),
        sets[name],
        predictor.classes,
        predictor.threshold,
        Framing(predictor.size, "squash", predictor.interpolation),
        notes.get("dataset", ""),
        candidate,
    )


def save(model: TorchModel, path: Path | str) -> Path:
    """Write one file; it appears whole or not at all.

    Args:
        model: what to write.
        path: ends in ``.safetensors`` or ``.pt``.

    Raises:
        BatikError: another ending.
    """
    from safetensors.torch import save_file

    path = Path(path)
    _check_suffix(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial{os.getpid()}")
    try:
        if path.suffix == ".pt":
            torch.save({**model.facts(), "state": model.state()}, partial)
        else:
            # its header holds text alone
            facts = {key: json.dumps(value) for key, value in model.facts().items()}
            save_file(model.state(), partial, metadata=facts)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(path: Path | str) -> TorchModel:
    """Open a file of `save`. Nothing in it is executed: a ``.pt`` may hold plain values alone.

    Raises:
        BatikError: missing, damaged, foreign, or holding anything that could run code.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise BatikError(f"There is no file {path}: make it with 'python -m batik_utils export'.")
    try:
        facts, state = (_read_pickle if path.suffix == ".pt" else _read_safetensors)(path)
    except pickle.UnpicklingError as error:
        # torch's own text advises to switch the protection off, so it is not repeated
        raise BatikError(
            f"{path} was refused: it holds objects that could run code, or is no model. Only open "
            f"files saved by this project."
        ) from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    if facts.get("format") != _FORMAT or set(facts) != _KEYS:
        raise BatikError(f"{path} is of another project or version: only '{_FORMAT}' is opened.")
    try:
        branches = tuple(Branch(recipe, tuple(taps)) for recipe, taps in facts["branches"])
        return TorchModel(
            final.FinalNetwork.filled(embedding.build_untrained(branches), state),
            branches,
            tuple(str(name) for name in facts["classes"]),
            float(facts["threshold"]),
            Framing.from_dict(facts["framing"]),
            str(facts["dataset"]),
            str(facts["candidate"]),
        )
    except BatikError as error:
        raise BatikError(f"{path} does not fit this version: {error}") from error
    except _DAMAGE as error:
        raise _damaged(path, error) from error


def write(
    output: Path, formats: Sequence[str] = FORMATS, folder: Path | str | None = None
) -> list[Path]:
    """Write the deployed model in other formats, and check each against the ONNX file.

    Args:
        output: folder; made if it is not there.
        formats: of `FORMATS`. ``onnx`` writes the whole model folder anew, as ``build`` would with
            this version of the exporter.
        folder: the model; None takes `predict.default_folder`.

    Returns:
        What was written: files, and for ``onnx`` a folder.

    Raises:
        BatikError: an unknown format, or a file that does not answer as the model does.
    """
    if wrong := set(formats) - set(FORMATS):
        raise BatikError(f"Unknown format '{sorted(wrong)[0]}': use {', '.join(FORMATS)}.")
    model = from_onnx(folder)
    source = predict.default_folder() if folder is None else Path(folder)
    made = []
    for name in formats:
        if name == "onnx":
            made.append(_write_folder(model, source, output / "onnx"))
            opened = from_onnx(made[-1])
        else:
            made.append(save(model, output / f"model.{name}"))
            opened = load(made[-1])
        export.check(source / "model.onnx", opened.network, probe(model.framing.size))
    return made


def _write_folder(model: TorchModel, source: Path, target: Path) -> Path:
    """Write a model folder as ``build`` does, its card and metrics taken from another one."""
    copy_folder(source, target)
    path = export.to_onnx(
        model.network,
        target / "model.onnx",
        size=model.framing.size,
        outputs=("probabilities", "familiarity"),
        notes={"dataset": model.dataset, "candidate": model.candidate},
    )
    found = json.loads((source / "metrics.json").read_text(encoding="utf-8"))
    found["model"] |= {
        "megabytes": path.stat().st_size / 1e6,
        "largest_difference_to_torch": export.check(path, model.network, probe(model.framing.size)),
    }
    build.write_json(target / "metrics.json", found)
    (target / "MODEL_CARD.md").write_text(model_card.text(found), encoding="utf-8")
    build.write_sums(target)
    return target


def probe(size: int, number: int = 2) -> np.ndarray:
    """Return pixels (number, size, size, 3) to compare networks on: drawn cloth."""
    from batik_utils.images import cloth as synthetic
    from batik_utils.images.motifs import MOTIFS

    drawn = [synthetic.draw(MOTIFS[k % len(MOTIFS)], k) for k in range(number)]
    return np.stack([embedding.pixels_of(picture, size) for picture in drawn])


def copy_folder(source: Path, target: Path) -> Path:
    """Copy what belongs to a model, without ``model.onnx`` and ``SHA256SUMS``."""
    target.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file() and path.name not in ("model.onnx", "SHA256SUMS"):
            shutil.copyfile(path, target / path.name)
    return target


def _read_pickle(path: Path) -> tuple[dict, dict[str, Tensor]]:
    with warnings.catch_warnings():
        # what torch would warn of in a foreign pickle, the error says
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        content = torch.load(path, map_location="cpu", weights_only=True)
    state = content.pop("state")
    return content, dict(state)


def _read_safetensors(path: Path) -> tuple[dict, dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            facts = {k: json.loads(v) for k, v in (opened.metadata() or {}).items()}
            return facts, {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".safetensors", ".pt"):
        raise BatikError(f"{path} must end in .safetensors or .pt.")


def _damaged(path: Path, error: Exception) -> BatikError:
    first = next(iter(str(error).splitlines()), type(error).__name__)
    return BatikError(f"{path} is damaged or no model ({first}): make or copy it again.")
