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
from batik_utils.errors import BatikError

PROJECT = Path(__file__).resolve().parents[1]


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
