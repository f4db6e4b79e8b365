"""``predict`` on the command line: names of files, tables that are resumed, what ends it early."""

import csv
import json
import os
import subprocess
import sys

import pytest
import standin

from batik_utils.__main__ import main
from batik_utils.app import command, sources
from batik_utils.app.predict import Prediction, Predictor
from batik_utils.errors import PROJECT

#: Names as files have them, and as they are printed.
NAMES = {
    "plain.png": "plain.png",
    "with space.png": "with space.png",
    "蜡染.png": "蜡染.png",
    os.fsdecode(b"caf\xe9.png"): "caf\\xe9.png",
    "two\nlines.png": "two\\nlines.png",
    "tab\t.png": "tab\\t.png",
    '5, "odd".png': '5, "odd".png',
    "[1].png": "[1].png",
}


@pytest.fixture
def shop(tmp_path):
    """Eight pictures of betawi with odd names, and a file that is refused."""
    folder = tmp_path / "shop"
    folder.mkdir()
    for (_, _, picture), name in zip(standin.examples(), NAMES, strict=False):
        picture.save(folder / name)
    (folder / "zz.jpg").write_bytes(b"<html>")
    return folder


@pytest.fixture
def predict(model_folder):
    """Run the command as a process of its own: status, output, messages."""

    def run(*words, stdin=b"", **environment):
        done = subprocess.run(
            [sys.executable, "-m", "batik_utils", "predict", "--model", model_folder, *words],
            cwd=PROJECT,
            env={**os.environ, **environment},
            input=stdin,
            capture_output=True,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_no_name_and_no_encoding_ends_it(predict, shop, encoding):
    status, out, _ = predict("--json", shop, PYTHONIOENCODING=encoding)
    assert status == 1  # one file is refused
    found = {json.loads(line)["path"] for line in out.decode(encoding).splitlines()}
    assert found == {f"{shop}/{name}" for name in (*NAMES.values(), "zz.jpg")}
    status, out, _ = predict(shop / "蜡染.png", PYTHONIOENCODING=encoding)
    assert status == 0
    assert out.decode(encoding).split("\t")[1:4:2] == ["betawi", "sure\n"]


def test_standard_input_patterns_and_addresses(predict, shop):
    content = (shop / "plain.png").read_bytes()
    status, out, _ = predict("--json", "--details", "-", stdin=content)
    found = json.loads(out)
    assert (status, found["path"], found["level"]) == (0, "-", "motif")
    assert len(found["evidence"]) == 8
    assert predict("-")[0] == 1
    status, out, _ = predict(str(shop / "*t*.png"))
    assert (status, len(out.splitlines())) == (0, 3)


def test_what_nobody_reads_ends_it_quietly(model_folder, shop):
    words = f'"{sys.executable}" -m batik_utils predict --model "{model_folder}" "$0" | head -1'
    done = subprocess.run(["bash", "-c", words, shop], cwd=PROJECT, capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr and "BrokenPipe" not in done.stderr


def test_files_of_folders_and_names(tmp_path, monkeypatch):
    for name in ("b/2.jpg", "b/1.png", "a.webp", "notes.txt", ".hidden/3.jpg", "b/no-suffix"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in sources.files([tmp_path])]
    assert found == ["a.webp", "b/1.png", "b/2.jpg", "b/no-suffix"]
    named = [tmp_path / "notes.txt", "missing.jpg", "a\0b*.jpg", "x" * 5000, "~nobody.jpg"]
    assert [str(path) for path in sources.files(named)] == [str(name) for name in named]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert list(sources.files(["~/a.webp"])) == [tmp_path / "a.webp"]


def rows(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_an_interrupted_table_is_resumed_and_becomes_the_same(
    model_folder, shop, tmp_path, monkeypatch, capsys
):
    whole, table = tmp_path / "whole.csv", tmp_path / "table.csv"
    words = ["predict", str(shop), "--model", str(model_folder), "--csv"]
    assert main([*words, str(whole)]) == 1  # one file is refused
    original = Predictor.stream

    def interrupted(self, images, **settings):
        answers = original(self, images, **settings)
        for number in range(4):
            yield next(answers)
            assert len(rows(table)) == number + 1  # each answer is there before the next comes
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "stream", interrupted)
    assert main([*words, str(table)]) == 1
    assert "--resume" in capsys.readouterr().err
    before = table.read_bytes() + b'half,"a li\nne'
    table.write_bytes(before)
    # the same call without --resume must not wipe what was finished
    assert main([*words, str(table)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert table.read_bytes() == before
    monkeypatch.setattr(Predictor, "stream", original)
    for status in (1, 0):  # the second time there is nothing left
        assert main([*words, str(table), "--resume"]) == status
        assert sorted(map(str, rows(table))) == sorted(map(str, rows(whole)))
    assert main([*words, str(table)]) == 1  # a finished table of the same files is written again


def test_a_table_runs_no_formula():
    answer = Prediction("=HYPERLINK(1)", None, "refused", {}, float("nan"), "why")
    assert command.row(answer, ["betawi"])[0] == "'=HYPERLINK(1)"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["EMPTY"], "No picture was found"),
        ([""], "empty"),
        (["x.jpg", "--resume"], "--csv"),
        (["x.jpg", "--csv", "EMPTY"], "cannot be written"),
        (["x.jpg", "--csv", "EMPTY/../other.csv"], "is no table"),
        (["x.jpg", "--csv", "EMPTY/../other.csv", "--resume"], "is no table"),
        (["x.jpg", "--csv", "EMPTY/no/out.csv"], "cannot be written"),
        (["https://example.org/cloth.jpg"], "curl"),
        (["gs://museum/cloth.jpg"], "curl"),
    ],
)
def test_mistakes_are_sentences(model_folder, tmp_path, capsys, words, reason):
    (tmp_path / "other.csv").write_text("a,b\n1,2")
    (tmp_path / "empty").mkdir()
    words = [word.replace("EMPTY", str(tmp_path / "empty")) for word in words]
    assert main(["predict", *words, "--model", str(model_folder)]) == 2
    assert reason in capsys.readouterr().err
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2"
