"""Notebooks run from the command line, and committed outputs are what the code gives."""

import os
import subprocess
import sys

import notebook_cache
import pytest

from batik_utils import data, notebook
from batik_utils.__main__ import main
from batik_utils.errors import PROJECT

pytestmark = pytest.mark.notebooks


@pytest.mark.parametrize("path", notebook.find(), ids=lambda path: path.stem)
def test_the_committed_outputs_are_what_the_code_gives(path):
    # "auto" is drawn cloth, as committed, and runs are reused
    environment = {**os.environ, "BATIK_OFFLINE": "1"}
    if "04" not in path.stem:  # that one shows the committed results
        environment["BATIK_RESULTS_DIR"] = str(notebook_cache.folder())
    words = ["--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=1800", "-qq"]
    command = [sys.executable, "-m", "pytest", *words, "-p", "no:cacheprovider", str(path)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize(
    ("number", "recipe"), [("02", "scratch_ours"), ("03", "efficientnet_lite0")]
)
def test_a_notebook_runs_in_smoke_size(number, recipe, tmp_path, capsys):
    given = {"DATA": "synthetic", "RESULTS": tmp_path, "RECIPES": recipe}
    words = [word for name, value in given.items() for word in ("-p", f"{name}={value}")]
    assert main(["run", number, "--smoke", "--output", str(tmp_path / "out"), *words]) == 0
    written = capsys.readouterr().out.split()
    assert written == [str(tmp_path / "out" / notebook.find([number])[0].name)]
    runs = data.read_table(tmp_path / "synthetic-limit10" / "course" / "runs.csv")
    assert recipe in set(runs["recipe"])
