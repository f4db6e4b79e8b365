"""Changed copies are found, different cloths are not, and nothing depends on the order."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from picture_zoo import encode
from PIL import Image, ImageOps

from batik_utils import data
from batik_utils.duplicates import audit, local_features, pairs
from batik_utils.errors import BatikError, NotWritten
from batik_utils.images import changes, cloth
from batik_utils.images.files import open_image


def crop(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((width // 5, height // 6, round(0.85 * width), round(0.9 * height)))


def watermark(image: Image.Image) -> Image.Image:
    copy, height = image.copy(), image.height
    band = (height * 0.4, height * 0.55, (0, 0, 0, 90))
    changes.watermark(copy, "toko batik", (9, height * 0.4), height / 7, (255, 255, 255, 200), band)
    return ImageOps.expand(copy, 12, "white")


def recoloured(image: Image.Image) -> Image.Image:
    pixels = np.asarray(image)[..., [1, 2, 0]] / 255
    return Image.fromarray(np.uint8(255 * pixels ** (0.6, 1.4, 1.0)))


#: Planted copies: what a picture goes through between two web shops.
COPIES = {
    "cropped": crop,
    "squashed": lambda image: image.resize((120, 190)),
    "turned by 33 degrees": lambda image: crop(image.rotate(33, Image.Resampling.BICUBIC)),
    "turned by a right angle": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "mirrored": ImageOps.mirror,
    "recoloured": recoloured,
    "stored as poor JPEG": lambda image: open_image(encode(image, "JPEG", quality=15)),
    "with a watermark": watermark,
    "changed by chance": lambda image: changes.changed(image, np.random.default_rng(3)),
}


@pytest.fixture(scope="module")
def sources() -> dict[str, Image.Image]:
    """Nine different cloths."""
    return {
        f"{motif}/{seed}": cloth.draw(motif, seed) for motif in cloth.MOTIFS for seed in (1, 2, 3)
    }


@pytest.fixture(scope="module")
def prints(sources) -> list[pairs.Fingerprint]:
    return [pairs.fingerprint(image, name) for name, image in sources.items()]


@pytest.fixture(scope="module")
def dataset(sources, tmp_path_factory) -> data.Dataset:
    """The cloths as files, one crop beside its source, one recoloured copy in another motif."""
    root = tmp_path_factory.mktemp("pictures")
    for name, image in sources.items():
        path = root / f"batik-{name}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)
    crop(sources["betawi/1"]).save(root / "batik-betawi/5.png")
    recoloured(sources["betawi/2"]).save(root / "batik-tambal/5.png")
    (root / "batik-tambal/6.png").write_bytes((root / "batik-tambal/1.png").read_bytes())
    return data.load("folder", root)


@pytest.fixture(scope="module")
def edges(dataset) -> pd.DataFrame:
    return pairs.find(dataset)


@pytest.mark.parametrize("kind", COPIES)
def test_each_kind_of_copy_is_found_and_nothing_else(kind, sources, prints):
    i = len(kind) % len(sources)
    every = [*prints, pairs.fingerprint(COPIES[kind](list(sources.values())[i]))]
    close = [(a, b) for a, b in pairs.candidates(every) if pairs.compare(every[a], every[b]).method]
    assert close == [(i, len(prints))]


def test_a_shared_watermark_is_not_a_shared_cloth(sources):
    """Two shops' pictures with one band across: many equal points, in one place."""
    a, b = (pairs.fingerprint(watermark(sources[name])) for name in ("betawi/1", "betawi/2"))
    found = pairs.compare(a, b)
    assert found.verification.inliers >= local_features.MIN_INLIERS
    assert found.method == ""


def test_a_pair_must_pass_every_limit():
    lf = local_features
    aligned = lf.MIN_SUM - lf.MIN_SPREAD
    enough = lf.Verification(lf.MIN_INLIERS, lf.MIN_SPREAD, aligned, lf.MIN_OVERLAP)
    assert lf.is_same(enough)
    assert lf.is_same(replace(enough, inliers=lf.FEW_INLIERS, aligned=lf.FEW_ALIGNED))
    for name in ("inliers", "spread", "aligned", "overlap"):
        assert not lf.is_same(replace(enough, **{name: getattr(enough, name) * 0.99 - 0.01})), name


