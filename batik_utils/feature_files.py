"""Features of very many pictures: computed in lots, each in a file of its own.

    >>> from batik_utils import embedding, feature_files
    >>> for path in feature_files.write(network, paths, Path("features")):
    ...     pass
    >>> for names, features in feature_files.read(Path("features")):
    ...     print(features.shape)  # (256, F)

Memory holds one lot, whatever the number of pictures. A lot's file appears when it is complete, so
an interruption loses one lot at most: the same call goes on after the last one.
"""

import itertools
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import nn

from batik_utils import embedding, models, pictures
from batik_utils.errors import BatikError
from batik_utils.pictures import PictureError

log = logging.getLogger(__name__)

#: Pictures a file.
LOT = 256


def write(
    network: nn.Module,
    paths: Iterable[Path],
    folder: Path,
    *,
    size: int = embedding.SIZE,
    lot: int = LOT,
    batch: int = 4,
    workers: int = 0,
) -> Iterator[Path]:
    """Compute the features that are missing and yield each path as it is done.

    Args:
        network: of `embedding.build`.
        paths: picture files; may be endless.
        folder: ``<number of the lot>.npz`` with ``names`` (N,), ``features`` float32 (N, F; NaN for
            a file that is no whole picture, which is also logged) and ``network``, its digest.
        size: side of the square (px).
        lot: pictures a file.
        batch: pictures that go through the network at once.
        workers: threads that open pictures meanwhile; 0 for one a core.

    Raises:
        BatikError: a file in the folder belongs to other pictures or to another network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made_by = f"{models.fingerprint(network)} {size} {embedding.INTERPOLATION}"
    remaining = iter(paths)
    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        for number in itertools.count():
            names = list(itertools.islice(remaining, lot))
            if not names:
                return
            file = folder / f"{number:06}.npz"
            if not _is_there(file, names, made_by):
                rows = _features(network, names, pool, size, batch)
                partial = file.with_suffix(".partial")
                with partial.open("wb") as stream:
                    np.savez(stream, names=[*map(str, names)], features=rows, network=made_by)
                partial.replace(file)
            yield from names


def read(folder: Path) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield names and features (N, F) of each lot, in order."""
    for file in sorted(folder.glob("*.npz")):
        with np.load(file) as saved:
            yield saved["names"].tolist(), saved["features"]


def _is_there(file: Path, names: list[Path], made_by: str) -> bool:
    if not file.is_file():
        return False
    with np.load(file) as saved:
        if saved["names"].tolist() != [*map(str, names)] or str(saved["network"]) != made_by:
            raise BatikError(
                f"{file} holds features of other pictures or of another network: choose another "
                f"folder, or remove this one."
            )
    return True


def _features(
    network: nn.Module, names: list[Path], pool: ThreadPoolExecutor, size: int, batch: int
) -> np.ndarray:
    def opened(path: Path) -> np.ndarray | None:
        try:
            return embedding.pixels_of(pictures.open_picture(path), size)
        except PictureError as error:
            log.warning("%s: %s", path, error)
            return None

    queue, parts = iter(names), []
    # twice a batch is opened ahead of the network, no more
    waiting = deque(pool.submit(opened, path) for path in itertools.islice(queue, 2 * batch))
    while waiting:
        group = [waiting.popleft().result() for _ in range(min(batch, len(waiting)))]
        waiting.extend(pool.submit(opened, path) for path in itertools.islice(queue, batch))
        square = np.zeros((size, size, 3), np.uint8)
        stack = np.stack([square if pixels is None else pixels for pixels in group])
        with torch.inference_mode():
            rows = network(torch.from_numpy(stack)).numpy()
        rows[[pixels is None for pixels in group]] = np.nan
        parts.append(rows)
    return np.concatenate(parts)
