"""A data set is found, opened file by file, named and recognised again."""

import contextlib
import functools
import http.client
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import kagglehub
import numpy as np
import pandas as pd
import pytest
from conftest import draw

from batik_utils import data
from batik_utils.errors import BatikError
from batik_utils.images import cloth, motifs

pytestmark = pytest.mark.usefixtures("without_batik_settings")

load = data.load


def test_pictures_come_by_number_and_other_files_are_named_and_left_out(picture_tree, caplog):
    root = picture_tree({"betawi": 12, "tambal": 1})
    shutil.copy(root / "betawi" / "1.jpg", root / "betawi" / "extra.jpg")
    others = {"9.jpg": b"<!doctype html><html>", "empty.png": b"", "notes.txt": b"in Jakarta"}
    for name, content in others.items():
        (root / "betawi" / name).write_bytes(content)
    dataset = load("folder", root, "all")
    names = [path.name for path in dataset.paths]
    assert names == [*(f"{n}.jpg" for n in range(1, 13) if n != 9), "extra.jpg", "1.jpg"]
    reasons = dict(zip(dataset.skipped["path"], dataset.skipped["reason"], strict=True))
    assert set(reasons) == {f"betawi/{name}" for name in others}
    assert "HTML" in reasons["betawi/9.jpg"]
    assert reasons["betawi/empty.png"] == "empty file"
    assert all(path in caplog.text for path in reasons)


#: Layouts of a data set: files (1.jpg to 4.jpg in each folder; ``->`` makes a link), the classes
#: that are asked for, and the motifs found, or what the refusal names.
SIX = ("betawi", "tambal", "sidoluhur")
LAYOUTS = {
    "as published": (SIX, None, sorted(SIX)),
    "a level too many": (("data/train/betawi", "data/train/tambal", "data/.x"), "all", SIX[:2]),
    "kagglehub": ([f"versions/1/{m}" for m in SIX] + ["__MACOSX/versions"], None, sorted(SIX)),
    "a lone link": (["elsewhere/a", "elsewhere/b", "root -> elsewhere"], "a,b", "elsewhere"),
    "notebook checkpoints": ((*SIX, "tambal/.ipynb_checkpoints", ".cache"), "all", sorted(SIX)),
    "systems": ((*SIX, "$RECYCLE.BIN", "@eaDir", "__MACOSX/a", "FOUND.000"), "all", sorted(SIX)),
    "an empty folder": ((*SIX, "New folder/"), "all", sorted(SIX)),
    "an empty wanted folder": ((*SIX[:2], "sidoluhur/"), None, "sidoluhur"),
    "a copy beside": ((*SIX, *(f"dataset/{m}" for m in SIX)), "all", sorted(SIX)),
    "a copy inside": ((*SIX, *(f"tambal copy/{m}" for m in SIX)), "all", sorted(SIX)),
    "a copy of Windows": ((*SIX, "tambal - Copy"), "all", "'tambal' and 'tambal - Copy'"),
    "divided": ([f"{s}/{m}" for s in ("test", "train") for m in SIX], None, "/train"),
    "divided, capitals": ([f"Training/{m}" for m in SIX] + ["Testing/a"], "all", "/Training"),
    "divided, Indonesian": ([f"{s}/{m}" for s in ("uji", "latih") for m in SIX], None, "/latih"),
    "divided beside": ((*SIX, *(f"test/{m}" for m in SIX)), "all", sorted(SIX)),
    "parts without motifs": (("Training", "Testing"), "all", "holds no folder"),
    "nothing but a part": ((*SIX[:2], "test"), "all", SIX[:2]),
    "sessions of a known motif": (("betawi", "tambal/monday", "tambal/friday"), "all", SIX[:2]),
    "sessions of own motifs": (("a/monday", "b/monday"), "a,b", ("a", "b")),
    "two of one name": ((*SIX, "batik-tambal"), None, "'batik-tambal' and 'tambal'"),
    "two of one name, not wanted": (("a", "b", "batik-a x", "A X"), "a,b", ("a", "b")),
    "others alike": ((*SIX, "Bali_Barong", "Bali_Merak"), None, sorted(SIX)),
    "truth and nothing": (("true", "null", "0"), "all", ("0", "null", "true")),
    "scripts": (("ꦥꦫꦁ", "蜡染", "Батик Б"), "all", ("батикб", "蜡染", "ꦥꦫꦁ")),
    "asked as written": (("Solo Parang", "a"), "Solo Parang, Batik A", ("a", "soloparang")),
    "asked with a number": (("parang 1", "parang 2"), "Parang2,parang-1", ("parang1", "parang2")),
    "own motifs": (("a", "b"), None, "--classes all"),
    "linked sub-folder": (("betawi", "there", "tambal -> there"), "betawi,tambal", SIX[:2]),
    "link to another motif": ((*SIX[:2], "tambal/more -> ../betawi"), "all", SIX[:2]),
    "link to nothing": ((*SIX[:2], "kawung -> nowhere"), "all", SIX[:2]),
    "link to itself": (("betawi", "tambal", "tambal/loop -> .."), "all", SIX[:2]),
    "one motif": (("betawi",), "all", "two motifs"),
    "empty": ((), "all", "holds no folder"),
}


