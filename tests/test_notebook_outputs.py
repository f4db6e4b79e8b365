"""Notebooks run from the command line, and committed outputs are what the code gives."""

import os
import subprocess
import sys

import nbformat
import notebook_cache
import pytest

from batik_utils import data, notebook
from batik_utils.errors import PROJECT

pytestmark = pytest.mark.notebooks


@pytest.fixture(scope="module")
def environment():
    """Settings under which "auto" is drawn cloth, as committed, and runs are reused."""
    return {**os.environ, "BATIK_OFFLINE": "1", "BATIK_RESULTS_DIR": str(notebook_cache.folder())}


def nbval(path, environment):
    words = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=1800", "-qq"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider", str(path)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("path", notebook.find(), ids=lambda path: path.stem)
def test_the_committed_outputs_are_what_the_code_gives(path, environment):
    if "04" in path.stem:  # it shows the committed results
        environment = {k: v for k, v in environment.items() if k != "BATIK_RESULTS_DIR"}
    done = nbval(path, environment)
    assert done.returncode == 0, done.stdout[-3000:]


def test_one_changed_digit_in_a_checked_output_is_seen(tmp_path, environment):
    cell = nbformat.v4.new_code_cell("print(891)", execution_count=1)
    cell.metadata["tags"] = ["nbval-check-output"]
    cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="892\n")]
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    assert nbval(path, environment).returncode == 1


@pytest.mark.parametrize("number", ["02", "03"])
def test_a_notebook_runs_in_smoke_size(number, tmp_path):
    recipe = {"02": "scratch_ours", "03": "efficientnet_lite0"}[number]
    given = {"DATA": "synthetic", "RESULTS": tmp_path, "RECIPES": recipe}
    words = ["run", number, "--smoke", "--output", str(tmp_path / "out")]
    words += [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    done = subprocess.run(
        [sys.executable, "-m", "batik_utils", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [str(tmp_path / "out" / notebook.find([number])[0].name)]
    runs = data.read_table(tmp_path / "synthetic-limit10" / "course" / "runs.csv")
    assert recipe in set(runs["recipe"])
