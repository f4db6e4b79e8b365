"""Which picture is for training, which for validation, which for the test.

    >>> from batik_utils import splits
    >>> table = splits.make("course", dataset)
    >>> table["subset"].value_counts().to_dict()
    {'train': 120, 'validation': 15, 'test': 15}

A division into folds, ``cv``, tests every picture once in each repeat, and keeps near-twins on one
side (`make_folds`, `of_fold`).

Introduced in notebook 01, section "Splits".
"""

import re
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from batik_utils.data import Dataset
from batik_utils.errors import BatikError

SUBSETS = ("train", "validation", "test")
COLUMNS = ("path", "motif", "subset", "dataset")
FOLD_COLUMNS = ("path", "motif", "group", "dataset")

#: Share of validation and of test in a stratified split.
_HOLD_OUT = 0.1


def make(name: str, dataset: Dataset) -> pd.DataFrame:
    """Assign every picture to a subset.

    Args:
        name: ``course``, the published split by file number (1-40 train, 41-45 test, 46-50
            validation), or ``stratified-<seed>``, a random 80/10/10 split of each motif.
        dataset: the data set.

    Returns:
        One row a picture in manifest order, with ``COLUMNS``; ``dataset`` repeats the digest.

    Raises:
        BatikError: unknown name, a file without a number, or a motif with too few pictures.
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
    """Divide all pictures into folds, several times anew; near-twins share a fold.

    Args:
        dataset: the data set.
        groups: of `duplicates.group`: ``path`` and ``group``; pictures of other motifs may be
            there too, and connect.
        repeats: number of divisions R; division r is drawn with seed r.
        folds: number of folds; each is the test once, and all others are for training.

    Returns:
        One row a picture in manifest order: ``path, motif, group, dataset`` and ``repeat_0`` to
        ``repeat_<R-1>``, the fold (from 0) in which the picture is tested.

    Raises:
        BatikError: a picture without a group, or fewer groups of a motif than folds.

    Source: scikit-learn's ``StratifiedGroupKFold``.
    """
    known = dict(zip(groups["path"], groups["group"], strict=True))
    if missing := [path for path in dataset.manifest["path"] if path not in known]:
        raise BatikError(
            f"{len(missing)} pictures have no group of near-twins (first: {missing[0]}): run "
            f"'python -m batik_utils audit' on this data set first."
        )
    if repeats < 1 or folds < 2:
        raise BatikError(f"Needs 1 repeat and 2 folds at least, not {repeats} and {folds}.")
    table = dataset.manifest[["path", "motif"]].assign(
        group=[known[path] for path in dataset.manifest["path"]], dataset=dataset.digest
    )
    n_groups = table.groupby("motif")["group"].nunique()
    if n_groups.min() < folds:
        raise BatikError(
            f"Motif '{n_groups.idxmin()}' has {n_groups.min()} groups of near-twins, fewer than "
            f"the {folds} folds: ask for fewer folds."
        )
    for repeat in range(repeats):
        division = StratifiedGroupKFold(folds, shuffle=True, random_state=repeat)
        fold_of = pd.Series(-1, index=table.index)
        for fold, (_, test) in enumerate(division.split(table, table["motif"], table["group"])):
            fold_of.iloc[test] = fold
        table[f"repeat_{repeat}"] = fold_of
    return table.reset_index(drop=True)


def of_fold(table: pd.DataFrame, repeat: int, fold: int) -> pd.DataFrame:
    """Return one fold of `make_folds` as a split: its pictures are the test, the rest training.

    There is no validation subset: nothing may be chosen by it.

    Raises:
        BatikError: no such repeat or fold.
    """
    if f"repeat_{repeat}" not in table:
        raise BatikError(f"The folds have no repeat {repeat}: there are {n_repeats(table)}.")
    tested = table[f"repeat_{repeat}"] == fold
    if not tested.any():
        raise BatikError(f"Repeat {repeat} has no fold {fold}: there are {n_folds(table)}.")
    return table[["path", "motif"]].assign(
        subset=tested.map({True: "test", False: "train"}), dataset=table["dataset"]
    )


def thin(table: pd.DataFrame, n_train: int, seed: int) -> pd.DataFrame:
    """Leave at most so many training pictures of each motif, drawn at random; the test stays.

    A smaller draw of the same seed is part of a larger one.

    Args:
        table: of `make` or `of_fold`.
        n_train: training pictures a motif, at least 1.
        seed: of the draw.

    Raises:
        BatikError: fewer than one picture is asked for.
    """
    if n_train < 1:
        raise BatikError(f"At least one training picture a motif is needed, not {n_train}.")
    order = table[table["subset"] == "train"].sample(frac=1, random_state=seed)
    kept = order.groupby("motif").head(n_train).index
    return table[(table["subset"] != "train") | table.index.isin(kept)].reset_index(drop=True)


def n_repeats(table: pd.DataFrame) -> int:
    """Return the number of divisions in a table of `make_folds`."""
    return sum(column.startswith("repeat_") for column in table.columns)


def n_folds(table: pd.DataFrame) -> int:
    """Return the number of folds in a table of `make_folds`."""
    return int(table["repeat_0"].max()) + 1


def save(table: pd.DataFrame, path: Path) -> None:
    """Write a split as CSV; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    table.to_csv(partial, index=False)
    partial.replace(path)