def test_edges_are_direct_and_name_the_method(edges):
    assert tuple(edges.columns) == pairs.EDGE_COLUMNS
    assert edges[["path_a", "path_b", "method"]].to_numpy().tolist() == [
        ["batik-betawi/1.png", "batik-betawi/5.png", "features"],
        ["batik-betawi/2.png", "batik-tambal/5.png", "hash"],
        ["batik-tambal/1.png", "batik-tambal/6.png", "exact"],
    ]
    assert edges["score"].between(0, 1).all()


def test_nothing_depends_on_the_order_of_the_files(dataset, edges):
    again = pairs.find(replace(dataset, manifest=dataset.manifest[::-1].reset_index(drop=True)))
    there, here = (
        {(frozenset(row[:2]), *row[4:6]) for row in table.to_numpy().tolist()}
        for table in (again, edges)
    )
    assert there == here


# --- groups -----------------------------------------------------------------------------------


def small_dataset(*paths: str) -> data.Dataset:
    manifest = pd.DataFrame({"path": paths, "motif": [path.split("/")[0] for path in paths]})
    return data.Dataset("folder", "test", "test", Path("/none"), (), manifest, None, "0" * 64)


def table(*given: tuple[str, str]) -> pd.DataFrame:
    return pd.DataFrame(given, columns=["path_a", "path_b"]).assign(seen="")


def test_groups_join_chains_under_their_first_picture():
    dataset = small_dataset("betawi/1", "betawi/2", "tambal/1", "tambal/2", "tambal/3")
    chain = table(("betawi/1", "tambal/1"), ("betawi/2", "tambal/1"), ("tambal/1", "bali/1"))
    assert list(pairs.group(dataset, chain)["group"]) == ["betawi/1"] * 3 + ["tambal/2", "tambal/3"]
    pd.testing.assert_frame_equal(pairs.group(dataset, chain), pairs.group(dataset, chain[::-1]))
    judged = chain.assign(seen=["unsure", "false", "true"])
    assert list(pairs.group(dataset, judged)["group"])[:3] == ["betawi/1", "betawi/2", "betawi/1"]


def test_near_duplicates_of_test_pictures_in_training_are_counted():
    paths = [f"tambal/{n}.jpg" for n in (1, 2, 41, 42, 43, 46)]
    subsets = ["train"] * 2 + ["test"] * 3 + ["validation"]
    split = pd.DataFrame({"path": paths, "motif": "tambal", "subset": subsets})
    # 41 is a copy of 1 and, through it, of 2; 42 of 46, which is no training picture
    known = table((paths[0], paths[1]), (paths[0], paths[2]), (paths[3], paths[5]))
    found = audit.in_training(split, known, pairs.group(small_dataset(*paths), known))
    assert found[["path", "direct", "by_group", "twins"]].to_numpy().tolist() == [
        [paths[2], 1, 2, paths[0]],
        [paths[3], 0, 0, ""],
        [paths[4], 0, 0, ""],
    ]
    judged = known.assign(seen=["true", "false", "true"])
    found = audit.in_training(split, judged, pairs.group(small_dataset(*paths), judged))
    assert found[["direct", "by_group"]].sum().sum() == 0


@pytest.mark.real
def test_known_pairs_of_the_real_pictures_are_found(real_root):
    known = {
        # squashed; mirrored; another shot of one cloth; recoloured print
        ("batik-sidoluhur/1.jpg", "batik-sidoluhur/2.jpg"): True,
        ("batik-betawi/13.jpg", "batik-betawi/35.jpg"): True,
        ("batik-tambal/39.jpg", "batik-tambal/43.jpg"): True,
        ("batik-sidoluhur/5.jpg", "batik-sidoluhur/49.jpg"): True,
        # two shirts of one shop; two dresses in one garden under one watermark
        ("batik-sekar/20.jpg", "batik-sekar/23.jpg"): False,
        ("batik-lasem/50.jpg", "batik-tambal/29.jpg"): False,
    }
    for pair, same in known.items():
        both = [pairs.fingerprint(open_image(real_root / path), path) for path in pair]
        assert bool(pairs.compare(*both).method) == same, pair


# --- the audit --------------------------------------------------------------------------------


@pytest.fixture
def fake(monkeypatch, edges):
    """The pairs found above; features give the motif away, but betawi/3 looks like a tambal."""

    def values(dataset):
        rng = np.random.default_rng(0)
        labels = np.array(dataset.labels)
        labels[list(dataset.manifest["path"]).index("batik-betawi/3.png")] = 2
        return 4 * np.eye(3)[labels] + rng.normal(0, 0.1, (len(labels), 3))

    monkeypatch.setattr(audit, "_features", values)
    monkeypatch.setattr(pairs, "find", lambda _: edges)


