"""Planted copies are found, different cloths are not, and nothing depends on the order."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from batik_utils import __main__, data, splits
from batik_utils.duplicates import audit, duplicate_check, planted
from batik_utils.duplicates import local_features as features
from batik_utils.duplicates import pairs as duplicates
from batik_utils.errors import BatikError
from batik_utils.images import cloth, files

MOTIFS = ("betawi", "sidoluhur", "tambal")
PLANTED_SEEDS = range(2)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def sources() -> dict[str, Image.Image]:
    """Twelve different cloths."""
    return {f"{motif}/{seed}": cloth.draw(motif, seed) for motif in MOTIFS for seed in range(1, 5)}


@pytest.fixture(scope="module")
def looks(sources) -> list[duplicates.Look]:
    return [duplicates.look(picture, digest(name)) for name, picture in sources.items()]


@pytest.fixture(scope="module")
def gallery(looks) -> duplicates.Gallery:
    return duplicates.Gallery(looks)


@pytest.fixture(scope="module")
def tree(sources, tmp_path_factory) -> Path:
    """The cloths as files, one crop beside its source, one recoloured copy in another motif."""
    root = tmp_path_factory.mktemp("pictures")
    for name, picture in sources.items():
        path = root / f"batik-{name}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)
    planted.plant("crop", sources["betawi/1"], 0).save(root / "batik-betawi/5.png")
    planted.plant("recolour", sources["betawi/2"], 0).save(root / "batik-tambal/5.png")
    (root / "batik-tambal/6.png").write_bytes((root / "batik-tambal/1.png").read_bytes())
    return root


@pytest.fixture(scope="module")
def dataset(tree) -> data.Dataset:
    return data.load("folder", tree)


@pytest.fixture(scope="module")
def edges(dataset) -> pd.DataFrame:
    return duplicates.find(dataset, duplicates.look_all(dataset, progress=False), progress=False)


WANTED = {
    ("batik-betawi/1.png", "batik-betawi/5.png", "features"),
    ("batik-betawi/2.png", "batik-tambal/5.png"),
    ("batik-tambal/1.png", "batik-tambal/6.png", "exact"),
}


@pytest.mark.parametrize("kind", planted.KINDS)
def test_each_kind_of_copy_is_found_and_nothing_else(kind, sources, looks, gallery):
    for seed in PLANTED_SEEDS:
        i = seed * 5 + len(kind) % 3
        picture = list(sources.values())[i]
        query = duplicates.look(planted.plant(kind, picture, seed))
        shortlist = gallery.candidates([query], progress=False)[0]
        called = [int(j) for j in shortlist if duplicates.compare(query, looks[j]).method]
        assert called == [i]


def test_the_shortlist_holds_the_source_among_few(sources, gallery, monkeypatch):
    monkeypatch.setattr(duplicates, "SHORTLIST", 1)
    crops = [duplicates.look(planted.plant("crop", p, 1)) for p in sources.values()]
    shortlists = gallery.candidates(crops, progress=False)
    assert max(map(len, shortlists)) < 6
    assert sum(i in found for i, found in enumerate(shortlists)) >= len(crops) - 1


def test_different_cloths_are_no_duplicates(looks):
    for i, a in enumerate(looks):
        for b in looks[i + 1 :]:
            assert duplicates.compare(a, b).method == ""


@pytest.mark.parametrize("kind", planted.KINDS)
def test_planting_changes_the_picture_the_same_way_each_time(kind, sources):
    picture = sources["tambal/1"]
    first, again = (planted.plant(kind, picture, 3) for _ in range(2))
    assert first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first.size != picture.size or first.tobytes() != picture.tobytes()


def test_an_unknown_kind_of_planting_is_refused(sources):
    with pytest.raises(BatikError, match=r"'blur'.*crop"):
        planted.plant("blur", sources["tambal/1"], 0)


def test_mirrored_features_are_those_of_the_mirrored_picture(sources):
    picture = sources["betawi/1"]
    seen = features.extract(picture)
    other = features.extract(ImageOps.mirror(picture))
    pairs = features.match(seen.mirrored(), other)
    away = np.abs(seen.mirrored().points[pairs[:, 0]] - other.points[pairs[:, 1]]).max(1)
    assert (away < 2).sum() > 0.6 * len(seen.points)


def test_a_shared_watermark_is_not_a_shared_cloth(sources):
    """Two shops' pictures with one band across: many equal points, in one place."""
    a, b = (
        duplicates.look(planted.plant("watermark", sources[name], 1))
        for name in ("betawi/1", "betawi/2")
    )
    found = duplicates.compare(a, b)
    assert found.verification.inliers >= features.MIN_INLIERS
    assert found.method == ""


