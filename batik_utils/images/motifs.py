"""The motifs by name, the folder names that mean them, and their folders in a data set."""

import contextlib
import difflib
import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from batik_utils.errors import BatikError
from batik_utils.images import files

log = logging.getLogger(__name__)

#: The three motifs of the published course project, in the class order used everywhere.
MOTIFS = ("betawi", "sidoluhur", "tambal")
_ALL = """bali betawi celup cendrawasih ceplok ciamis garutan gentongan kawung keraton lasem
    megamendung parang pekalongan priangan sekar sidoluhur sidomukti sogan tambal"""
#: All motifs of the Kaggle set ``dionisiusdh/indonesian-batik-motifs``, sorted.
ALL_MOTIFS = tuple(_ALL.split())

_NOISE = "batik motif kain jpg jpeg png new train test val copy salinan backup"
_NOISE = {*_NOISE.split()}
_PART = re.compile(
    r"(data|set|images?|gambar|split)*(trainval|train(ing)?|test(ing)?|val(id(ation|asi)?)?|dev"
    r"|eval(uation)?|holdout|folds?|latih|pelatihan|uji|pengujian)(data|set|images?|gambar|split)*"
)


def _words(name: str) -> list[str]:
    """Return the words and numbers of a name, in any script, in lower case."""
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", unicodedata.normalize("NFKC", name)).casefold()
    # letters, the marks that belong to them, digits and signs; \w would split at Javanese vowels
    text = text.replace("copy of ", "copy ")
    kept = (c if unicodedata.category(c)[0] in "LMN" or c in "+#&%@=" else " " for c in text)
    return [word for word in re.split(r"(\d+)|\s+", "".join(kept)) if word]


def plain(name: str) -> str:
    """Return a folder's name without what says no motif: ``batik`` before it, ``jpg`` behind it."""
    words = _words(name)
    text = " ".join([word for word in words if word not in _NOISE] or words)
    text = re.sub(r"(?<=\d) (?=\d)", "-", text).replace(" ", "")  # 1.5 is not 15
    # "batikTambal" and "batiktambal" alike: the craft's name is glued to the motif's
    return re.sub(r"^batik(?=.)|(?<=.)(jpe?g|png)$", "", text) or name.strip().casefold()


def from_folder(name: str) -> str:
    """Return the motif that a folder's name means: ``"sidoluhur"`` of ``batik_sindoluhur40jpg``.

    No word is dropped: ``Solo Parang`` is a motif of its own. An unknown one keeps its plain name.
    """
    words = [w for w in _words(name) if w not in _NOISE and not w.isdigit()]
    text = re.sub(r"^batik|(jpe?g|png)$", "", "".join(words))
    if text in ALL_MOTIFS:
        return text
    for motif in difflib.get_close_matches(text, ALL_MOTIFS, n=1, cutoff=0.85):

        def likeness(some: list[str], motif: str = motif) -> float:
            return difflib.SequenceMatcher(None, "".join(some), motif).ratio()

        # a word without which the name would be closer is more than a misspelling
        if all(likeness([w for w in words if w != word]) < likeness(words) for word in words):
            return motif
    return plain(name)


def of_folders(names: Iterable[str]) -> dict[str, str]:
    """Return the motif of each of several folders.

    A spelling is mended only where one folder alone means it: ``Parang 1``, ``Parang 2`` stay two.
    """
    meant = {name: (plain(name), from_folder(name)) for name in names}
    count = Counter(motif for both in meant.values() for motif in {*both})
    return {name: mended if count[mended] == 1 else own for name, (own, mended) in meant.items()}


def is_split(name: str) -> bool:
    """Return whether a folder is named as a part of a divided data set, such as ``train``."""
    return bool(_PART.fullmatch("".join(word for word in _words(name) if not word.isdigit())))


def find_folders(root: Path, classes: str | Sequence[str]) -> tuple[dict[str, Path], bool]:
    """Return the folder of each wanted motif below a root, sorted, and whether all are wanted.

    ``classes`` are names, alone or separated by commas, or ``"all"``. A level too many above the
    folders is stepped over; a folder of folders, such as a copy of the data set, is no motif.
    """
    if not root.is_dir():
        archive = "is a file: unpack an archive, and give the folder"
        wrong = archive if root.exists() else "does not exist: check the path"
        raise BatikError(f"The data folder {root} {wrong}, or use source 'synthetic'.")
    names = classes.split(",") if isinstance(classes, str) else classes
    names = [name.strip() for name in names if name.strip()]
    if everything := [name.lower() for name in names] == ["all"]:
        names = []
    inner = _folders_in(root)
    for path in root.iterdir():
        if path.is_symlink() and not path.exists():
            log.warning("Left out %s: a link to nothing.", path)
    # kagglehub and zip files like to add a level
    for _ in range(9):
        if len(inner) == 1 and _holds_folders(inner[0]):
            root, inner = inner[0], _folders_in(inner[0])
    there = _by_motif(root, inner, names)
    exact = {name: plain(name) for name in names}
    meant = {n: m if m in there else from_folder(n) for n, m in exact.items()}
    chosen = sorted(there if everything else {*meant.values()})
    if missing := sorted({exact[n] for n, m in meant.items() if m not in there}):
        raise BatikError(
            f"No folder for motif {', '.join(map(repr, missing))} in {root}: it has "
            f"{', '.join(sorted(there))}. For motifs of your own use --classes all (CLASSES = "
            f"'all' in a notebook), or name them."
        )
    for motif in chosen:
        if len(there[motif]) > 1:
            several = " and ".join(f"'{folder.name}'" for folder in there[motif])
            raise BatikError(
                f"Several folders of {root} mean the motif '{motif}': {several}. Merge them, or "
                f"rename one."
            )
    return {motif: there[motif][0] for motif in chosen}, everything


def _by_motif(root: Path, inner: list[Path], asked: list[str]) -> dict[str, list[Path]]:
    """Return the folders that mean each motif; copies and parts of a data set mean none."""
    meant = of_folders([folder.name for folder in inner])
    known = {*ALL_MOTIFS, *map(plain, asked), *map(from_folder, asked)}
    there: dict[str, list[Path]] = {}
    nested = []
    for folder in inner:
        motif, below = meant[folder.name], of_folders(f.name for f in _folders_in(folder))
        strange = motif not in known or {*below.values()} & {*meant.values(), *known}
        if strange and _holds_folders(folder):
            nested.append(folder)
            log.warning("Left out the folder %s: it holds folders, no pictures.", folder)
        elif is_split(folder.name):
            log.warning("Left out the folder %s: its name says no motif.", folder)
        else:
            there.setdefault(motif, []).append(folder)
    if len(there) < 2 and nested:
        nested.sort(key=lambda folder: not re.match("train|latih|pelatihan", folder.name.lower()))
        raise BatikError(
            f"{root} holds folders of folders ({', '.join(f.name for f in nested)}), not one "
            f"folder a motif: give one of them as the root, such as --root {nested[0]}"
        )
    if not there:
        raise BatikError(f"{root} holds no folder of a motif, such as 'batik-tambal'.")
    return there


def _folders_in(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if not files.is_hidden(p.name) and p.is_dir())


def _holds_folders(folder: Path) -> bool:
    """Return whether a folder has folders in it and no picture beside them."""
    for path in sorted(folder.iterdir()):
        if path.is_file() and not files.is_hidden(path.name):
            with contextlib.suppress(files.ImageError):
                files.inspect(path)
                return False
    return bool(_folders_in(folder))
