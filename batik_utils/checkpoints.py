"""Save a trained network as a ``.pt`` file, and open one without trusting it.

Introduced in notebook 05, section "The saved model".
"""

import os
import pickle
import struct
import warnings
import zipfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from batik_utils import __version__, models
from batik_utils.errors import BatikError
from batik_utils.images.resize import Preprocessing
from batik_utils.models import Classifier
from batik_utils.recipes import Recipe

_FORMAT = "batik-checkpoint-1"
_KEYS = {"format", "recipe", "classes", "preprocessing", "dataset", "versions", "state"}
# what torch and its unpickler raise on damaged bytes and on values of another kind
_DAMAGE = (
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    struct.error,
)


class CheckpointError(BatikError):
    """A file that is not a checkpoint of ours, or not a whole one."""


class OutdatedCheckpoint(CheckpointError):
    """A checkpoint of ours that another version of the recipe table wrote."""


@dataclass(frozen=True)
class Checkpoint:
    """A trained network with all that is needed to use it.

    Attributes:
        model: the network, in evaluation mode, on the CPU.
        recipe: how it was trained.
        classes: motifs in class order.
        preprocessing: what it expects.
        dataset: digest of the data set it was trained on.
        versions: of this package, torch and torchvision at saving time.
    """

    model: Classifier
    recipe: Recipe
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    dataset: str
    versions: dict[str, str]


def save(
    path: Path,
    model: Classifier,
    recipe: Recipe,
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    dataset: str,
) -> Path:
    """Write a checkpoint; the file appears whole or not at all.

    Args:
        path: ends in ``.pt``.
        model: trained network.
        recipe: how it was trained.
        classes: motifs in class order.
        preprocessing: what it expects.
        dataset: digest of the data set.

    Returns:
        The path.
    """
    import torchvision

    path.parent.mkdir(parents=True, exist_ok=True)
    # the process number keeps two writers apart
    partial = path.with_suffix(f".partial{os.getpid()}")
    content = {
        "format": _FORMAT,
        "recipe": asdict(recipe),
        "classes": list(classes),
        "preprocessing": preprocessing.as_dict(),
        "dataset": dataset,
        "versions": {
            "batik_utils": __version__,
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
        },
        "state": {k: v.cpu().contiguous() for k, v in model.state_dict().items()},
    }
    try:
        torch.save(content, partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def load(path: Path) -> Checkpoint:
    """Open a checkpoint. Nothing in the file is executed.

    Args:
        path: file written by `save`.

    Returns:
        The checkpoint.

    Raises:
        OutdatedCheckpoint: saved by another version of the recipe table.
        CheckpointError: missing, damaged, foreign, or holding anything but plain values and
            tensors (as a malicious pickle would).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"No checkpoint at {path}: train one first (notebook 03 saves it).")
    try:
        with warnings.catch_warnings():
            # what torch would warn of in a foreign pickle, our error below says
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to switch the protection off, so it is not repeated
        raise CheckpointError(
            f"{path} was refused: it holds objects that could run code, or is no checkpoint. Only "
            f"open files saved by this project."
        ) from error
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} is damaged or no checkpoint ({_first_line(error)}): train or copy it again."
        ) from error
    if (
        not isinstance(content, dict)
        or content.get("format") != _FORMAT
        or set(content) != _KEYS
        or not isinstance(content["recipe"], dict)
        or not isinstance(content["preprocessing"], dict)
        or not isinstance(content["classes"], list)
        or not isinstance(content["state"], dict)
    ):
        raise CheckpointError(
            f"{path} is a file of another project or version: only '{_FORMAT}' can be opened."
        )
    known = {f.name for f in fields(Recipe)}
    if set(content["recipe"]) != known:
        raise OutdatedCheckpoint(
            f"{path} was saved by another version of the recipe table: remove it and train again."
        )
    recipe = Recipe(**content["recipe"])
    try:
        preprocessing = Preprocessing.from_dict(content["preprocessing"])
        model = models.build_untrained(recipe, len(content["classes"]))
        model.load_state_dict(content["state"])
    except BatikError as error:
        raise CheckpointError(f"{path} does not fit this version: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path}: the saved values do not fit recipe '{recipe.name}' ({_first_line(error)})"
        ) from error
    return Checkpoint(
        model=model.eval(),
        recipe=recipe,
        classes=tuple(content["classes"]),
        preprocessing=preprocessing,
        dataset=content["dataset"],
        versions=content["versions"],
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
