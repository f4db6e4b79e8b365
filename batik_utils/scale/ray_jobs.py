"""Very many pictures on Ray: folders, and object stores that fsspec knows.

    python -m batik_utils predict --ray auto s3://museum/archive --csv motifs.csv

Names go to workers that hold the model and read the pictures themselves; answers come back in the
order of the names. Every machine must see the pictures under the same name.
"""

import functools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from batik_utils.app import sources
from batik_utils.app.predict import Prediction, Predictor
from batik_utils.app.sources import Upload, printable
from batik_utils.errors import BatikError
from batik_utils.images.files import MAX_BYTES, ImageError
from batik_utils.scale import ray_cluster

#: Pictures that a worker is sent at once: what is repeated if it dies.
BLOCK = 64


def find(named: Sequence[str]) -> list[Path | str | Upload]:
    """List files, folders and addresses (``s3://…``: text), of one picture or of all below it."""
    found: list[Path | str | Upload] = []
    for name in map(str, named):
        found += _below(name) if "://" in name else sources.files([name])
    return found


def stream(
    names: Sequence[Path | str | Upload], predictor: Predictor, *, ray: str, details: bool = False
) -> Iterator[Prediction]:
    """Yield one answer a picture, in their order; ``ray`` as in `ray_cluster.connected`."""
    model = {file.name: file.read_bytes() for file in predictor.folder.iterdir() if file.is_file()}
    # a worker runs in another folder than this process
    placed = [(name, name.absolute() if isinstance(name, Path) else name) for name in names]
    blocks = [placed[k : k + BLOCK] for k in range(0, len(placed), BLOCK)]
    with ray_cluster.connected(ray):
        for answers in ray_cluster.ray_map(_Worker(model, details), blocks):
            yield from answers


@dataclass
class _Worker:
    """A function from names and places to answers."""

    model: dict[str, bytes]
    details: bool

    @functools.cached_property
    def predictor(self) -> Predictor:
        with tempfile.TemporaryDirectory(prefix="batik-model-") as folder:
            for name, content in self.model.items():
                Path(folder, name).write_bytes(content)
            return _Reader.load(folder, threads=1)

    def __call__(self, block: Sequence[tuple]) -> list[Prediction]:
        answer = functools.partial(self.predictor.answer, details=self.details)
        return [answer(printable(name), place) for name, place in block]


class _Reader(Predictor):
    """A model that is asked about addresses, too."""

    def square(self, source: Path | str | Upload) -> np.ndarray:
        return super().square(_fetched(source) if isinstance(source, str) else source)


def _fetched(address: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(address, "rb") as stream:
            # one byte more than is allowed tells that it is too large
            return stream.read(MAX_BYTES + 1)
    # every kind of store has errors of its own
    except Exception as error:
        raise ImageError(f"cannot be read: {error}", "unreadable") from error


def _below(address: str) -> list[str]:
    """Return the addresses of what lies at and below one, as `sources.files` chooses."""
    import fsspec

    try:
        store, path = fsspec.url_to_fs(address)
        found = sorted(store.find(path))
    # a missing package, a wrong word, no right to list
    except Exception as error:
        raise BatikError(f"{address} cannot be listed ({error}).") from error
    if not found:
        raise BatikError(f"Nothing is found at {address}: check the address.")
    here = PurePosixPath(store._strip_protocol(address))
    return [
        store.unstrip_protocol(name)
        for name in found
        if name == str(here) or sources.is_named_like_a_picture(PurePosixPath(name), here)
    ]