def test_an_audit_writes_its_tables_and_repeats_itself(dataset, tmp_path, fake):
    folder = tmp_path / dataset.name
    folder.mkdir()
    by_eye = "batik-tambal/3.png,no cloth,a drawing\nelsewhere/1.png,no cloth,a cat\n"
    (folder / "doubts_by_eye.csv").write_text("path,source,reason\n" + by_eye)
    found = audit.run(dataset, tmp_path)
    tables = {path.stem: data.read_table(path) for path in folder.iterdir()}
    assert {*tables} == {"doubts_by_eye", "duplicates", "duplicate_groups", "doubtful_labels"}
    doubtful = tables["doubtful_labels"]
    assert tuple(doubtful.columns) == audit.DOUBT_COLUMNS
    assert set(zip(doubtful["path"], doubtful["source"], strict=True)) >= {
        ("batik-betawi/2.png", "twin in other motif"),
        ("batik-tambal/5.png", "twin in other motif"),
        ("batik-tambal/3.png", "no cloth"),
        ("batik-betawi/3.png", "confident learning"),
    }
    assert "elsewhere/1.png" not in set(doubtful["path"])
    assert (found["pairs of near-duplicates"], found["pictures"]) == (3, len(dataset.manifest))
    assert audit.doubted(folder) == {f"batik-{p}.png" for p in ("betawi/2", "tambal/3", "tambal/5")}
    assert "batik-betawi/3.png" in audit.doubted(folder, by_any=True)
    assert audit.doubted(tmp_path / "none") is None
    # a person looks at a pair; the next audit keeps the judgement and acts on it
    judged = tables["duplicates"].assign(seen=["true", "false", ""])
    data.write_table(judged, folder / "duplicates.csv", None)
    again = audit.run(dataset, tmp_path)
    assert list(data.read_table(folder / "duplicates.csv")["seen"]) == ["true", "false", ""]
    assert again["groups of two or more"] == found["groups of two or more"] - 1
    doubtful = data.read_table(folder / "doubtful_labels.csv")
    assert "twin in other motif" not in set(doubtful["source"])
    # a pair that only a person saw joins the groups, not the list of what the audit found
    missed = "path_a,path_b,reason\nbatik-tambal/2.png,batik-tambal/3.png,one cloth\n"
    (folder / "missed_pairs.csv").write_text(missed)
    assert audit.run(dataset, tmp_path)["pairs of near-duplicates"] == 3
    of = data.read_table(folder / "duplicate_groups.csv").set_index("path")["group"]
    assert of["batik-tambal/3.png"] == "batik-tambal/2.png"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("duplicate_groups.csv", "path,motif,group\nx/1.jpg,x,x/1.jpg\n", "1 of which are not"),
        ("duplicates.csv", "a,b\n1,2\n", "path_a"),
        ("duplicates.csv", "path_a,path_b,seen\nx,y,maybe\n", "'maybe'.*true, false"),
    ],
)
def test_files_that_do_not_fit_are_refused(name, text, message, dataset, tmp_path):
    folder = tmp_path / dataset.name
    folder.mkdir()
    (folder / name).write_text(text)
    with pytest.raises(BatikError, match=message):
        audit.run(dataset, tmp_path)


def test_a_folder_that_cannot_be_written_is_named_before_the_work(dataset, tmp_path, monkeypatch):
    monkeypatch.delattr(pairs, "find")
    (tmp_path / "results").touch()
    with pytest.raises(NotWritten, match="results"):
        audit.run(dataset, tmp_path / "results")


def test_a_few_own_motifs_are_audited(tmp_path):
    for motif, drawn in (("truntum", "betawi"), ("nitik", "tambal")):
        (tmp_path / "own" / motif).mkdir(parents=True)
        for n in range(3):
            cloth.draw(drawn, 50 + n, (96, 96)).save(tmp_path / "own" / motif / f"{n}.png")
    dataset = data.load("folder", tmp_path / "own", "all")
    assert len(data.read_table(audit.groups_of(dataset, tmp_path / "results"))) == 6


def test_the_kaggle_set_has_one_audit_whatever_classes_were_loaded(tmp_path):
    for name in ("kaggle-20motifs-limit4", "kaggle-limit4"):
        dataset = replace(small_dataset("betawi/1"), name=name)
        assert audit.folder_of(dataset, tmp_path) == tmp_path / "kaggle-limit4"
