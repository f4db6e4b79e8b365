"""Find a data set, prove that its pictures open, name it; read and write tables as CSV.

>>> data.load("folder", "indonesian-batik-motifs").name
'kaggle'
"""

import difflib
import hashlib
import http.client
import logging
import os
import re
import unicodedata
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from batik_utils import errors
from batik_utils.errors import PROJECT, BatikError, NotWritten, expanded, replacing, switched_on
from batik_utils.images import cloth, files, motifs
from batik_utils.images.cache import cache_folder

log = logging.getLogger(__name__)

KAGGLE_HANDLE = "dionisiusdh/indonesian-batik-motifs"
KAGGLE_URL = "https://www.kaggle.com"
#: Digest of the three published motifs as they are on Kaggle: it is how that set is recognised.
KAGGLE_DIGEST = "8c5a3aacd0ebcea1159fde9cfb48687caffa557afab00f39e5a0215b1e98c2b6"

#: What figures and tables call a data set, by kind.
TITLES = {
    "folder": "own pictures",
    "kaggle": "Indonesian Batik Motifs (Kaggle)",
    "synthetic": "SYNTHETIC cloth, not batik",
}
SOURCES = ("auto", *TITLES)
#: Columns of names in this project's CSV files, which are never numbers or truth values.
_TEXT = """
    path motif label predicted mostly_taken_for run recipe family weights split subset dataset
    device torch torchvision git started group seen reason remedy source candidate variant kind
    sha256 format method twins name description command
"""
TEXT_COLUMNS = frozenset(_TEXT.split())
MANIFEST_COLUMNS = ("path", "motif", "size", "sha256", "width", "height", "format")


@dataclass(frozen=True)
class Dataset:
    """Pictures of a few motifs that were opened once and found whole."""

    source: str  # ``folder``, ``kaggle`` or ``synthetic``
    name: str  # folder below ``results/`` where its results belong
    title: str  # what figures and tables call it
    root: Path  # folder that ``manifest.path`` is relative to
    classes: tuple[str, ...]  # motifs in class order; a label is an index into it
    manifest: pd.DataFrame = field(repr=False)  # `MANIFEST_COLUMNS`, by motif and file number
    skipped: pd.DataFrame = field(repr=False)  # path, motif and reason of every file left out
    digest: str  # sha256 over motif, file name and content of every picture

    @property
    def labels(self) -> list[int]:
        """Class index of every picture, in manifest order."""
        return [self.classes.index(motif) for motif in self.manifest["motif"]]

    @property
    def paths(self) -> list[Path]:
        """Absolute path of every picture, in manifest order."""
        return [self.root / path for path in self.manifest["path"]]

    @property
    def audited_as(self) -> str:
        """Folder below ``results/`` of its audit: the Kaggle set has one for all its motifs."""
        return re.sub(r"(?<=^kaggle)-\d+motifs", "", self.name)


def load(
    source: str = "auto",
    root: str | Path | None = None,
    classes: str | Sequence[str] = motifs.MOTIFS,
    *,
    limit: int = 0,
) -> Dataset:
    """Find a data set and read its manifest; BatikError where that cannot be.

    ``root`` is for the source ``folder`` (or ``BATIK_DATA_DIR``); ``auto`` takes a given folder,
    else ``kaggle`` if it answers, else ``synthetic``. ``classes`` are names or ``"all"``; ``limit``
    counts usable pictures a motif, spread evenly (0 for all).
    """
    source = source.strip().lower()
    if source not in SOURCES:
        hint = "".join(difflib.get_close_matches(source, SOURCES, n=1)) or ", ".join(SOURCES)
        raise BatikError(f"Unknown data source '{source}': use {hint}.")
    if limit < 0:
        raise BatikError(f"limit must be 0 (all pictures) or more, not {limit}.")
    given = str(root or os.environ.get("BATIK_DATA_DIR", "")).strip(" \"'")
    if root and source in ("kaggle", "synthetic"):
        raise BatikError(
            f"Source '{source}' does not read a root ({root}): use 'folder', or leave it empty."
        )
    if source == "auto":
        source = "folder" if given else _kaggle_or_synthetic()
    if source == "folder" and not given:
        raise BatikError(
            "Source 'folder' needs a root that holds one folder a motif: pass it, or set "
            "BATIK_DATA_DIR."
        )
    find = {"synthetic": _drawn, "kaggle": _download_kaggle, "folder": lambda: expanded(given)}
    return _read_tree(source, find[source]().resolve(), classes, limit)


