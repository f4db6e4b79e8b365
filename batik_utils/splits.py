"""Which picture is for training, which for validation, which for the test.

>>> table = splits.make("course", dataset)
"""

import re
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from batik_utils.data import Dataset, read_table, write_table
from batik_utils.errors import BatikError

SUBSETS = ("train", "validation", "test")
COLUMNS = ("path", "motif", "subset", "dataset")
FOLD_COLUMNS = ("path", "motif", "group", "dataset", "repeat_0")


def make(name: str, dataset: Dataset) -> pd.DataFrame:
    """Assign every picture to a subset: one row each in manifest order, with ``COLUMNS``.

    ``course`` is the published split by file number (1-40 train, 41-45 test, 46-50 validation),
    ``stratified-<seed>`` a random 80/10/10 split of each motif.
    """
    if name == "course":
        subsets = [_by_number(path) for path in dataset.manifest["path"]]
    elif match := re.fullmatch(r"stratified-(\d+)", name):
        subsets = _stratified(dataset, int(match[1]))
    else:
        raise BatikError(
            f"Unknown split '{name}': use 'course' or 'stratified-<seed>', e.g. 'stratified-0'."
        )
    table = dataset.manifest[["path", "motif"]].assign(subset=subsets, dataset=dataset.digest)
    return _checked(table, dataset, name)


def make_folds(
    dataset: Dataset, groups: pd.DataFrame, *, repeats: int = 5, folds: int = 10
) -> pd.DataFrame:
    """Divide all pictures into folds, several times; near-duplicates share a fold.

    ``groups`` (`duplicates.pairs.group`) may hold other motifs, too. Columns: ``FOLD_COLUMNS`` and
    on; ``repeat_<r>`` (drawn with seed r) is the fold (from 0) in which the picture is tested.
    """
    known = dict(zip(groups["path"], groups["group"], strict=True))
    if missing := [path for path in dataset.manifest["path"] if path not in known]:
        raise BatikError(
            f"{len(missing)} pictures have no group of near-duplicates (first: {missing[0]}): run "
            f"'python -m batik_utils audit' on this data set first."
        )
    if folds < 2:
        raise BatikError(f"Needs 2 folds at least, not {folds}.")
    table = dataset.manifest[["path", "motif"]].assign(
        group=[known[path] for path in dataset.manifest["path"]], dataset=dataset.digest
    )
    n_groups = table.groupby("motif")["group"].nunique()
    if n_groups.min() < folds:
        raise BatikError(
            f"Motif '{n_groups.idxmin()}' has {n_groups.min()} groups of near-duplicates, fewer "
            f"than the {folds} folds: add pictures, or train with fewer --folds."
        )
    for repeat in range(repeats):
        division = StratifiedGroupKFold(folds, shuffle=True, random_state=repeat)
        for fold, (_, test) in enumerate(division.split(table, table["motif"], table["group"])):
            table.loc[table.index[test], f"repeat_{repeat}"] = fold
    return table.astype({f"repeat_{repeat}": int for repeat in range(repeats)})


def of_fold(table: pd.DataFrame, repeat: int, fold: int) -> pd.DataFrame:
    """Return one fold of `make_folds` as a split of test and training, without validation."""
    tested = table[f"repeat_{repeat}"] == fold
    subset = tested.map({True: "test", False: "train"})
    return table[["path", "motif"]].assign(subset=subset, dataset=table["dataset"])


def n_repeats(table: pd.DataFrame) -> int:
    """Return the number of divisions in a table of `make_folds`."""
    return sum(column.startswith("repeat_") for column in table.columns)


def n_folds(table: pd.DataFrame) -> int:
    """Return the number of folds in a table of `make_folds`."""
    return int(table["repeat_0"].max()) + 1


def indices(table: pd.DataFrame, dataset: Dataset, subset: str) -> list[int]:
    """Return the manifest positions of a subset's pictures, in manifest order."""
    chosen = set(table.loc[table["subset"] == subset, "path"])
    return [i for i, path in enumerate(dataset.manifest["path"]) if path in chosen]


def open_or_make(name: str, dataset: Dataset, path: Path) -> pd.DataFrame:
    """Read the split at ``path``, or make it and write it there."""
    if not path.exists():
        write_table(make(name, dataset), path, None)
    return _checked(_read(path, dataset, COLUMNS), dataset, str(path))


