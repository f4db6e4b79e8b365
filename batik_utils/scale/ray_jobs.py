"""Very many pictures: a folder, a Parquet table or an object store, through Ray Data.

    python -m batik_utils predict --ray auto s3://museum/archive --csv motifs.csv
    python -m batik_utils predict --ray auto archive.parquet --features features/

Workers hold the ONNX model, one thread each, and read the pictures themselves; names go to them,
answers come back, in the order of the names. Every machine must see the pictures under the same
name (a shared folder, or an address); the model travels. A picture that cannot be read is an answer
too, as in `predict`. Source: Ray Data, https://docs.ray.io/en/latest/data/data.html.
"""

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from batik_utils.app import predict
from batik_utils.app import sources as listings
from batik_utils.app import tables as csv_tables
from batik_utils.app.onnx_session import open_session
from batik_utils.app.predict import Prediction, Predictor
from batik_utils.errors import BatikError, need
from batik_utils.images import files
from batik_utils.images.files import ImageError
from batik_utils.scale import ray_cluster as cluster

#: Pictures that a worker is sent at once, at most: what is repeated if it dies. Of a table it is
#: one row group, which the worker reads itself.
BLOCK = 256
#: Columns of a table that can name a picture, and hold one, in the order they are looked for.
_NAMES = ("path", "file", "url", "name")
_CONTENTS = ("bytes", "content", "image")
#: Output that is added to the model; a name that no layer has.
_FEATURES = "batik_features"


@dataclass(frozen=True)
class Listing:
    """What to look at.

    Attributes:
        sources: paths, addresses, and Parquet tables, in order; each is a list of names of pictures
            or the name of a table.
        count: pictures in all.
    """

    sources: tuple[tuple[str, ...] | str, ...]
    count: int


def find(named: Sequence[str]) -> Listing:
    """List pictures.

    Args:
        named: files, folders, addresses that fsspec knows (``s3://…``, ``file://…``; of one picture
            or of all below it), and ``.parquet`` tables under any of these. A table has a column
            ``bytes`` or ``content`` with files' contents, or ``image`` as Hugging Face datasets
            write it, or only names of pictures: ``path``, ``file``, ``url`` or ``name``, which may
            be relative to the table's folder.

    Raises:
        BatikError: an address cannot be listed, or a table has none of these columns.
    """
    sources: list[tuple[str, ...] | str] = []
    count = 0
    for name in map(str, named):
        names = _below(name) if "://" in name else list(map(str, listings.files([name])))
        plain = tuple(n for n in names if not n.endswith(".parquet"))
        tables = [n for n in names if n.endswith(".parquet")]
        sources += [plain] if plain else []
        sources += tables
        count += len(plain) + sum(map(_rows, tables))
    return Listing(tuple(sources), count)


def still_to_do(listing: Listing, classes: Sequence[str], table: Path) -> Listing:
    """Return what an interrupted call left, see `tables.still_to_do`.

    Raises:
        BatikError: Parquet tables are in the listing, whose names only the workers read.
    """
    if tables := [source for source in listing.sources if isinstance(source, str)]:
        raise BatikError(
            f"--resume goes on with files and addresses, not with a Parquet table: name those of "
            f"the pictures of {tables[0]} that are left in another table."
        )
    names = tuple(
        csv_tables.still_to_do((name for part in listing.sources for name in part), classes, table)
    )
    return Listing((names,) if names else (), len(names))


def stream(
    listing: Listing,
    predictor: Predictor,
    *,
    ray: str,
    batch: int = predict.BATCH,
    workers: int = 0,
) -> Iterator[Prediction]:
    """Answer about pictures, in their order.

    Args:
        listing: see `find`.
        predictor: the model; its files are sent to the workers.
        ray: see `cluster.connected`.
        batch: pictures that go through the model at once.
        workers: processes with a model; 0 for one a core.

    Yields:
        One `Prediction` a picture, as `Predictor.stream` gives them.

    Raises:
        BatikError: Ray is not installed, or no cluster answers.
    """
    if batch < 1 or workers < 0:
        raise BatikError("batch must be at least 1, and workers not negative.")
    if not listing.count:
        return
    with cluster.connected(ray), _told():
        answers = mapped(listing, _Worker, predictor, batch, workers)
        for table in answers.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in table.to_pylist():
                shares = row["shares"]
                known = dict(zip(predictor.classes, shares, strict=True)) if shares else {}
                del row["shares"]
                yield Prediction(probabilities=known, **row)