def results_root(results: str | Path = "") -> Path:
    """Return the results folder: relative to the project; "" is ``BATIK_RESULTS_DIR`` if set."""
    installed = not (PROJECT / "notebooks").is_dir()  # there is no project around the package
    root = Path.cwd() if installed else PROJECT
    return root / expanded(results or os.environ.get("BATIK_RESULTS_DIR") or "results")


def read_table(path: Path, columns: Sequence[str] = (), made_by: str = "") -> pd.DataFrame:
    """Read a CSV file; columns of names stay text, so that a motif may be ``true`` or ``007``.

    BatikError: no such file (``made_by`` is the command that writes it), or a damaged one.
    """
    if not path.is_file():
        raise BatikError(f"There is no {path}" + (f": run '{made_by}' first." if made_by else "."))
    settings = {"encoding": "utf-8-sig", "keep_default_na": False}  # Excel puts a mark before it
    try:
        names = pd.read_csv(path, nrows=0, **settings).columns
        text = {c: str for c in names if c in TEXT_COLUMNS or c.startswith(("path_", "motif_"))}
        empty = {c: ["", "nan", "NaN"] for c in names if c not in text}
        table = pd.read_csv(path, dtype=text, na_values=empty, **settings)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise BatikError(
            f"{path} is damaged ({error}): restore it with git, or remove it to make it again."
        ) from error
    if missing := [column for column in columns if column not in table]:
        raise BatikError(f"{path} lacks the column '{missing[0]}': restore or remove it.")
    return table


def write_table(table: pd.DataFrame, path: Path, digits: int | None = 6) -> None:
    """Write a CSV file as a whole, numbers with so many significant digits (None: all of them)."""
    numbers = f"%.{digits}g" if digits else None
    with replacing(path) as partial:
        table.to_csv(partial, index=False, float_format=numbers, lineterminator="\n")


def write_manifest(dataset: Dataset, results: Path) -> Path:
    """Write ``<results>/<name>/manifest.csv``; refuse to if it belongs to other pictures."""
    path = results / dataset.name / "manifest.csv"
    if not path.exists():
        write_table(dataset.manifest, path, None)
    elif _digest(read_table(path, ("path", "motif", "sha256"))) != dataset.digest:
        raise BatikError(
            f"{path} describes other pictures than {dataset.root} holds now: remove the folder "
            f"{path.parent} to start afresh, or choose another results folder."
        )
    return path


def _read_tree(source: str, root: Path, classes: str | Sequence[str], limit: int) -> Dataset:
    folders, everything = motifs.find_folders(root, classes)
    jobs = []
    for motif, folder in folders.items():
        # no link leads from one motif to another
        others = {other.resolve() for other in folders.values()} - {folder.resolve()}
        jobs += [(motif, path) for path in sorted(files.walk(folder, others), key=_by_number)]
    # Pillow decodes outside the interpreter lock, so threads do help
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        described = pool.map(lambda job: _describe(*job, root), jobs)
        rows = list(tqdm(described, total=len(jobs), desc="Opening pictures", unit="picture"))
    skipped = [row for row in rows if "reason" in row]
    for row in skipped:
        log.warning("Left out %s: %s", row["path"], row["reason"])
    good = {}
    for motif, folder in folders.items():
        usable = [row for row in rows if row["motif"] == motif and "reason" not in row]
        problem = f"No usable picture of motif '{motif}' in {folder}"
        if usable:
            good[motif] = usable
        elif everything:
            log.warning("%s: the folder is left out.", problem)
        else:
            raise BatikError(f"{problem}: put pictures there, or leave '{motif}' out.")
    if len(good) < 2:
        raise BatikError(f"A classifier needs at least two motifs; {root} has {sorted(good)}.")

    def table(limit: int) -> pd.DataFrame:
        chosen = [row for motif in good for row in _spread(good[motif], limit)]
        return pd.DataFrame(chosen, columns=list(MANIFEST_COLUMNS))

    manifest, whole = table(limit), table(0)
    digest = _digest(manifest)
    three = whole[whole["motif"].isin(motifs.MOTIFS)]
    kind = "kaggle" if _digest(three) == KAGGLE_DIGEST else source
    name, title = f"folder-{digest[:8]}" if kind == "folder" else kind, TITLES[kind]
    if tuple(good) != motifs.MOTIFS and kind != "folder":
        name += f"-{len(good)}motifs"
    if limit:
        name += f"-limit{limit}"
        title += f", at most {limit} pictures a motif"
    omitted = pd.DataFrame(skipped, columns=["path", "motif", "reason"])
    return Dataset(source, name, title, root, tuple(good), manifest, omitted, digest)