def read(path: Path, dataset: Dataset) -> pd.DataFrame:
    """Read a saved split for a data set.

    Args:
        path: CSV written by `save`.
        dataset: the data set it must belong to.

    Returns:
        As `make`.

    Raises:
        BatikError: no such file, made for other pictures, or damaged.
    """
    return _checked(_read_own(path, dataset, COLUMNS, "split"), dataset, str(path))


def open_or_make(name: str, dataset: Dataset, path: Path) -> pd.DataFrame:
    """Read the split saved at ``path``, or make it and save it there."""
    if path.exists():
        return read(path, dataset)
    table = make(name, dataset)
    save(table, path)
    return table


def open_or_make_folds(
    dataset: Dataset, path: Path, groups: Path | None, *, folds: int = 0, repeats: int = 5
) -> pd.DataFrame:
    """Read the folds saved at ``path``, or make and save them.

    Args:
        dataset: the data set.
        path: CSV of `make_folds`.
        groups: CSV of `duplicates.group`, which the audit writes; read only to make new folds.
            None to take every picture for a group of its own.
        folds: number of folds that there must be; 0 for as many as there are, or 10 new ones.
        repeats: number of repeats of new folds.

    Raises:
        BatikError: folds of other pictures or of another number, a damaged file, or no groups.
    """
    if not path.exists():
        if groups is None:
            alone = dataset.manifest["path"]
            known = pd.DataFrame({"path": alone, "group": alone})
        elif groups.is_file():
            known = pd.read_csv(groups, dtype=str, keep_default_na=False)
        else:
            raise BatikError(
                f"Folds need to know near-twins, and there is no {groups}: run 'python -m "
                f"batik_utils audit' with the same --data, --root and --results first."
            )
        table = make_folds(dataset, known, repeats=repeats, folds=folds or 10)
        save(table, path)
        return table
    table = _read_own(path, dataset, FOLD_COLUMNS, "folds")
    for repeat in range(n_repeats(table)):
        column = pd.to_numeric(table[f"repeat_{repeat}"], errors="coerce")
        if column.isna().any() or (table.groupby(column)["path"].count() < 1).any():
            raise BatikError(f"{path} has no fold number in column repeat_{repeat}: restore it.")
        table[f"repeat_{repeat}"] = column.astype(int)
    _check_complete(table, dataset, str(path))
    if folds and n_folds(table) != folds:
        raise BatikError(
            f"{path} has {n_folds(table)} folds, not {folds}: ask for as many, or move it and its "
            f"results away."
        )
    return table


def indices(table: pd.DataFrame, dataset: Dataset, subset: str) -> list[int]:
    """Return the manifest positions of a subset's pictures, in manifest order."""
    chosen = set(table.loc[table["subset"] == subset, "path"])
    return [i for i, path in enumerate(dataset.manifest["path"]) if path in chosen]


