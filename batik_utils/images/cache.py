"""Arrays that took long to compute, kept in the cache folder: whole or not at all.

    >>> from batik_utils.images import cache as array_cache
    >>> pixels = array_cache.kept("pixels", ("224", "bilinear", digest), 150, decode_all)

What is kept is named by everything it depends on, so a changed picture, setting or weight makes
another file and nothing has to be thrown away by hand; the folder may be removed at any time.
A file is written beside its place and renamed when it is complete, so none is ever seen half
written. Two processes that want the same array take turns: the second one reads what the first
one made.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock

from batik_utils.errors import BatikError

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the folder for what can be made again: ``BATIK_CACHE_DIR`` or ``~/.cache/batik``."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "batik"
    return Path(os.environ.get("BATIK_CACHE_DIR", default))


def folder() -> Path:
    """Return where arrays are kept: below ``BATIK_CACHE_DIR``."""
    return cache_folder() / "arrays"


def digest(parts: Iterable[str | bytes]) -> str:
    """Return a name for what an array depends on: 20 hexadecimal digits of a sha256."""
    found = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        # the length keeps ("ab", "c") apart from ("a", "bc")
        found.update(f"{len(part)} ".encode())
        found.update(part)
    return found.hexdigest()[:20]


def place(kind: str, parts: Iterable[str | bytes]) -> Path:
    """Return the file that holds an array, whether it is there or not."""
    return folder() / f"{kind}-{digest(parts)}.npy"


def kept(
    kind: str, parts: Iterable[str | bytes], n: int, rows: Callable[[], Iterable[np.ndarray]]
) -> np.ndarray:
    """Return an array from its file, or make it and keep it.

    Args:
        kind: a word for the name of the file.
        parts: everything that the array depends on.
        n: number of rows.
        rows: yields the rows, of one shape and type; they go to the file as they come, so the array
            never has to fit into memory.

    Returns:
        The array, mapped from the file: pages are read when they are first looked at. Changes stay
        in memory and never reach the file. If the cache folder cannot be written, a warning says so
        and the array is in memory.
    """
    path = place(kind, parts)
    if (found := read(path)) is not None:
        return found
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # the system frees the lock of a process that dies
            stack.enter_context(FileLock(path.with_suffix(".lock")))
            partial = stack.enter_context(_Partial(path))
        except OSError as error:
            log.warning("%s cannot be written (%s): nothing is kept there.", path, error)
            return np.stack(list(rows()))
        if (found := read(path)) is not None:
            return found
        partial.write(n, rows())
    found = read(path)
    if found is None:
        raise BatikError(f"{path} was removed while it was made: call again.")
    return found


def read(path: Path) -> np.ndarray | None:
    """Return the array of a file, mapped; None if there is no whole one."""
    try:
        return np.load(path, mmap_mode="c")
    except FileNotFoundError:
        return None
    # after a crash of the machine, or written by something else
    except (OSError, ValueError, EOFError) as error:
        log.warning("%s is damaged (%s) and made again.", path, error)
        return None


class _Partial:
    """A file beside its place, that gets its name once it is complete, or disappears."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> "_Partial":
        descriptor, name = tempfile.mkstemp(dir=self.path.parent, suffix=".partial")
        self._stream, self._name = os.fdopen(descriptor, "wb"), Path(name)
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._name.unlink(missing_ok=True)

    def write(self, n: int, rows: Iterable[np.ndarray]) -> None:
        count = 0
        for count, row in enumerate(rows, 1):
            if count == 1:
                shape = (n, *row.shape)
                header = {"descr": row.dtype.str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_2_0(self._stream, header)
            if row.shape != shape[1:] or row.dtype.str != header["descr"] or count > n:
                raise ValueError(f"row {count} of {n} is {row.dtype} {row.shape}, not {shape[1:]}")
            self._stream.write(np.ascontiguousarray(row).data)
        if count != n:
            raise ValueError(f"{count} rows were given, not {n}")
        self._stream.flush()
        # the name must not reach the disk before the numbers
        os.fsync(self._stream.fileno())
        self._name.replace(self.path)