def _describe(motif: str, path: Path, root: Path) -> dict:
    name = path.relative_to(root).as_posix()
    row: dict = {"path": name, "motif": motif}
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        path = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
        reason = "its name is no UTF-8 or holds a line break; rename it"
        return row | {"path": path, "reason": reason}
    try:
        content = files.read_file(path)
        kind, width, height = files.inspect(content)
    except files.ImageError as error:
        return row | {"reason": str(error)}
    found = (len(content), hashlib.sha256(content).hexdigest(), width, height, kind)
    return row | dict(zip(MANIFEST_COLUMNS[2:], found, strict=True))


def _by_number(path: Path) -> tuple[int, int, str]:
    """Sort key of files: 1, 2, ... 10, then those without a number."""
    number = re.fullmatch("[0-9]+", path.stem)
    return (0, int(path.stem), path.name) if number else (1, 0, path.name)


def _spread(rows: list[dict], limit: int) -> list[dict]:
    if not limit or limit >= len(rows):
        return rows
    # the last of each of `limit` equal stretches: every part of a by-number split is met
    return [rows[(i + 1) * len(rows) // limit - 1] for i in range(limit)]


def _digest(manifest: pd.DataFrame) -> str:
    """Digest that does not change when a motif's folder is spelt another way."""
    names = manifest["path"].map(lambda path: Path(path).name)
    rows = zip(manifest["motif"], names, manifest["sha256"], strict=True)
    lines = sorted(f"{motif}/{name} {sha256}" for motif, name, sha256 in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _drawn() -> Path:
    """Return the folder of drawn cloth, which lies in the temporary folder if it must."""
    try:
        return cloth.write(cache_folder() / f"synthetic-{cloth.VERSION}")
    except NotWritten as error:
        log.warning("%s Until then the temporary folder is used.", error)
        return cloth.write(errors.temporary_folder() / f"synthetic-{cloth.VERSION}")


def _kaggle_or_synthetic() -> str:
    """Ask Kaggle for a sign of life before a download that would wait for minutes."""
    try:
        if switched_on("BATIK_OFFLINE"):
            raise OSError("BATIK_OFFLINE is set")
        with urllib.request.urlopen(KAGGLE_URL, timeout=10):
            return "kaggle"
    except urllib.error.HTTPError:
        return "kaggle"  # an answer, if a grumpy one: the download itself will tell
    except (OSError, http.client.HTTPException) as error:
        log.warning(
            "Kaggle does not answer (%s): using the SYNTHETIC set. Its results say nothing about "
            "batik; for real ones give a root or set BATIK_DATA_DIR.",
            getattr(error, "reason", error),
        )
        return "synthetic"


def _download_kaggle() -> Path:
    try:
        import kagglehub

        return Path(kagglehub.dataset_download(KAGGLE_HANDLE))
    # kagglehub passes on whatever its transport raised
    except Exception as error:
        reason = " ".join(str(error).split())
        raise BatikError(
            f"Kaggle did not give {KAGGLE_HANDLE} ({type(error).__name__}: {reason}). Download it "
            f"on kaggle.com, unpack it and use source 'folder', or use source 'synthetic'."
        ) from error
