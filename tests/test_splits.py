"""Every picture is in one subset, the same one every time."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from batik_utils import data, splits
from batik_utils.errors import PROJECT, BatikError


def dataset_of(counts: dict[str, int], folder: str = "batik-", digest: str = "") -> data.Dataset:
    """A data set without files; splits look at its manifest alone."""
    rows = [
        {"path": f"{folder}{motif}/{n}.jpg", "motif": motif, "sha256": f"{motif}{n}"}
        for motif, count in sorted(counts.items())
        for n in range(1, count + 1)
    ]
    manifest = pd.DataFrame(rows, columns=list(data.MANIFEST_COLUMNS))
    digest = digest or hashlib.sha256(str(counts).encode()).hexdigest()
    return data.Dataset(
        "folder", "test", "test", Path("/nowhere"), tuple(sorted(counts)), manifest, None, digest
    )


FIFTY = {"betawi": 50, "sidoluhur": 50, "tambal": 50}
HUNDRED = {"betawi": 100, "sidoluhur": 17, "tambal": 3}
COURSE, UNEVEN = dataset_of(FIFTY), dataset_of(HUNDRED)
SPLITS = [("course", COURSE), ("stratified-0", COURSE), ("stratified-7", UNEVEN)]


@pytest.mark.parametrize(("name", "dataset"), SPLITS)
def test_a_split_is_complete_and_its_subsets_are_disjoint(name, dataset):
    table = splits.make(name, dataset)
    assert tuple(table.columns) == splits.COLUMNS
    assert list(table["path"]) == list(dataset.manifest["path"])
    positions = [splits.indices(table, dataset, subset) for subset in splits.SUBSETS]
    assert sorted(i for found in positions for i in found) == list(range(len(dataset.manifest)))


def test_the_course_split_goes_by_file_number():
    table = splits.make("course", COURSE)
    numbers = table["path"].str.extract(r"(\d+)\.jpg", expand=False).astype(int)
    for subset, first, last in [("train", 1, 40), ("test", 41, 45), ("validation", 46, 50)]:
        chosen = sorted(numbers[table["subset"] == subset])
        assert chosen == [n for n in range(first, last + 1) for _ in COURSE.classes]


def test_a_stratified_split_gives_each_motif_its_share():
    table = splits.make("stratified-3", UNEVEN)
    found = table.groupby("motif")["subset"].value_counts().unstack()[list(splits.SUBSETS)]
    assert found.to_numpy().tolist() == [[80, 10, 10], [13, 2, 2], [1, 1, 1]]


@pytest.mark.parametrize("name", ["", "random", "stratified", "stratified-1.5", "Course"])
def test_an_unknown_split_is_refused(name):
    with pytest.raises(BatikError, match="Unknown split"):
        splits.make(name, COURSE)


@pytest.mark.parametrize("name", ["front.jpg", "0.jpg", "51.jpg", "².jpg"])
def test_the_course_split_needs_numbered_files(name):
    dataset = dataset_of({"betawi": 50, "tambal": 50})
    dataset.manifest.loc[3, "path"] = f"betawi/{name}"
    with pytest.raises(BatikError, match=name):
        splits.make("course", dataset)


def test_a_saved_split_is_kept_for_the_same_pictures_in_folders_of_other_names(tmp_path):
    path = tmp_path / "results" / "split.csv"
    saved = splits.open_or_make("stratified-5", UNEVEN, path)
    pd.testing.assert_frame_equal(saved, splits.make("stratified-5", UNEVEN))
    pd.testing.assert_frame_equal(splits.open_or_make("stratified-0", UNEVEN, path), saved)
    respelt = dataset_of(HUNDRED, folder="data/Batik ", digest=UNEVEN.digest)
    table = splits.open_or_make("course", respelt, path)
    pd.testing.assert_frame_equal(table, splits.make("stratified-5", respelt))


DAMAGE = {
    "without a row": lambda lines: lines[:-1],
    "with a row twice": lambda lines: [*lines, lines[-1]],
    "another subset": lambda lines: [*lines[:-1], lines[-1].replace("validation", "holdout")],
    "no test picture": lambda lines: [line.replace(",test,", ",train,") for line in lines],
    "other pictures": lambda lines: [line.replace(COURSE.digest, "b" * 64) for line in lines],
    "another column": lambda lines: [lines[0].replace("subset", "part"), *lines[1:]],
    "the header alone": lambda lines: lines[:1],
    "empty": lambda lines: [],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_split_is_refused_in_a_sentence(tmp_path, damage):
    path = tmp_path / "split.csv"
    splits.open_or_make("course", COURSE, path)
    lines = DAMAGE[damage](path.read_text().splitlines())
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(BatikError, match=r"split\.csv"):
        splits.open_or_make("course", COURSE, path)


def twins(dataset: data.Dataset, *together: tuple[str, ...]) -> pd.DataFrame:
    """Groups as `duplicates.group` gives them, by path; pictures of other motifs may be there."""
    leader = {path: members[0] for members in together for path in members}
    paths = [*dataset.manifest["path"], "batik-bali/1.jpg"]
    return pd.DataFrame({"path": paths, "group": [leader.get(p, p) for p in paths]})


GROUPS = twins(
    COURSE,
    tuple(f"batik-sidoluhur/{n}.jpg" for n in range(1, 18)),
    ("batik-tambal/1.jpg", "batik-tambal/50.jpg"),
    ("batik-betawi/3.jpg", "batik-bali/1.jpg"),
)


def test_folds_test_every_picture_once_a_repeat_and_never_part_twins():
    table = splits.make_folds(COURSE, GROUPS, repeats=3, folds=10)
    assert list(table["path"]) == list(COURSE.manifest["path"])
    assert (splits.n_repeats(table), splits.n_folds(table)) == (3, 10)
    for repeat in range(3):
        column = f"repeat_{repeat}"
        assert table.groupby("group")[column].nunique().max() == 1
        assert sorted(table[column].unique()) == list(range(10))
        tested = []
        for fold in range(10):
            split = splits.of_fold(table, repeat, fold)
            train, test = (splits.indices(split, COURSE, s) for s in ("train", "test"))
            assert not splits.indices(split, COURSE, "validation")
            assert sorted(train + test) == list(range(150))
            tested += test
        assert sorted(tested) == list(range(150))
    assert (table["repeat_0"] != table["repeat_1"]).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": UNEVEN, "groups": twins(UNEVEN)}, "'tambal' has 3 groups.*10 folds"),
        ({"groups": GROUPS.iloc[1:]}, "1 pictures have no group.*betawi/1.jpg.*audit"),
        ({"folds": 1}, "2 folds"),
    ],
)
def test_impossible_folds_are_refused(settings, message):
    with pytest.raises(BatikError, match=message):
        splits.make_folds(**{"dataset": COURSE, "groups": GROUPS} | settings)


def test_folds_are_saved_once_and_kept(tmp_path):
    path, groups = tmp_path / "cv" / "folds.csv", tmp_path / "duplicate_groups.csv"
    with pytest.raises(BatikError, match="audit"):
        splits.open_or_make_folds(COURSE, path, groups)
    GROUPS.to_csv(groups, index=False)
    made = splits.open_or_make_folds(COURSE, path, groups, repeats=2)
    groups.unlink()  # what is fixed once does not follow a later audit
    pd.testing.assert_frame_equal(splits.open_or_make_folds(COURSE, path, groups), made)
    with pytest.raises(BatikError, match="has 10 folds, not 5"):
        splits.open_or_make_folds(COURSE, path, groups, folds=5)
    alone = splits.open_or_make_folds(COURSE, tmp_path / "alone.csv", None)
    assert alone["group"].tolist() == alone["path"].tolist()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.drop(columns=["repeat_0", "repeat_1"]), "repeat_0"),
        (lambda t: t.assign(repeat_1="x"), "repeat_1"),
        (lambda t: t.iloc[1:], "exactly once"),
        (lambda t: t.assign(dataset="0" * 64), "other pictures"),
    ],
)
def test_damaged_folds_are_refused_in_a_sentence(tmp_path, damage, message):
    path = tmp_path / "folds.csv"
    data.write_table(damage(splits.make_folds(COURSE, GROUPS, repeats=2)), path)
    with pytest.raises(BatikError, match=message):
        splits.open_or_make_folds(COURSE, path, tmp_path / "none.csv")


@pytest.mark.real
def test_the_committed_folds_are_those_of_the_committed_groups(real_dataset):
    results = PROJECT / "results" / "kaggle"
    groups = data.read_table(results / "duplicate_groups.csv")
    there = splits.open_or_make_folds(real_dataset, results / "cv" / "folds.csv", Path("none"))
    pd.testing.assert_frame_equal(there, splits.make_folds(real_dataset, groups))
