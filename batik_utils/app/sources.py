"""What to look at: files, folders, patterns, standard input; and names that can be printed."""

import contextlib
import glob
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath
from typing import NamedTuple

from batik_utils.errors import BatikError, expanded
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
            content = sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin else b""  # closed: "<&-"
            yield Upload("-", content)
            continue
        if re.match(r"[a-z][a-z0-9+.-]+://", given, re.IGNORECASE):
            raise BatikError(
                f"{given} is an address, and nothing is fetched unasked: download it "
                f"first, e.g. curl -L '{given}' | python -m batik_utils predict -"
            )
        if not given:
            raise BatikError("A name is empty: name a picture or a folder, or '.' for this folder.")
        found = [Path(given) if os.path.lexists(given) else expanded(given)]
        if glob.has_magic(given) and not os.path.lexists(found[0]):
            # not Path.glob, which takes no absolute pattern
            matches = glob.glob(str(found[0]), recursive=True)  # noqa: PTH207
            found = sorted(map(Path, matches)) or found
        for path in found:
            if os.path.isdir(path):  # noqa: PTH112  False for a name that no file can have
                yield from (p for p in walk(path) if p.suffix.lower() not in _NOT_PICTURES)
            else:
                yield path


def is_named_like_a_picture(path: PurePath, folder: PurePath) -> bool:
    """Return whether a file below a folder is neither hidden nor plainly of another kind."""
    return is_visible(path, folder) and path.suffix.lower() not in _NOT_PICTURES


def printable(name: "Path | str | Upload") -> str:
    """Return a file's name with what cannot be printed escaped: other encodings, line ends."""
    text = name.name if isinstance(name, Upload) else str(name)
    with contextlib.suppress(UnicodeError):  # bytes that are no UTF-8
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)