def twins_in_training(
    table: pd.DataFrame, edges: pd.DataFrame, groups: pd.DataFrame
) -> pd.DataFrame:
    """Count, for each test picture, the training pictures that are its twins.

    Args:
        table: of `make`.
        edges: direct edges, of `duplicates.find`; pairs judged false (``seen``) do not count.
        groups: transitive ones, of `duplicates.group`.

    Returns:
        One row a test picture: ``path, motif, direct, by_group`` (numbers of training pictures)
        and ``twins``, the paths of the direct ones, joined by a space.
    """
    if "seen" in edges:
        edges = edges[edges["seen"] != "false"]
    train = set(table.loc[table["subset"] == "train", "path"])
    near: dict[str, set[str]] = {}
    for a, b in zip(edges["path_a"], edges["path_b"], strict=True):
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    group = dict(zip(groups["path"], groups["group"], strict=True))
    in_training = groups.loc[groups["path"].isin(train), "group"].value_counts()
    test = table.loc[table["subset"] == "test", ["path", "motif"]]
    direct = [sorted(near.get(path, set()) & train) for path in test["path"]]
    return test.assign(
        direct=[len(twins) for twins in direct],
        by_group=[int(in_training.get(group.get(path), 0)) for path in test["path"]],
        twins=[" ".join(twins) for twins in direct],
    ).reset_index(drop=True)


def _read_own(path: Path, dataset: Dataset, columns: tuple[str, ...], kind: str) -> pd.DataFrame:
    """Read a table of this data set's pictures; the paths are spelt as the data set spells them."""
    if not path.is_file():
        raise BatikError(f"No {kind} at {path}: make one with splits.make and save it.")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' own errors are ValueErrors
        raise BatikError(f"The {kind} {path} is damaged ({error}): remove the file.") from error
    wanted = [*columns, *(c for c in table.columns if kind == "folds" and c.startswith("repeat_"))]
    if list(table.columns) != wanted or (kind == "folds" and len(wanted) == len(columns)):
        raise BatikError(
            f"{path} is no {kind}: it should have the columns {', '.join(columns)}"
            + (", repeat_0 and so on." if kind == "folds" else ".")
        )
    made_for = sorted(set(table["dataset"])) or ["none"]
    if made_for != [dataset.digest]:
        raise BatikError(
            f"The {kind} {path} was made for other pictures (digest {made_for[0][:8]}…, this data "
            f"set has {dataset.digest[:8]}…): remove the file to make a new one, or use the data "
            f"set it was made for."
        )
    # the digest leaves open how a motif's folder is spelt: file names say which picture is meant
    own = dict(zip(_keys(dataset.manifest), dataset.manifest["path"], strict=True))
    if len(own) == len(dataset.manifest):
        table["path"] = [own.get(k, p) for k, p in zip(_keys(table), table["path"], strict=True)]
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
        held = max(1, round(_HOLD_OUT * len(rows)))
        rest, test = train_test_split(rows, test_size=held, random_state=seed)
        _, validation = train_test_split(rest, test_size=held, random_state=seed)
        subset[test], subset[validation] = "test", "validation"
    return list(subset)


def _checked(table: pd.DataFrame, dataset: Dataset, name: str) -> pd.DataFrame:
    _check_complete(table, dataset, name)
    unknown = set(table["subset"]) - set(SUBSETS)
    if unknown:
        raise BatikError(f"The split {name} has unknown subsets {sorted(unknown)}.")
    for motif in dataset.classes:
        here = set(table.loc[table["motif"] == motif, "subset"])
        if missing := [subset for subset in SUBSETS if subset not in here]:
            raise BatikError(
                f"The split {name} leaves no {missing[0]} picture of motif '{motif}' in "
                f"{dataset.root}: add pictures, or use another split."
            )
    return table.reset_index(drop=True)


def _check_complete(table: pd.DataFrame, dataset: Dataset, name: str) -> None:
    if sorted(table["path"]) != sorted(dataset.manifest["path"]):
        raise BatikError(
            f"The split {name} does not hold each picture of {dataset.root} exactly once: remove "
            f"it and make a new one."
        )