def features(
    listing: Listing,
    predictor: Predictor,
    output: str,
    *,
    ray: str,
    batch: int = predict.BATCH,
    workers: int = 0,
) -> int:
    """Write the features that the model's linear functions read, as Parquet.

    Workers write them, one file a block of pictures: nothing passes through this process.

    Args:
        listing: see `find`.
        predictor: the model.
        output: a new folder, or an address that Ray Data can write to; every machine must see it.
        ray: see `cluster.connected`.
        batch: pictures that go through the model at once.
        workers: processes with a model; 0 for one a core.

    Returns:
        Number of rows: ``file``, ``features`` (float32, empty if refused) and ``reason``.

    Raises:
        BatikError: Ray or onnx is not installed, the folder is there already, or the model has no
            such layer.
    """
    if "://" not in output and Path(output).exists():
        raise BatikError(f"{output} is there already: name a new folder for the features.")
    if not listing.count:
        return 0
    model = (predictor.folder / "model.onnx").read_bytes()
    extra = {"features.onnx": _with_features(model, predictor.folder)}
    with cluster.connected(ray), _told():
        target = output if "://" in output else str(Path(output).resolve())
        rows = mapped(listing, _FeatureWorker, predictor, batch, workers, extra)
        rows.write_parquet(target)
    return listing.count


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Turn what ends all workers into a sentence."""
    exceptions = need("ray.exceptions", "--ray")
    try:
        yield
    except exceptions.RayError as error:
        last = str(error).strip().splitlines()[-1]
        raise BatikError(f"The workers could not go on: {last}") from error


class _Worker:
    """The model in a worker process."""

    def __init__(self, model: list, batch: int):
        import ray

        self._folder = tempfile.TemporaryDirectory(prefix="batik-model-")
        for name, content in ray.get(*model).items():
            Path(self._folder.name, name).write_bytes(content)
        self.predictor = Predictor.load(self._folder.name, threads=1)
        self.batch = batch

    def __call__(self, block):
        """Turn a block of names into Arrow tables of answers, one a batch."""
        for part in _parts(block, self.batch):
            opened = []
            for name, place, content in part:
                try:
                    opened.append((name, self.predictor.square(_source(place, content))))
                except ImageError as error:
                    opened.append((name, error))
            yield self.result(opened)

    def result(self, opened: "list[tuple[str, np.ndarray | ImageError]]"):
        """Return the table of one batch."""
        import pyarrow as pa

        rows = [
            {
                "name": answer.name,
                "motif": answer.motif,
                "verdict": answer.verdict,
                "shares": list(answer.probabilities.values()),
                "familiarity": answer.familiarity,
                "reason": answer.reason,
                "kind": answer.kind,
                "level": answer.level,
                "words": answer.words,
            }
            for answer in self.predictor.answer(opened)
        ]
        kinds = {"shares": pa.list_(pa.float64()), "familiarity": pa.float64()}
        fields = [(name, kinds.get(name, pa.string())) for name in rows[0]]
        return pa.Table.from_pylist(rows, schema=pa.schema(fields))


class _FeatureWorker(_Worker):
    """The model up to its features in a worker process."""

    def __init__(self, model: list, batch: int):
        super().__init__(model, batch)
        self._session = open_session(Path(self._folder.name, "features.onnx"), threads=1)

    def result(self, opened: "list[tuple[str, np.ndarray | ImageError]]"):
        """Return the table of one batch."""
        import pyarrow as pa

        good = [pixels for _, pixels in opened if isinstance(pixels, np.ndarray)]
        found = iter(self._session.run([_FEATURES], {"pixels": np.stack(good)})[0] if good else ())
        rows = []
        for name, pixels in opened:
            refused = isinstance(pixels, ImageError)
            values = [] if refused else next(found).tolist()
            reason = str(pixels) if refused else ""
            rows.append({"file": name, "features": values, "reason": reason})
        fields = [("file", pa.string()), ("features", pa.list_(pa.float32()))]
        return pa.Table.from_pylist(rows, schema=pa.schema([*fields, ("reason", pa.string())]))


def _parts(block, batch: int) -> Iterator[list[tuple[str, str, bytes | None]]]:
    """Yield names, places and contents, so many at a time, of what a block stands for."""
    rows = block.to_pylist()
    if rows[0]["group"] is None:
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            yield [(row["name"], row["place"], None) for row in part]
        return
    for row in rows:
        yield from _rows_of(row["place"], row["group"], batch)


def _rows_of(table: str, group: int, batch: int) -> Iterator[list[tuple[str, str, bytes | None]]]:
    """Yield names, places and contents, so many at a time, of one row group of a table."""
    import fsspec
    from pyarrow import parquet

    named, held = _columns(table)
    folder = table.rpartition("/")[0]
    with fsspec.open(table, "rb") as stream:
        file = parquet.ParquetFile(stream)
        columns = [column for column in (named, held) if column]
        for part in file.iter_batches(batch, row_groups=[group], columns=columns):
            rows = []
            for row in part.to_pylist():
                name, content = row.get(named), row.get(held)
                if held == "image":
                    image = content or {}
                    name, content = name or image.get("path"), image.get("bytes")
                # an empty cell is an empty file, and not a name to be opened
                content = (content or b"") if held or not name else None
                name = name or f"a picture of {table}"
                whole = "://" in name or Path(name).is_absolute()
                rows.append((name, name if whole else f"{folder}/{name}", content))
            yield rows


def _source(place: str, content: bytes | None) -> bytes | Path:
    """Return what `Predictor.square` opens.

    Raises:
        ImageError: an address cannot be read.
    """
    if content is not None:
        return content
    if "://" not in place:
        return Path(place)
    import fsspec

    try:
        with fsspec.open(place, "rb") as stream:
            # one byte more than is allowed tells that it is too large
            return stream.read(files.MAX_BYTES + 1)
    # every kind of store has errors of its own
    except Exception as error:
        raise ImageError(f"cannot be read: {error}", "unreadable") from error


def mapped(
    listing: Listing,
    worker: type,
    predictor: Predictor,
    batch: int,
    workers: int,
    extra: dict[str, bytes] | None = None,
):
    """Return the Ray Dataset of what workers make of the pictures, inside `cluster.connected`.

    Args:
        listing: see `find`.
        worker: class that is made once in each process, and called with blocks.
        predictor: the model, whose files it is given.
        batch: pictures that go through the model at once.
        workers: processes; 0 for one a core.
        extra: further files by name.
    """
    import pyarrow as pa

    ray = need("ray", "--ray")
    ray_data = need("ray.data", "--ray")
    context = ray_data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    n_workers = workers or cluster.cpus()
    # several blocks a worker, so that none waits long for the last; whole batches in each
    share = math.ceil(listing.count / (8 * n_workers) / batch) * batch
    size = min(share, max(batch, BLOCK // batch * batch))
    blocks = []
    for source in listing.sources:
        if isinstance(source, str):
            blocks += [([source], [group]) for group in range(_metadata(source)[2])]
        else:
            names = (source[k : k + size] for k in range(0, len(source), size))
            blocks += [(part, [None] * len(part)) for part in names]
    kinds = pa.schema([("name", pa.string()), ("place", pa.string()), ("group", pa.int32())])
    rows = [
        pa.table({"name": names, "place": list(map(_place, names)), "group": groups}, kinds)
        for names, groups in blocks
    ]
    return ray_data.from_arrow(rows).map_batches(
        worker,
        batch_size=None,
        batch_format="pyarrow",
        # by reference: a worker that takes the place of a dead one asks for the model again
        fn_constructor_args=([ray.put({**_files(predictor), **(extra or {})})], batch),
        # fewer, where the cluster has no room for all, or a machine goes
        compute=ray_data.ActorPoolStrategy(min_size=1, max_size=n_workers, initial_size=n_workers),
        num_cpus=1,
    )


def _place(name: str) -> str:
    """Return where a picture is for a worker, which runs in another folder than this process."""
    return name if "://" in name else str(Path(name).absolute())


def _columns(table: str) -> tuple[str, str]:
    """Return which columns of a table name pictures and hold them; "" for none."""
    there = _metadata(table)[1]
    named = next((name for name in _NAMES if name in there), "")
    held = next((name for name in _CONTENTS if name in there), "")
    if not named and not held:
        raise BatikError(
            f"{table} has none of the columns {', '.join(_NAMES + _CONTENTS)} but "
            f"{', '.join(there)}: rename the one that names the pictures."
        )
    return named, held


def _rows(table: str) -> int:
    _columns(table)
    return _metadata(table)[0]


def _metadata(table: str) -> tuple[int, list[str], int]:
    """Return a Parquet file's number of rows, columns and number of row groups."""
    parquet = need("pyarrow.parquet", "A Parquet table")
    import fsspec

    try:
        with fsspec.open(table, "rb") as stream:
            file = parquet.ParquetFile(stream)
            facts = file.metadata
            return facts.num_rows, list(file.schema_arrow.names), facts.num_row_groups
    # every kind of store has errors of its own
    except Exception as error:
        raise BatikError(f"{table} cannot be read as a Parquet table ({error}).") from error


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
        if name == str(here) or listings.is_named_like_a_picture(PurePosixPath(name), here)
    ]


