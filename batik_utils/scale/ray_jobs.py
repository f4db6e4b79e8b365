"""Very many pictures on Ray: a folder, a Parquet table or an object store.

    python -m batik_utils predict --ray auto s3://museum/archive --csv motifs.csv

Workers hold the ONNX model, one thread each, and read the pictures themselves; names go to them,
answers come back, in the order of the names. Every machine must see the pictures under the same
name (a shared folder, or an address); the model travels.
"""

import functools
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from batik_utils.app import sources, tables
from batik_utils.app.predict import Prediction, Predictor
from batik_utils.app.sources import Upload, printable
from batik_utils.errors import BatikError, need
from batik_utils.images.files import MAX_BYTES, ImageError
from batik_utils.scale import ray_cluster

#: Pictures that a worker is sent at once: what is repeated if it dies. Of a table it is one row
#: group, which the worker reads itself.
BLOCK = 64
#: Columns of a table that can name a picture, and hold one, in the order they are looked for.
_NAMES = ("path", "file", "url", "name")
_CONTENTS = ("bytes", "content", "image")


@dataclass(frozen=True)
class Listing:
    """What to look at, in order: groups of names, or names of Parquet tables; and how many."""

    sources: tuple[tuple[str | Upload, ...] | str, ...]
    count: int


def find(named: Sequence[str]) -> Listing:
    """List files, folders, addresses that fsspec knows (``s3://…``) and ``.parquet`` tables.

    A table has a column ``bytes`` or ``content`` with files' contents, or ``image`` as Hugging Face
    datasets write it, or only names: ``path``, ``file``, ``url`` or ``name``, which may be relative
    to the table's folder.

    Raises:
        BatikError: an address cannot be listed, or a table has none of these columns.
    """
    groups: list[tuple[str | Upload, ...] | str] = []
    count = 0
    for name in map(str, named):
        found = _below(name) if "://" in name else sources.files([name])
        found = [x if isinstance(x, Upload) else str(x) for x in found]
        plain = tuple(x for x in found if not _is_table(x))
        of_tables = [x for x in found if _is_table(x)]
        groups += [*([plain] if plain else []), *of_tables]
        count += len(plain) + sum(_columns(table)[2] for table in of_tables)
    return Listing(tuple(groups), count)


def still_to_do(listing: Listing, classes: Sequence[str], table: Path) -> Listing:
    """Return what an interrupted call left, see `tables.still_to_do`.

    Raises:
        BatikError: Parquet tables are in the listing, whose names only the workers read.
    """
    if unread := [source for source in listing.sources if isinstance(source, str)]:
        raise BatikError(
            f"--resume goes on with files and addresses, not with a Parquet table: name those of "
            f"the pictures of {unread[0]} that are left in another table."
        )
    left = tuple(tables.still_to_do(itertools.chain(*listing.sources), classes, table))
    return Listing((left,) if left else (), len(left))


