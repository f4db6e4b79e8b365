"""The command line: settings are checked first, mistakes and interruptions end in one sentence."""

import re
import subprocess
import sys

import pytest

from batik_utils import __main__ as command_line
from batik_utils.__main__ import COMMANDS, OPTIONS, RENAMED, main
from batik_utils.errors import PROJECT, BatikError


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("BATIK_OFFLINE", "1")


def python(*words):
    return subprocess.run(
        [sys.executable, *words], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout


@pytest.fixture
def fake(monkeypatch):
    """Give `predict` another body: what a command raises is handled in one place."""

    def put(error):
        def _predict(options):
            raise error

        replaced = {f: o for f, o in COMMANDS.items() if f.__name__ != "_predict"}
        monkeypatch.setattr(
            command_line, "COMMANDS", {**replaced, _predict: ("--csv", {}, "as it was")}
        )

    return put


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--grid", "corse"], "corse"),
        (["train", "--recipes", "scratch9"], "scratch9"),
        (["train", "--seeds", "0"], "at least 1"),
        (["train", "--device", "tpu"], "tpu"),
        (["train", "--precision", "int8"], "int8"),
        (["train", "--data", "folder", "--root", "nowhere"], "nowhere"),
        (["train", "--data", "floder"], "floder"),
        (["search", "--recipes", "scratch"], "scratch"),
        (["report", "--data", "synthetic", "-p", "SEDS", "3"], "Did you mean SEED"),
        (["run", "02", "-p", "seeds=3"], "Did you mean SEEDS"),
        (["run", "07"], "07"),
        (["export", "--format", "tflite"], "tflite"),
        (["predict", "nowhere.jpg", "--model", "nowhere"], "nowhere"),
        *(([name], RENAMED[name]) for name in RENAMED),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words_end_with_one_sentence_and_status_2(
    words, named, picture_tree, tmp_path, capsys
):
    if words[0] == "train":
        words = [*words, "--results", str(tmp_path / "results")]
        words += [] if "--data" in words else ["--data", "folder", "--root", str(picture_tree())]
        words += [] if "--grid" in words else ["--grid", "stratified-0"]
    assert main(words) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "named"),
    [
        (BatikError("mend this"), 2, "mend this"),
        (KeyboardInterrupt(), 1, "as it was"),
        (KeyboardInterrupt("192 rows are in t.csv"), 1, "192 rows are in t.csv"),
        (PermissionError(13, "Permission denied", "/r/o"), 2, "/r/o: Permission denied"),
        (OSError(28, "No space left on device", "/full"), 2, "/full: No space left on device"),
        (NotADirectoryError(20, "Not a directory", "f/x"), 2, "f/x: Not a directory"),
        (OSError(30, "Read-only file system", "/ro"), 2, "/ro: Read-only file system"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_sentence_and_a_status(fake, capsys, error, status, named):
    fake(error)
    assert main(["predict"]) == status
    said = capsys.readouterr().err
    assert named in said
    assert "Traceback" not in said


def test_every_option_is_used():
    assert {o for options, *_ in COMMANDS.values() for o in options.split()} == set(OPTIONS)


def test_a_reader_that_stops_reading_is_no_error(model_folder, tmp_path):
    (tmp_path / "no.jpg").write_text("no picture")
    words = [sys.executable, "-m", "batik_utils", "predict", "--json", "--model", model_folder]
    with subprocess.Popen(
        [*map(str, words), *[str(tmp_path / "no.jpg")] * 3000],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("words", [["-p", "A=1"], ["-p", "A", "1"], ["--smoke", "-p", "A=1"]])
def test_a_parameter_is_a_pair_or_an_equation(words):
    options = command_line._parser().parse_args(command_line._pairs(["run", *words]))
    assert [tuple(pair) for pair in options.parameter] == [("A", "1")]


@pytest.mark.parametrize(
    ("given", "meant"), [("~/mine", "{home}/mine"), ("mine", "{here}/mine"), ("/mine", "/mine")]
)
def test_a_results_folder_is_meant_from_where_one_stands(monkeypatch, tmp_path, given, meant):
    def _predict(options):
        return options.results

    monkeypatch.setattr(command_line, "COMMANDS", {_predict: ("--results", {}, "")})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert main(["predict", f"--results={given}"]) == meant.format(
        home=tmp_path / "home", here=tmp_path
    )


def test_help_loads_nothing_heavy_and_says_what_predict_answers():
    words = "import sys, batik_utils.__main__ as m; m._parser(); print(*sys.modules)"
    loaded = {name.split(".")[0] for name in python("-c", words).split()}
    assert not loaded & {"torch", "numpy", "PIL", "pandas", "onnxruntime", "gradio"}
    said = python("-m", "batik_utils", "predict", "--help")
    for word in ("sidoluhur", "familiarity", "exit status", "refused"):
        assert word in said
    assert re.search(r"build .*--classes all", python("-m", "batik_utils", "train", "--help"))


def test_a_results_folder_that_is_a_file_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    given = ["--data", "synthetic", "--limit", "10", "--recipes", "majority", "--seeds", "1"]
    assert main(["train", *given, "--results", str(tmp_path / "file")]) == 2
    assert str(tmp_path / "file") in capsys.readouterr().err
