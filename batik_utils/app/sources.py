"""What to look at: files, folders, patterns, standard input; and names that can be printed."""

import contextlib
import glob
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from batik_utils.errors import BatikError
from batik_utils.images.files import MAX_BYTES, is_visible, walk

# what a folder of pictures may hold beside them without each being named as refused
_NOT_PICTURES = {".txt", ".csv", ".json", ".md", ".ini", ".db", ".ds_store", ".py", ".xml", ".zip"}


class Upload(NamedTuple):
    """Content of a file that lies nowhere, and the name that it came with."""

    name: str
    content: bytes


def files(named: Iterable[Path | str]) -> Iterator[Path | Upload]:
    """Yield the files that names mean; folders are read with all below them.

    Hidden files and plainly other kinds (texts, tables, archives) in a folder are passed over; a
    file that is named itself is yielded, so that its refusal is seen. ``*``, ``?`` and ``**`` in a
    name that no file has stand for others, ``-`` for standard input. BatikError: an address.
    """
    for given in map(str, named):
        if given == "-":
            yield Upload("-", sys.stdin.buffer.read(MAX_BYTES + 1))
            continue
        if given.lower().startswith(("http://", "https://", "ftp://", "s3://", "gs://")):
            raise BatikError(
                f"{given} is an internet address, and nothing is fetched unasked: download it "
                f"first, e.g. curl -L '{given}' | python -m batik_utils predict -"
            )
        name = Path(given).expanduser()
        found: list[Path] = []
        folder = False
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            folder = name.is_dir()
            if not os.path.lexists(name) and glob.has_magic(given):
                # not Path.glob, which takes no absolute pattern
                matches = glob.glob(str(name), recursive=True)  # noqa: PTH207
                found = [Path(one) for one in sorted(matches)]
        for one in found or [name]:
            if one.is_dir() if found else folder:
                yield from (p for p in walk(one) if p.suffix.lower() not in _NOT_PICTURES)
            else:
                yield one


def is_named_like_a_picture(path: PurePath, folder: PurePath) -> bool:
    """Return whether a file below a folder is neither hidden nor plainly of another kind."""
    return is_visible(path, folder) and path.suffix.lower() not in _NOT_PICTURES


def printable(name: Path | str) -> str:
    """Return a file's name with what cannot be printed escaped: other encodings, line ends."""
    text = str(name)
    with contextlib.suppress(UnicodeError):  # bytes that are no UTF-8
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