def lay(root: Path, names) -> Path:
    """Make folders of four pictures each, all different; ``name/`` is empty."""
    root.mkdir(exist_ok=True)
    for k, name in enumerate(names):
        name, _, target = name.partition(" -> ")
        if target:
            (root / name).symlink_to(target)
            continue
        (root / name).mkdir(parents=True, exist_ok=True)
        for n in range(0 if name.endswith("/") else 4):
            draw(f"{name}{k}", n, 9).save(root / name / f"{n + 1}.png")
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_a_motif_in_a_folder(name, tmp_path, caplog):
    names, classes, wanted = LAYOUTS[name]
    root = lay(tmp_path / "there", names)
    classes = motifs.MOTIFS if classes is None else classes
    if isinstance(wanted, str) and name != "a lone link":
        with pytest.raises(BatikError, match=re.escape(wanted)):
            load("folder", root, classes)
        return
    if name == "a lone link":
        root, wanted = lay(tmp_path / "other", ["all -> ../there/elsewhere"]), ("a", "b")
    dataset = load("folder", root, classes)
    assert dataset.classes == tuple(wanted)
    sizes = {8} if name == "sessions of a known motif" else {4}
    assert {*Counter(dataset.manifest["motif"]).values()} <= {4, *sizes}
    assert dataset.skipped.empty
    assert all(path.is_file() for path in dataset.paths)
    assert ("nothing" in caplog.text) == (name == "link to nothing")
    # what was made of it can be read again
    data.write_manifest(dataset, tmp_path / "results")
    data.write_manifest(dataset, tmp_path / "results")


def test_a_path_may_be_quoted_or_begin_at_home(picture_tree, monkeypatch, tmp_path):
    root = picture_tree()
    monkeypatch.setenv("HOME", str(root.parent))
    for given in (f'"{root}"', f"~/{root.name}", f" {root} "):
        assert load(" Folder", given).root == root


#: File names that cannot be written to a table, and some that only look odd.
FILE_NAMES = {
    b"caf\xe9.png": False,
    b"line\nbreak.png": False,
    b"carriage\rreturn.png": False,
    b'quote".png': True,
    b"comma, here.png": True,
    "caf\u00e9.png".encode(): True,
    "narrow\u202fspace.png".encode(): True,
    "蜡染🦋.png".encode(): True,
    b"-rf.png": True,
    b" .png": True,
}


def test_a_file_whose_name_cannot_be_written_is_left_out(tmp_path):
    root = lay(tmp_path / "root", ("betawi", "tambal"))
    for k, name in enumerate(FILE_NAMES):
        draw("odd", k).save(os.fsdecode(os.fsencode(root / "tambal") + b"/" + name), "PNG")
    dataset = load("folder", root, "all")
    assert len(dataset.skipped) == list(FILE_NAMES.values()).count(False)
    assert len(dataset.manifest) == 8 + list(FILE_NAMES.values()).count(True)
    data.write_manifest(dataset, tmp_path / "results")
    data.write_manifest(dataset, tmp_path / "results")
    data.write_table(dataset.skipped, tmp_path / "skipped.csv")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["drive"], r"'drive': .*auto, folder, kaggle"),
        (["folders"], "use folder"),
        (["folder"], "needs a root"),
        (["synthetic", "."], "does not read a root"),
        (["kaggle", "."], "does not read a root"),
        (["folder", "none"], "none does not exist"),
        (["folder", __file__], "unpack"),
        (["folder", "pictures", "betawi"], "at least two motifs"),
        (["folder", "pictures", ["betawi", "Betawi"]], "at least two motifs"),
        (["folder", "pictures", []], "at least two motifs"),
    ],
)
def test_settings_that_do_not_fit_are_refused(given, message, picture_tree, monkeypatch, tmp_path):
    picture_tree()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BatikError, match=message):
        load(*given)
    with pytest.raises(BatikError, match="limit must be"):
        load("folder", tmp_path, limit=-1)