def test_a_pair_must_pass_every_limit():
    low = features.MIN_SPREAD, features.MIN_SUM - features.MIN_SPREAD
    enough = features.Verification(features.MIN_INLIERS, *low, features.MIN_OVERLAP)
    assert features.is_same(enough)
    assert features.is_same(replace(enough, spread=0.5, aligned=features.MIN_ALIGNED))
    assert features.is_same(
        replace(enough, inliers=features.FEW_INLIERS, aligned=features.FEW_ALIGNED)
    )
    for poorer in (
        {"inliers": features.MIN_INLIERS - 1},
        {"inliers": features.FEW_INLIERS - 1, "aligned": 1.0},
        {"spread": features.MIN_SPREAD - 0.01, "aligned": 1.0},
        {"spread": 0.9, "aligned": features.MIN_ALIGNED - 0.01},
        {"overlap": features.MIN_OVERLAP - 0.01},
        {"spread": 0.3, "aligned": 0.39},
    ):
        assert not features.is_same(replace(enough, **poorer)), poorer


@pytest.mark.parametrize("colour", ["white", "black"])
def test_a_picture_without_any_point_is_compared_all_the_same(colour, looks):
    blank = duplicates.look(Image.new("RGB", (60, 40), colour))
    assert len(blank.features.points) == 0
    assert duplicates.compare(blank, looks[0]).method == ""
    assert duplicates.compare(looks[0], blank).method == ""


def test_edges_are_direct_and_name_the_method(edges):
    found = {(row.path_a, row.path_b, row.method) for row in edges.itertuples()}
    assert tuple(edges.columns) == duplicates.EDGE_COLUMNS
    assert {pair[:2] for pair in found} == {pair[:2] for pair in WANTED}
    assert {pair for pair in WANTED if len(pair) == 3} <= found
    assert edges["score"].between(0, 1).all()
    across = edges[edges["motif_a"] != edges["motif_b"]]
    assert list(zip(across["motif_a"], across["motif_b"], strict=True)) == [("betawi", "tambal")]


def test_edges_are_the_same_in_any_order_of_the_pictures(dataset, edges):
    shuffled = dataset.manifest.sample(frac=1, random_state=3).reset_index(drop=True)
    other = replace(dataset, manifest=shuffled)
    found = duplicates.find(other, duplicates.look_all(other, progress=False), progress=False)
    pairs = [sorted(pair) for pair in zip(found["path_a"], found["path_b"], strict=True)]
    found[["path_a", "path_b"]] = pairs
    columns = ["path_a", "path_b", "method", "score", "inliers", "aligned"]
    pd.testing.assert_frame_equal(
        found[columns].sort_values("path_a", ignore_index=True), edges[columns]
    )


def table(*pairs: tuple[str, str], **columns) -> pd.DataFrame:
    return pd.DataFrame(pairs, columns=["path_a", "path_b"]).assign(**columns)


def small_dataset(*paths: str) -> data.Dataset:
    manifest = pd.DataFrame({"path": paths, "motif": [p.split("/")[0] for p in paths]})
    return data.Dataset("folder", "t", "t", Path("/nowhere"), MOTIFS, manifest, None, "0" * 64)


def test_groups_are_transitive_and_edges_need_not_be():
    dataset = small_dataset("betawi/1", "betawi/2", "tambal/1", "tambal/2", "tambal/3")
    chain = table(("tambal/1", "betawi/2"), ("betawi/1", "tambal/1"))
    groups = duplicates.group(dataset, chain)
    assert list(groups["group"]) == ["betawi/1"] * 3 + ["tambal/2", "tambal/3"]
    reversed_chain = table(("tambal/1", "betawi/1"), ("betawi/2", "tambal/1"))
    pd.testing.assert_frame_equal(groups, duplicates.group(dataset, reversed_chain))


def test_a_pair_judged_false_joins_nothing():
    dataset = small_dataset("betawi/1", "betawi/2", "tambal/1")
    pairs = table(("betawi/1", "betawi/2"), ("betawi/2", "tambal/1"), seen=["unsure", "false"])
    assert list(duplicates.group(dataset, pairs)["group"]) == ["betawi/1", "betawi/1", "tambal/1"]