def stream(
    listing: Listing, predictor: Predictor, *, ray: str, details: bool = False
) -> Iterator[Prediction]:
    """Yield one answer a picture, in their order; ``ray`` as in `ray_cluster.connected`.

    Raises:
        BatikError: Ray is not installed, or no cluster answers.
    """
    blocks: list[tuple] = []
    for source in listing.sources:
        if isinstance(source, str):
            blocks += [(source, group) for group in range(_columns(source)[3])]
        else:
            placed = [(name, _place(name)) for name in source]
            blocks += [(placed[k : k + BLOCK], None) for k in range(0, len(placed), BLOCK)]
    lines = (predictor.folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    names = [line.split(maxsplit=1)[1].strip().lstrip("*") for line in lines if line.strip()]
    model = {name: (predictor.folder / name).read_bytes() for name in [*names, "SHA256SUMS"]}
    if blocks:
        with ray_cluster.connected(ray):
            for answers in ray_cluster.map_on()(Worker(model, details), blocks):
                yield from answers


class Worker:
    """A function from a block of names to answers; the model is opened when it is first called."""

    def __init__(self, model: dict[str, bytes], details: bool):
        self.model = model
        self.details = details

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The model in this process."""
        with tempfile.TemporaryDirectory(prefix="batik-model-") as folder:
            for name, content in self.model.items():
                Path(folder, name).write_bytes(content)
            return Predictor.load(folder, threads=1)

    def __call__(self, block: tuple) -> list[Prediction]:
        """Answer about a list of names and places, or about one row group of a table."""
        names, group = block
        rows = names if group is None else _rows_of(names, group)
        return [
            answer
            for name, place in rows
            for answer in self.predictor.answer(
                [(printable(name), self.square(place))], details=self.details
            )
        ]

    def square(self, place: str | bytes | Upload) -> "np.ndarray | ImageError":
        """Return the pixels of a path, an address or a content, or why it is refused."""
        try:
            if isinstance(place, str):
                place = _fetched(place) if "://" in place else Path(place)
            return self.predictor.square(place)
        except ImageError as error:
            return error


def _rows_of(table: str, group: int) -> Iterator[tuple[str, str | bytes]]:
    """Yield names, and places or contents, of one row group of a table."""
    import fsspec
    from pyarrow import parquet

    named, held, *_ = _columns(table)
    folder = table.rpartition("/")[0]
    with fsspec.open(table, "rb") as stream:
        columns = [column for column in (named, held) if column]
        file = parquet.ParquetFile(stream)
        for part in file.iter_batches(BLOCK, row_groups=[group], columns=columns):
            for row in part.to_pylist():
                name, content = row.get(named), row.get(held)
                if held == "image":
                    image = content or {}
                    name, content = name or image.get("path"), image.get("bytes")
                # an empty cell is an empty file, and not a name to be opened
                content = (content or b"") if held or not name else None
                name = name or f"a picture of {table}"
                whole = "://" in name or Path(name).is_absolute()
                place = name if whole else f"{folder}/{name}"
                yield name, place if content is None else content


def _fetched(address: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(address, "rb") as stream:
            # one byte more than is allowed tells that it is too large
            return stream.read(MAX_BYTES + 1)
    # every kind of store has errors of its own
    except Exception as error:
        raise ImageError(f"cannot be read: {error}", "unreadable") from error


def _place(name: str | Upload) -> str | Upload:
    """Return where a picture is for a worker, which runs in another folder than this process."""
    if isinstance(name, Upload) or "://" in name:
        return name
    return str(Path(name).absolute())


def _is_table(name: str | Upload) -> bool:
    return isinstance(name, str) and name.endswith(".parquet")


@functools.lru_cache
def _columns(table: str) -> tuple[str, str, int, int]:
    """Return a table's columns of names and of contents ("" for none), rows and row groups."""
    parquet = need("pyarrow.parquet", "A Parquet table")
    import fsspec

    try:
        with fsspec.open(table, "rb") as stream:
            file = parquet.ParquetFile(stream)
            there = file.schema_arrow.names
            size = (file.metadata.num_rows, file.metadata.num_row_groups)
    # every kind of store has errors of its own
    except Exception as error:
        raise BatikError(f"{table} cannot be read as a Parquet table ({error}).") from error
    named = next((name for name in _NAMES if name in there), "")
    held = next((name for name in _CONTENTS if name in there), "")
    if not named and not held:
        raise BatikError(
            f"{table} has none of the columns {', '.join(_NAMES + _CONTENTS)} but "
            f"{', '.join(there)}: rename the one that names the pictures."
        )
    return named, held, *size


def _below(address: str) -> list[str]:
    """Return the addresses of what lies at and below one, as `sources.files` chooses."""
    import fsspec

    try:
        store, path = fsspec.url_to_fs(address)
        found = sorted(store.find(path))
    # a missing package, a wrong word, no right to list: every kind of store has errors of its own
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