LIMITS = {0: range(1, 11), 10: range(1, 11), 99: range(1, 11), 5: (2, 4, 6, 8, 10), 3: (3, 6, 10)}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_is_spread_over_the_sorted_files(picture_tree, limit):
    dataset = load("folder", picture_tree({"betawi": 10, "tambal": 10}), "all", limit=limit)
    wanted = [f"{motif}/{n}.jpg" for motif in dataset.classes for n in LIMITS[limit]]
    assert list(dataset.manifest["path"]) == wanted
    assert dataset.name.endswith(f"-limit{limit}") == (f"at most {limit}" in dataset.title)
    assert ("limit" in dataset.name) == bool(limit)


def test_a_limit_counts_usable_pictures(picture_tree):
    root = picture_tree({"betawi": 6, "tambal": 6})
    for name in ("Thumbs.db", "0.mp4", "2.jpg", "6.jpg", "zz.txt"):
        (root / "tambal" / name).write_bytes(b"no picture")
    (root / "tambal" / "7.jpg").symlink_to("nothing")
    assert len(load("folder", root, "all").skipped) == 5
    for limit in (1, 4, 5):
        counts = Counter(load("folder", root, "all", limit=limit).manifest["motif"])
        assert counts == {"betawi": limit, "tambal": min(limit, 4)}


#: What is moved within a data set of betawi and tambal.
CHANGES = {
    "nothing": ("betawi/8.jpg", "betawi/8.jpg"),
    "a name": ("betawi/8.jpg", "betawi/9.jpg"),
    "a label": ("betawi/8.jpg", "tambal/88.jpg"),
    "content": ("betawi/8.jpg", "betawi/1.jpg"),
    "one less": ("betawi/8.jpg", "../8.jpg"),
}


def test_the_digest_changes_with_content_with_a_name_and_with_a_label(picture_tree, tmp_path):
    digests = set()
    for name, (here, there) in CHANGES.items():
        root = picture_tree({"betawi": 8, "tambal": 8}, tmp_path / name)
        (root / here).rename(root / there)
        digests.add(load("folder", root, "all").digest)
    assert len(digests) == len(CHANGES)


def test_the_manifest_is_written_once_and_other_pictures_are_refused(picture_tree, tmp_path):
    dataset = load("folder", picture_tree())
    path = data.write_manifest(dataset, tmp_path / "results")
    assert path == tmp_path / "results" / dataset.name / "manifest.csv"
    pd.testing.assert_frame_equal(pd.read_csv(path), dataset.manifest, check_dtype=False)
    written = path.stat().st_mtime_ns
    assert data.write_manifest(dataset, tmp_path / "results") == path
    assert path.stat().st_mtime_ns == written
    path.write_text(path.read_text().replace("betawi/1.jpg", "betawi/99.jpg"))
    with pytest.raises(BatikError, match="describes other pictures"):
        data.write_manifest(dataset, tmp_path / "results")


def test_names_stay_text_and_numbers_become_numbers(tmp_path):
    table = pd.DataFrame(
        {
            "path": ["007", "1e5", "nan", "", 'a,"b"', "line\nbreak", "c"],
            "motif": ["true", "false", "null", "NA", "None", "1", "蜡染"],
            "motif_b": list("1234567"),
            "accuracy": [0.5, 1, np.nan, 2e-9, 0.123456789, 1, 1],
            "n": range(7),
            "met": [True, False] * 3 + [True],
        }
    )
    path = tmp_path / "table.csv"
    data.write_table(table, path, None)
    pd.testing.assert_frame_equal(data.read_table(path, table.columns), table, check_dtype=False)
    data.write_table(table, path)
    assert data.read_table(path)["accuracy"][4] == 0.123457
    path.write_bytes(b"\xef\xbb\xbfpath,seen\r\n1.jpg,true\r\n")  # as Excel writes it
    assert data.read_table(path, ("path", "seen")).to_numpy().tolist() == [["1.jpg", "true"]]


@pytest.mark.parametrize(
    "content", [None, b"", b"path,motif\n", b'path,n\n"a,b', b"\0\xff", b"n\n\xff"]
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, content):
    path = tmp_path / "table.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BatikError, match=re.escape(str(path))):
        data.read_table(path, ("path", "n"), "python -m batik_utils audit")