def test_test_pictures_with_a_twin_in_training_are_counted():
    paths = [f"tambal/{n}.jpg" for n in (1, 2, 41, 42, 43, 46)]
    split = pd.DataFrame(
        {"path": paths, "motif": "tambal", "subset": ["train"] * 2 + ["test"] * 3 + ["validation"]}
    )
    # 41 is a twin of 1 and, through it, of 2; 42 of 46, which is no training picture
    pairs = table((paths[0], paths[1]), (paths[0], paths[2]), (paths[3], paths[5]))
    groups = duplicates.group(small_dataset(*paths), pairs)
    twins = splits.twins_in_training(split, pairs, groups)
    assert list(twins["path"]) == paths[2:5]
    assert list(twins["direct"]) == [1, 0, 0]
    assert list(twins["by_group"]) == [2, 0, 0]
    assert list(twins["twins"]) == [paths[0], "", ""]
    judged = pairs.assign(seen=["true", "false", "true"])
    groups = duplicates.group(small_dataset(*paths), judged)
    assert splits.twins_in_training(split, judged, groups)[["direct", "by_group"]].sum().sum() == 0


def test_the_check_tells_a_good_method_from_a_careless_one(dataset, edges, monkeypatch):
    looks = duplicates.look_all(dataset, progress=False)
    gallery = duplicates.Gallery(looks)
    monkeypatch.setattr(duplicate_check, "RANDOM_PAIRS", 20)
    kinds, limits = duplicate_check.check(dataset, looks, gallery, edges, 1, progress=False)
    kinds = kinds.set_index("kind")
    assert list(kinds.index[:-3]) == list(planted.KINDS)
    assert kinds.loc["all copies", "n"] == len(planted.KINDS)
    assert kinds.loc["all copies", "recall"] >= 0.8
    assert kinds["false"].sum() == 0
    assert list(limits["quantity"]) == [
        "hash", "correlation", "inliers", "spread", "aligned", "overlap",
    ]  # fmt: skip
    monkeypatch.setattr(duplicates, "MIN_HASH", 0.4)
    careless, _ = duplicate_check.check(dataset, looks, gallery, edges, 1, progress=False)
    careless = careless.set_index("kind")
    assert careless.loc["all copies", "precision"] < 0.5
    assert careless.loc["random pairs, other motif", "false"] > 10


@pytest.fixture
def fake_probe(monkeypatch):
    """Features that give the motif away, except that betawi/3 looks like a tambal."""

    def values(dataset, weights_directory, progress):
        rng = np.random.default_rng(0)
        labels = np.array(dataset.labels)
        labels[list(dataset.manifest["path"]).index("batik-betawi/3.png")] = 2
        return 4 * np.eye(3)[labels] + rng.normal(0, 0.1, (len(labels), 3))

    monkeypatch.setattr(audit, "_probe_features", values)


