"""The command line: settings are checked first, mistakes and interruptions end in one sentence."""

import pytest

from batik_utils import __main__ as command_line
from batik_utils.__main__ import RENAMED, main
from batik_utils.errors import BatikError

FOLDER = ["train", "--data", "folder", "--root", "{pictures}", "--results", "{results}"]


def run(monkeypatch, body, *words):
    """Give a command another body: what it raises or is given is handled in one place."""
    body.__name__ = "_fake"
    monkeypatch.setattr(command_line, "COMMANDS", {body: ("--results", {}, "as it was")})
    return main(["fake", *words])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["train", "--grid", "corse"], "corse"),
        ([*FOLDER, "--recipes", "scratch9"], "scratch9"),
        ([*FOLDER, "--seeds", "0", "--grid", "stratified-0"], "seeds"),
        ([*FOLDER, "--device", "tpu"], "tpu"),
        ([*FOLDER, "--precision", "int8"], "int8"),
        (["train", "--data", "folder", "--root", "nowhere"], "nowhere"),
        (["train", "--data", "floder"], "folder"),
        (["train", "--data", "synthetic", "--limit", "2", "--results", __file__], __file__),
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
    words, named, picture_tree, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("BATIK_OFFLINE", "1")
    root = picture_tree() if "{pictures}" in words else ""
    assert main([word.format(pictures=root, results=tmp_path / "results") for word in words]) == 2
    assert named.lower() in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    ("error", "status", "named"),
    [
        (BatikError("mend this"), 2, "mend this"),
        (KeyboardInterrupt(), 1, "as it was"),
        (KeyboardInterrupt("192 rows are in t.csv"), 1, "192 rows are in t.csv"),
        (PermissionError(13, "Permission denied", "/r/o"), 2, "/r/o: Permission denied"),
        (OSError(28, "No space left on device", "/full"), 2, "/full: No space left on device"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_a_sentence_and_a_status(monkeypatch, capsys, error, status, named):
    def body(options):
        raise error

    assert run(monkeypatch, body) == status
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "meant"), [("~/mine", "home/mine"), ("mine", "here/mine"), ("../mine", "mine")]
)
def test_a_results_folder_is_meant_from_where_one_stands(monkeypatch, tmp_path, given, meant):
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    found = []
    run(monkeypatch, lambda options: found.append(options.results), f"--results={given}")
    assert found == [str(tmp_path / meant)]


@pytest.mark.parametrize(
    ("command", "named"), [("predict", "familiarity"), ("train", "--classes all")]
)
def test_help_says_what_a_newcomer_asks(capsys, command, named):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert named in capsys.readouterr().out
