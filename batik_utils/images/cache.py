"""Arrays that took long to compute, stored in the cache folder: whole or not at all.

A changed picture, setting or weight makes another file; the folder may be removed at any time. Of
two processes that want the same array the second one reads what the first one made.
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


def cached(
    kind: str, parts: Iterable[str | bytes], n: int, rows: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """Return an array of ``n`` rows from its file, or compute and store it.

    ``kind`` and ``parts`` (all that it depends on) name the file. ``rows`` yields rows of one shape
    and type, written as they come; the result is mapped from the file, changes to it stay in
    memory. Where the folder cannot be written, a warning says so and all of it is in memory.
    """
    parts = [part.encode() if isinstance(part, str) else part for part in parts]
    # the length keeps ("ab", "c") apart from ("a", "bc")
    name = hashlib.sha256(b"".join(b"%d %s" % (len(part), part) for part in parts)).hexdigest()
    path = folder() / f"{kind}-{name[:20]}.npy"
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
    except OSError:  # there is none, or it cannot be read
        return None
    except (ValueError, EOFError) as error:  # after a crash of the machine, or of something else
        log.warning("%s is damaged (%s) and made again.", path, error)
        return None


def _write(path: Path, n: int, rows: Iterable[np.ndarray]) -> None:
    with path.open("wb") as stream:
        for k, row in enumerate(rows):
            if k == 0:
                header = {"descr": row.dtype.str, "fortran_order": False, "shape": (n, *row.shape)}
                np.lib.format.write_array_header_2_0(stream, header)
            stream.write(np.ascontiguousarray(row).data)