def test_an_audit_writes_its_tables_and_repeats_itself(dataset, tmp_path, fake_probe):
    folder = tmp_path / dataset.name
    folder.mkdir()
    (folder / "doubts_by_eye.csv").write_text(
        "path,source,reason\n"
        "batik-tambal/3.png,no cloth,a drawing\nelsewhere/1.png,no cloth,a cat\n"
    )
    found = audit.run(dataset, tmp_path, per_kind=0, progress=False)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {
        "doubts_by_eye.csv",
        "duplicates.csv",
        "duplicate_groups.csv",
        "doubtful_labels.csv",
    }
    doubtful = found.doubtful_labels
    assert tuple(doubtful.columns) == audit.DOUBT_COLUMNS
    listed = set(zip(doubtful["path"], doubtful["source"], strict=True))
    assert ("batik-betawi/2.png", "twin in other motif") in listed
    assert ("batik-tambal/5.png", "twin in other motif") in listed
    assert ("batik-tambal/3.png", "no cloth") in listed
    assert ("batik-betawi/3.png", "confident learning") in listed
    assert "elsewhere/1.png" not in set(doubtful["path"])
    assert "pairs: 3" in str(found)
    # a person looks at a pair; the next audit keeps the judgement and acts on it
    judged = pd.read_csv(folder / "duplicates.csv", dtype=str, keep_default_na=False)
    judged["seen"] = ["true", "false", ""]
    judged.to_csv(folder / "duplicates.csv", index=False)
    again = audit.run(dataset, tmp_path, per_kind=0, progress=False)
    assert list(again.duplicates["seen"]) == ["true", "false", ""]
    assert again.counts()["groups of two or more"] == found.counts()["groups of two or more"] - 1
    assert "twin in other motif" not in set(again.doubtful_labels["source"])
    assert (folder / "doubtful_labels.csv").read_bytes() != first["doubtful_labels.csv"]
    # a pair that only a person saw joins the groups, not the list of what the audit found
    (folder / "missed_pairs.csv").write_text(
        "path_a,path_b,reason\nbatik-tambal/2.png,batik-tambal/3.png,one cloth\n"
    )
    added = audit.run(dataset, tmp_path, per_kind=0, progress=False)
    assert added.counts()["pairs"] == 3
    of = dict(zip(*(added.duplicate_groups[c] for c in ("path", "group")), strict=True))
    assert of["batik-tambal/3.png"] == "batik-tambal/2.png"
    once_more = {path.name: path.read_bytes() for path in folder.iterdir()}
    audit.run(dataset, tmp_path, per_kind=0, progress=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == once_more


def test_an_audit_of_fewer_pictures_does_not_replace_a_larger_one(dataset, tmp_path):
    folder = tmp_path / dataset.name
    folder.mkdir()
    (folder / "duplicate_groups.csv").write_text("path,motif,group\nx/1.jpg,x,x/1.jpg\n")
    with pytest.raises(BatikError, match="1 of which are not"):
        audit.run(dataset, tmp_path, per_kind=0, progress=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "damaged"), ("path_a,path_b,seen\nx,y,maybe\n", "'maybe'.*true, false")],
)
def test_judgements_that_cannot_be_read_are_refused(text, message, dataset, tmp_path):
    folder = tmp_path / dataset.name
    folder.mkdir()
    (folder / "duplicates.csv").write_text(text)
    with pytest.raises(BatikError, match=message):
        audit.run(dataset, tmp_path, per_kind=0, progress=False)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("kaggle", "kaggle"),
        ("kaggle-20motifs", "kaggle"),
        ("kaggle-20motifs-limit4", "kaggle-limit4"),
        ("synthetic", "synthetic"),
        ("folder-0123abcd", "folder-0123abcd"),
    ],
)
def test_the_kaggle_set_has_one_audit_whatever_classes_were_loaded(name, folder, tmp_path):
    dataset = replace(small_dataset("betawi/1"), name=name)
    assert audit.folder_of(dataset, tmp_path) == tmp_path / folder


@pytest.mark.real
def test_known_twins_of_the_real_pictures_are_found(real_root):
    pairs = {
        # squashed; mirrored; another shot of one cloth; recoloured print
        ("batik-sidoluhur/1.jpg", "batik-sidoluhur/2.jpg"): True,
        ("batik-betawi/13.jpg", "batik-betawi/35.jpg"): True,
        ("batik-tambal/39.jpg", "batik-tambal/43.jpg"): True,
        ("batik-sidoluhur/5.jpg", "batik-sidoluhur/49.jpg"): True,
        # two shirts of one shop; two dresses in one garden under one watermark
        ("batik-sekar/20.jpg", "batik-sekar/23.jpg"): False,
        ("batik-lasem/50.jpg", "batik-tambal/29.jpg"): False,
    }
    looks = {}
    for pair in pairs:
        for path in pair:
            looks[path] = duplicates.look(files.open_image(real_root / path), path)
    for (a, b), same in pairs.items():
        assert bool(duplicates.compare(looks[a], looks[b]).method) == same, (a, b)


def test_the_command_prints_its_counts(tree, tmp_path, fake_probe, capsys):
    words = ["audit", "--data", "folder", "--root", str(tree), "--results", str(tmp_path)]
    assert __main__.main([*words, "--planted", "0"]) == 0
    printed = capsys.readouterr().out
    assert "pictures: 15\npairs: 3\npairs across motifs: 1\npairs by exact: 1\n" in printed
    assert (tmp_path / printed.split()[-1] / "duplicates.csv").is_file()
    assert __main__.main([*words, "--planted", "-1"]) == 2
    assert "--planted must be" in capsys.readouterr().err
