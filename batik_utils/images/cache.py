"""Arrays that took long to compute, stored in the cache folder: whole or not at all.

    >>> from batik_utils.images import cache
    >>> pixels = cache.cached("pixels", ("224", "bilinear", digest), 150, decode_all)

A file is named by everything its array depends on, so a changed picture, setting or weight makes
another file, and the folder may be removed at any time. Two processes that want the same array
take turns: the second one reads what the first one made.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from batik_utils.errors import NotWritten, expanded, locked, replacing

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder for what can be made again: ``BATIK_CACHE_DIR`` or ``~/.cache/batik``."""
    if given := os.environ.get("BATIK_CACHE_DIR"):
        return expanded(given)
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "batik"


def folder() -> Path:
    """Return where arrays are stored."""
    return cache_folder() / "arrays"


def digest(parts: Iterable[str | bytes]) -> str:
    """Return a name for what an array depends on: 20 hexadecimal digits of a SHA-256."""
    found = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        # the length keeps ("ab", "c") apart from ("a", "bc")
        found.update(f"{len(part)} ".encode())
        found.update(part)
    return found.hexdigest()[:20]


def cached(
    kind: str, parts: Iterable[str | bytes], n: int, rows: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """Return an array of ``n`` rows from its file, or compute and store it.

    ``kind`` and ``parts`` (everything that the array depends on) name the file. ``rows`` yields the
    rows, of one shape and type; they go to the file as they come, so the array need not fit into
    memory. The result is mapped from the file; changes to it stay in memory. Where the cache folder
    cannot be written, a warning says so and the array is in memory.
    """
    path = folder() / f"{kind}-{digest(parts)}.npy"
    if (found := _read(path)) is not None:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # the system frees the lock of a process that dies
        with locked(path.with_suffix(".lock")):
            if (found := _read(path)) is None:
                with replacing(path) as partial:
                    _write(partial, n, rows())
                found = _read(path)
    except (NotWritten, OSError) as error:
        log.warning("The array goes to memory, not to the cache: %s", error)
    return np.stack(list(rows())) if found is None else found


def _read(path: Path) -> np.ndarray | None:
    """Return the array of a file, mapped; None if there is no whole one."""
    try:
        return np.load(path, mmap_mode="c")
    except FileNotFoundError:
        return None
    # after a crash of the machine, or written by something else
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged (%s) and made again.", path, error)
        return None


def _write(path: Path, n: int, rows: Iterable[np.ndarray]) -> None:
    with path.open("wb") as stream:
        count = 0
        for count, row in enumerate(rows, 1):
            if count == 1:
                shape = (n, *row.shape)
                header = {"descr": row.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(stream, header)
            if row.shape != shape[1:] or row.dtype.str != header["descr"] or count > n:
                raise ValueError(f"row {count} of {n} is {row.dtype} {row.shape}, not {shape[1:]}")
            stream.write(np.ascontiguousarray(row).data)
        if count != n:
            raise ValueError(f"{count} rows were given, not {n}")