def test_the_results_folder(monkeypatch, tmp_path):
    assert data.results_root(tmp_path) == tmp_path
    assert data.results_root().name == "results"
    monkeypatch.setenv("BATIK_RESULTS_DIR", "~/some")
    assert data.results_root() == Path.home() / "some"
    assert data.results_root(tmp_path) == tmp_path


@pytest.fixture
def few_synthetic(monkeypatch):
    monkeypatch.setattr(cloth, "write", functools.partial(cloth.write, per_motif=2))


@pytest.fixture
def kaggle(monkeypatch, picture_tree, tmp_path):
    """Kaggle's download gives a small tree; nothing else may be asked."""
    root = picture_tree(root=tmp_path / "kaggle" / "versions" / "1")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("asked"))
    monkeypatch.setattr(kagglehub, "dataset_download", lambda handle: str(root))


def test_auto_takes_a_given_root_then_the_environment(picture_tree, kaggle, monkeypatch, tmp_path):
    root = picture_tree()
    monkeypatch.setenv("BATIK_DATA_DIR", str(tmp_path / "not this one"))
    assert load("auto", root).source == "folder"
    monkeypatch.setenv("BATIK_DATA_DIR", str(root))
    assert load("auto", "").root == load("folder").root == root


#: What Kaggle's address gives, and BATIK_OFFLINE, to the source that is used.
AUTO = {
    "an answer": (contextlib.nullcontext(), "", "kaggle"),
    "forbidden": (urllib.error.HTTPError("", 403, "Forbidden", {}, None), "0", "kaggle"),
    "not offline": (contextlib.nullcontext(), "false", "kaggle"),
    "no network": (urllib.error.URLError("no route"), "no", "synthetic"),
    "silence": (TimeoutError("timed out"), "", "synthetic"),
    "not HTTP": (http.client.BadStatusLine("220 ftp"), "", "synthetic"),
    "offline": (contextlib.nullcontext(), "1", "synthetic"),
}


@pytest.mark.parametrize("case", AUTO)
def test_auto_without_a_root(case, kaggle, few_synthetic, monkeypatch, caplog):
    answer, offline, source = AUTO[case]
    if case != "offline":
        monkeypatch.setattr(urllib.request, "urlopen", Mock(side_effect=[answer]))
    monkeypatch.setenv("BATIK_OFFLINE", offline)
    dataset = load("auto")
    assert (dataset.source, dataset.name) == (source, source)
    assert ("SYNTHETIC" in caplog.text) == (source == "synthetic")


def test_a_home_that_cannot_be_written_is_no_obstacle(few_synthetic, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("BATIK_CACHE_DIR", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert load("synthetic").root.is_relative_to(tmp_path / f"batik-{os.getuid()}")
    assert "BATIK_CACHE_DIR" in caplog.text


def test_synthetic_is_never_called_batik(few_synthetic, monkeypatch, picture_tree):
    monkeypatch.setenv("BATIK_DATA_DIR", str(picture_tree()))
    dataset = load("synthetic", limit=1)
    assert (dataset.source, dataset.name) == ("synthetic", "synthetic-limit1")
    assert dataset.title == "SYNTHETIC cloth, not batik, at most 1 pictures a motif"
    two = load("synthetic", classes="betawi,tambal")
    assert two.name == "synthetic-2motifs"


def test_a_failed_download_is_one_clear_sentence(monkeypatch):
    refused = Mock(side_effect=ValueError("403 Client Error.\n\nYou don't have permission"))
    monkeypatch.setattr(kagglehub, "dataset_download", refused)
    with pytest.raises(BatikError, match=r"Kaggle did not give dionisiusdh/.*'folder'"):
        load("kaggle")


@pytest.mark.real
def test_the_published_pictures_are_recognised(real_dataset, real_root):
    assert (real_dataset.source, real_dataset.name) == ("folder", "kaggle")
    assert real_dataset.title == "Indonesian Batik Motifs (Kaggle)"
    assert real_dataset.classes == motifs.MOTIFS
    assert Counter(real_dataset.manifest["motif"]) == dict.fromkeys(motifs.MOTIFS, 50)
    assert real_dataset.skipped.empty
    assert set(real_dataset.manifest["format"]) == {"JPEG", "PNG", "GIF"}
    part = load("folder", real_root, limit=1)
    assert part.name == "kaggle-limit1"
    assert list(part.manifest["path"].str.split("/").str[1]) == ["50.jpg"] * 3