def _files(predictor: Predictor) -> dict[str, bytes]:
    """Return the contents of the model folder."""
    lines = (predictor.folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    names = [line.split(maxsplit=1)[1].strip().lstrip("*") for line in lines if line.strip()]
    return {name: (predictor.folder / name).read_bytes() for name in [*names, "SHA256SUMS"]}


def _with_features(model: bytes, folder: Path) -> bytes:
    """Return the model with one output, the input of the product that decides on the motif.

    Raises:
        BatikError: there is no product before the probabilities.
    """
    onnx = need("onnx", "--features")
    graph = onnx.load_from_string(model)
    made_by = {name: node for node in graph.graph.node for name in node.output}
    waiting, seen = ["probabilities"], set()
    while waiting:
        name = waiting.pop(0)
        node = made_by.get(name)
        if node is None or name in seen:
            continue
        seen.add(name)
        if node.op_type in ("MatMul", "Gemm"):
            graph.graph.node.append(onnx.helper.make_node("Identity", [node.input[0]], [_FEATURES]))
            del graph.graph.output[:]
            kind = onnx.TensorProto.FLOAT
            graph.graph.output.append(
                onnx.helper.make_tensor_value_info(_FEATURES, kind, ["N", "F"])
            )
            return graph.SerializeToString()
        waiting.extend(node.input)
    raise BatikError(f"{folder / 'model.onnx'} has no layer of features before its probabilities.")
