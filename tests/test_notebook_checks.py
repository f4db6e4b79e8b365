"""The check of notebook outputs passes on the committed ones, and it is not vacuous."""

import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
import pytest

from batik_utils.errors import PROJECT

COMPARISON = PROJECT / "notebooks" / "04_comparison.ipynb"


def nbval(path):
    words = ["--nbval-lax", "--nbval-current-env", "-p", "no:cacheprovider", "-q", str(path)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=PROJECT, capture_output=True, text=True
    )


@pytest.fixture
def workplace():
    """Yield a folder inside the project, where a notebook finds the package."""
    (PROJECT / ".cache").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PROJECT / ".cache") as folder:
        yield Path(folder)


@pytest.mark.notebooks
def test_one_changed_digit_in_a_marked_output_is_seen(workplace):
    notebook = nbformat.read(COMPARISON, as_version=4)
    marked = next(
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and "comparison.main_table" in cell.source
    )
    table = marked.outputs[-1]["data"]
    assert "%" in table["text/plain"]
    for kind in table:
        table[kind] = "".join(table[kind]).replace("0%", "1%", 1)
    nbformat.write(notebook, workplace / "tampered.ipynb")
    done = nbval(workplace / "tampered.ipynb")
    assert done.returncode == 1
    assert "1 failed" in done.stdout


@pytest.mark.notebooks
def test_the_committed_outputs_follow_from_the_committed_files():
    done = nbval(COMPARISON)
    assert done.returncode == 0, done.stdout[-3000:]
