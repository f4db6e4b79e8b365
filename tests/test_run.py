"""Headless runs: failures are shown, parameters reach the notebook, the report stands alone."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from batik_utils import run
from batik_utils.errors import PROJECT, BatikError


def command(*words, cwd=PROJECT, **environment):
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=cwd,
        env={**os.environ, "BATIK_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def small(tmp_path):
    """Return the path of a notebook with one parameter and one figure-free output."""
    parameters = nbformat.v4.new_code_cell("COUNT = 1")
    parameters.metadata["tags"] = ["parameters"]
    contents = "## Contents\n\n1. [Set-up](#Set-up)\n2. [Result](#Result)"
    hidden = nbformat.v4.new_markdown_cell("## Set-up\n\na badge")
    hidden.metadata["tags"] = ["not-in-report"]
    cells = [
        nbformat.v4.new_markdown_cell("# 99 · Small\n\nA *story*."),
        nbformat.v4.new_markdown_cell(contents),
        hidden,
        parameters,
        nbformat.v4.new_code_cell("if COUNT > 2:\n    raise RuntimeError('too many')"),
        nbformat.v4.new_code_cell("import sys\nprint('noise', file=sys.stderr)\nprint(COUNT * 11)"),
    ]
    path = tmp_path / "99_small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_find_takes_numbers_names_and_paths(small):
    assert [p.stem for p in run.find(["02", "4", str(small)])] == [
        "02_scratch_models",
        "04_comparison",
        "99_small",
    ]
    assert len(run.find([])) == 5
    with pytest.raises(BatikError, match="No notebook '07'"):
        run.find(["07"])


def test_execute_passes_parameters_and_keeps_the_copy(small, tmp_path):
    before = small.read_bytes()
    (copy,) = run.execute([small], {"COUNT": "2"}, tmp_path / "out", progress=False)
    outputs = nbformat.read(copy, as_version=4).cells[-1].outputs
    assert [o["text"] for o in outputs if o["name"] == "stdout"] == ["22\n"]
    assert small.read_bytes() == before


def test_execute_checks_parameters_before_anything_starts(small, tmp_path):
    with pytest.raises(BatikError, match="Unknown parameter COUTN"):
        run.execute([small], {"COUTN": "2"}, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_failing_cell_is_shown_and_its_copy_kept(small, tmp_path):
    with pytest.raises(run.NotebookFailed) as caught:
        run.execute([small], {"COUNT": "3"}, tmp_path / "out", progress=False)
    assert "if COUNT > 2" in str(caught.value)
    assert "RuntimeError: too many" in str(caught.value)
    assert "too many" in (tmp_path / "out" / small.name).read_text()


def test_refresh_keeps_results_and_drops_noise(small):
    run.refresh(small, progress=False)
    notebook = nbformat.read(small, as_version=4)
    assert notebook.cells[-1].outputs[0]["text"] == "11\n"
    assert "noise" not in json.dumps(notebook.cells[-1].outputs)
    assert "papermill" not in small.read_text()
    assert [c.execution_count for c in notebook.cells if c.cell_type == "code"] == [1, 2, 3]


def test_render_is_one_file_without_code_or_foreign_servers(small, tmp_path):
    run.refresh(small, progress=False)
    html = run.render(small, tmp_path / "report.html").read_text()
    assert "<title>99 · Small</title>" in html
    assert "A <em>story</em>." in html
    assert "<pre>11" in html
    assert "COUNT" not in html
    assert "a badge" not in html
    assert "Set-up" not in html
    assert '<a href="#Result">Result</a>' in html
    assert not re.findall(r'(?:src|href)="https?://[^"]+"', html)


def test_command_line_refuses_a_misspelt_parameter_with_one_sentence():
    done = command("batik_utils", "run", "02", "-p", "EPOHCS", "3")
    assert done.returncode == 2
    assert "Unknown parameter EPOHCS" in done.stderr
    assert "Did you mean EPOCHS?" in done.stderr
    assert "Traceback" not in done.stderr


def test_papermill_itself_stops_at_a_misspelt_parameter(tmp_path):
    notebook = PROJECT / "notebooks" / "02_scratch_models.ipynb"
    done = command("papermill", str(notebook), str(tmp_path / "out.ipynb"), "-p", "EPOHCS", "3")
    assert done.returncode != 0
    assert "Unknown parameter EPOHCS" in done.stderr + done.stdout


def test_papermill_itself_stops_at_a_wrong_type(tmp_path):
    notebook = PROJECT / "notebooks" / "03_transfer_learning.ipynb"
    done = command("papermill", str(notebook), str(tmp_path / "out.ipynb"), "-p", "SEEDS", "many")
    assert done.returncode != 0
    assert "SEEDS must be a whole number" in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "--grid", "corse"), "Unknown split 'corse'"),
        (("train", "--recipes", "scratch9"), "Unknown recipe 'scratch9'"),
        (("train", "--seeds", "0"), "SEEDS must be at least 1"),
        (("train", "--device", "tpu"), "Unknown device 'tpu'"),
        (("train", "--precision", "int8"), "Unknown precision 'int8'"),
        (("train", "--data", "folder"), "needs a root"),
        (("train", "--data", "folder", "--root", "nowhere"), "does not exist"),
        (("report", "-p", "SEDS", "3"), "Did you mean SEED"),
    ],
)
def test_wrong_settings_end_with_one_sentence_and_status_2(words, message, tmp_path):
    given = (*words, "--results", str(tmp_path))
    if words[0] == "train" and "--data" not in words:
        given += ("--data", "synthetic", "--limit", "10")
    done = command("batik_utils", *given)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_does_not_load_torch():
    code = "import sys, batik_utils.__main__ as m; m._parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


def test_a_comparison_of_results_that_are_not_there_says_what_to_run(tmp_path):
    done = command(
        "batik_utils", "run", "04", "--output", str(tmp_path / "out"), "-p", "DATASET", "nothing"
    )
    assert done.returncode == 1
    assert "run notebooks 02 and 03" in done.stderr


@pytest.mark.notebooks
def test_report_on_little_synthetic_cloth_and_a_second_call_that_trains_nothing(tmp_path):
    words = ("batik_utils", "report", "--data", "synthetic", "--smoke", "--results", str(tmp_path))
    # the smallest network alone: this shows the path, not the models
    given = ("-p", "RECIPES", "efficientnet_lite0")
    first = command(*words, *given)
    assert first.returncode == 0, first.stderr[-2000:]
    folder = tmp_path / "synthetic-limit10"
    assert first.stdout.strip() == str(folder / "report.html")
    html = (folder / "report.html").read_text()
    assert "SYNTHETIC cloth, not batik" in html
    runs = (folder / "course" / "runs.csv").read_text()
    assert "0 were there already" in first.stderr
    second = command(*words, *given)
    assert second.returncode == 0, second.stderr[-2000:]
    assert "0 runs trained now" in second.stderr
    assert (folder / "course" / "runs.csv").read_text() == runs


# --- several at a time ------------------------------------------------------------------------


@pytest.fixture
def meeting(tmp_path):
    """Return a notebook that waits for its twin: it ends only if both run at the same time."""
    waits = (
        "import os, pathlib, time\n"
        "pathlib.Path(FOLDER, str(NUMBER)).write_text(os.environ['OMP_NUM_THREADS'])\n"
        "end = time.monotonic() + 100\n"
        "while len(list(pathlib.Path(FOLDER).iterdir())) < 2:\n"
        "    assert time.monotonic() < end, 'nobody came'\n"
        "    time.sleep(0.05)\n"
        "print('here is', NUMBER)\n"
        "if NUMBER == 7: raise RuntimeError('no seven')"
    )
    parameters = nbformat.v4.new_code_cell("FOLDER = ''\nNUMBER = 1\nOTHER = 0")
    parameters.metadata["tags"] = ["parameters"]
    path = tmp_path / "98_meeting.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(waits)])
    nbformat.write(notebook, path)
    return path


def printed(copy: Path) -> list[str]:
    outputs = nbformat.read(copy, as_version=4).cells[-1].outputs
    return [o["text"] for o in outputs if o.get("name") == "stdout"]


def test_sets_of_parameters_run_at_the_same_time_and_are_not_mixed(
    meeting, tmp_path, monkeypatch, caplog
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    caplog.set_level("INFO")
    (tmp_path / "here").mkdir()
    todo = run.jobs(
        [meeting], {"FOLDER": str(tmp_path / "here")}, {"NUMBER": ["3", "4"]}, tmp_path / "out"
    )
    copies = run.execute_all(todo, 2, progress=False)
    assert [copy.parent.name for copy in copies] == ["NUMBER=3", "NUMBER=4"]
    assert [printed(copy) for copy in copies] == [["here is 3\n"], ["here is 4\n"]]
    # the cores are divided
    share = str(max(1, os.cpu_count() // 2))
    assert {path.read_text() for path in (tmp_path / "here").iterdir()} == {share}
    # one line each
    done = sorted(r.message for r in caplog.records if r.message.startswith("done"))
    assert [line.split()[-1] for line in done] == ["NUMBER=3", "NUMBER=4"]


def test_one_that_fails_does_not_stop_the_others(meeting, tmp_path):
    (tmp_path / "here").mkdir()
    todo = run.jobs(
        [meeting], {"FOLDER": str(tmp_path / "here")}, {"NUMBER": ["7", "8"]}, tmp_path / "out"
    )
    with pytest.raises(run.NotebookFailed, match="RuntimeError: no seven"):
        run.execute_all(todo, 2, progress=True)
    assert printed(tmp_path / "out" / "NUMBER=8" / meeting.name) == ["here is 8\n"]
    assert printed(tmp_path / "out" / "NUMBER=7" / meeting.name) == ["here is 7\n"]


def test_combinations_have_folders_of_their_own(meeting, small, tmp_path):
    swept = {"NUMBER": ["1", "2"], "COUNT": ["5", "6"]}
    todo = run.jobs([meeting, small], {"OTHER": "9"}, swept, tmp_path)
    # a notebook that does not know a parameter runs once for each value of the others
    assert [(j.notebook.stem, j.output.name, dict(j.given)) for j in todo] == [
        ("98_meeting", "NUMBER=1", {"OTHER": "9", "NUMBER": "1"}),
        ("99_small", "COUNT=5", {"COUNT": "5"}),
        ("99_small", "COUNT=6", {"COUNT": "6"}),
        ("98_meeting", "NUMBER=2", {"OTHER": "9", "NUMBER": "2"}),
    ]
    assert todo[0].title == "98_meeting NUMBER=1"
    (plain,) = run.jobs([meeting], {}, {}, tmp_path)
    assert plain.output == tmp_path
    (slashed,) = run.jobs([meeting], {}, {"FOLDER": ["a/../b"]}, tmp_path)
    assert slashed.output == tmp_path / "FOLDER=a_.._b"


@pytest.mark.parametrize(
    ("given", "swept", "parallel", "message"),
    [
        ({"NUMBER": "1"}, {"NUMBER": ["2"]}, 1, "NUMBER has one value by -p and several"),
        ({}, {"NUMBER": []}, 1, "--sweep NUMBER needs values"),
        ({}, {"NUMBRE": ["1"]}, 1, "Unknown parameter NUMBRE"),
        ({}, {"NUMBER": ["1", "two"]}, 1, "NUMBER must be a whole number, not 'two'"),
        ({}, {"FOLDER": ["a/b", "a b"]}, 1, "would both write"),
        ({}, {}, 0, "--parallel must be at least 1, not 0"),
    ],
)
def test_wrong_sets_are_refused_before_anything_starts(
    meeting, tmp_path, given, swept, parallel, message
):
    with pytest.raises(BatikError, match=re.escape(message)):
        run.execute_all(run.jobs([meeting], given, swept, tmp_path / "out"), parallel)
    assert not (tmp_path / "out").exists()
