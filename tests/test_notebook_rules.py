"""Rules that every notebook keeps; they also catch what nbval and papermill let pass."""

import re
import sys

import nbformat
import pytest

from batik_utils import notebook
from batik_utils.errors import PROJECT

PATHS = notebook.find()
#: Modules that a declared package brings under another name.
MODULES = {"pillow": "PIL", "scikit-learn": "sklearn", "jupyter": "IPython"}

notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def cells_of(path, kind="code", tag=""):
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]
    return [c for c in cells if not tag or tag in c.metadata.get("tags", [])]


def text_of(cell):
    outputs = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "".join(outputs)


@notebooks
def test_begins_with_title_badge_set_up_and_checked_parameters(path):
    settings = (PROJECT / "pyproject.toml").read_text()
    repository = re.search(r'^Repository = "(.+)"$', settings, re.M)[1]
    title, badge = cells_of(path, "markdown")[:2]
    assert title.source.startswith(f"# {path.stem[:2]} · ")
    place = repository.replace("github.com", "colab.research.google.com/github")
    assert f"({place}/blob/main/notebooks/{path.name})" in badge.source
    set_up, parameters, imports = cells_of(path)[:3]
    assert repository in set_up.source
    assert set_up.source == cells_of(PATHS[0])[0].source
    assert parameters.metadata["tags"] == ["parameters"]
    assert notebook.declared(path)
    assert imports.source.endswith("\nnotebook.check_parameters()")
    # neither is of use to a reader of the report
    assert cells_of(path, tag="not-in-report")[:2] == [set_up, imports]


@notebooks
def test_was_run_in_order_without_an_error_and_has_outputs_that_nbval_compares(path):
    cells = cells_of(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]
    checked = cells_of(path, tag="nbval-check-output")
    assert checked
    assert not [cell.source for cell in checked if not text_of(cell).strip()]


@notebooks
def test_no_path_of_a_machine_is_in_source_or_output(path):
    text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8"))
    folders = "home|root|tmp|work|content|opt|usr|var|Users|mnt"
    assert not re.findall(rf"(?<![\w.:/<])/(?:{folders})/[^\s\"\\]*", text)


@notebooks
def test_imports_are_standard_ours_or_declared(path):
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    packages = {re.split(r"[>=<\[ ]", line)[0] for line in lines if line and line[0] != "#"}
    allowed = {MODULES.get(name, name.replace("-", "_")) for name in packages}
    allowed |= {"batik_utils", "google", *sys.stdlib_module_names}
    source = "\n".join(cell.source for cell in cells_of(path))
    imports = r"^\s*(?:import|from) (\w+)[\w.]*(?: import .+| as \w+)?$"
    assert set(re.findall(imports, source, re.M)) <= allowed
    assert "pip install" not in source


@notebooks
def test_no_photograph_is_committed(path):
    if "04" in path.stem:  # the report reads tables alone
        assert "data.load" not in "".join(cell.source for cell in cells_of(path))
    else:
        printed = "".join(map(text_of, cells_of(path)))
        assert "SYNTHETIC" in printed
        assert "Indonesian Batik Motifs (Kaggle)" not in printed