def open_or_make_folds(
    dataset: Dataset, path: Path, groups: Path | None, *, folds: int = 0, repeats: int = 5
) -> pd.DataFrame:
    """Read the folds at ``path``, or make and write them from the audit's file of groups.

    Without ``groups`` every picture is one. ``folds`` there must be; 0: as there are, or 10 new.
    """
    if not path.exists():
        known = dataset.manifest[["path"]].assign(group=dataset.manifest["path"])
        if groups is not None:
            audit = "python -m batik_utils audit (with the same --data, --root and --results)"
            known = read_table(groups, ("path", "group"), audit)
        write_table(make_folds(dataset, known, repeats=repeats, folds=folds or 10), path, None)
    table = _read(path, dataset, FOLD_COLUMNS)
    for column in [f"repeat_{repeat}" for repeat in range(n_repeats(table))]:
        if not pd.api.types.is_integer_dtype(table[column]):
            raise BatikError(f"{path} has no fold number in column {column}: restore it.")
    if folds and n_folds(table) != folds:
        raise BatikError(
            f"{path} has {n_folds(table)} folds, not {folds}: ask for as many, or move it and its "
            f"results away."
        )
    return table


def _read(path: Path, dataset: Dataset, columns: tuple[str, ...]) -> pd.DataFrame:
    """Read a table of this data set's pictures; the paths are spelt as the data set spells them."""
    table = read_table(path, columns)
    made_for = sorted(set(table["dataset"])) or ["none"]
    if made_for != [dataset.digest]:
        raise BatikError(
            f"{path} was made for other pictures (digest {made_for[0][:8]}…, this data set has "
            f"{dataset.digest[:8]}…): remove the file to make a new one, or use the data set it "
            f"was made for."
        )
    # the digest leaves open how a motif's folder is spelt: file names say which picture is meant
    own = dict(zip(_keys(dataset.manifest), dataset.manifest["path"], strict=True))
    if len(own) == len(dataset.manifest):
        table["path"] = [own.get(k, p) for k, p in zip(_keys(table), table["path"], strict=True)]
    if sorted(table["path"]) != sorted(dataset.manifest["path"]):
        raise BatikError(
            f"{path} does not hold each picture of {dataset.root} exactly once: remove it, and a "
            f"new one is made."
        )
    return table


def _keys(table: pd.DataFrame) -> list[tuple[str, str]]:
    return [(m, Path(p).name) for m, p in zip(table["motif"], table["path"], strict=True)]


def _by_number(path: str) -> str:
    stem = Path(path).stem
    if not stem.isdecimal() or not 1 <= int(stem) <= 50:
        raise BatikError(
            f"The split 'course' goes by file number, 1 to 50, but there is {path}: use "
            f"'stratified-0' for such a data set."
        )
    number = int(stem)
    return "train" if number <= 40 else "test" if number <= 45 else "validation"


def _stratified(dataset: Dataset, seed: int) -> list[str]:
    counts = dataset.manifest["motif"].value_counts()
    small = counts[counts < len(SUBSETS)]
    if len(small):
        raise BatikError(
            f"Motif '{small.index[0]}' has {small.iloc[0]} usable pictures in {dataset.root}, but "
            f"a split needs at least {len(SUBSETS)}: one each for {', '.join(SUBSETS)}."
        )
    subset = pd.Series("train", index=dataset.manifest.index)
    # motif by motif, so that a small motif too gets its share of each subset
    for motif in dataset.classes:
        rows = dataset.manifest.index[dataset.manifest["motif"] == motif]
        held = max(1, round(0.1 * len(rows)))
        rest, test = train_test_split(rows, test_size=held, random_state=seed)
        _, validation = train_test_split(rest, test_size=held, random_state=seed)
        subset[test], subset[validation] = "test", "validation"
    return list(subset)


def _checked(table: pd.DataFrame, dataset: Dataset, name: str) -> pd.DataFrame:
    if unknown := {*table["subset"]} - {*SUBSETS}:
        raise BatikError(f"The split {name} has unknown subsets {sorted(unknown)}.")
    for motif, here in table.groupby("motif")["subset"]:
        if missing := [subset for subset in SUBSETS if subset not in {*here}]:
            raise BatikError(
                f"The split {name} leaves no {missing[0]} picture of motif '{motif}' in "
                f"{dataset.root}: add pictures, or use another split."
            )
    return table
