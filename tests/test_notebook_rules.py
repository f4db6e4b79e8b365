"""Rules that every notebook keeps; they also catch what nbval and papermill let pass."""

import ast
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


def cells_of(path, kind="code"):
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == kind]


def tagged(path, tag):
    return [cell for cell in cells_of(path) if tag in cell.metadata.get("tags", [])]


def python_of(cell):
    """Syntax tree of a cell without Jupyter's shell lines."""
    return ast.parse(re.sub(r"^(\s*)!.*$", r"\1pass", cell.source, flags=re.M))


def repository():
    settings = (PROJECT / "pyproject.toml").read_text()
    return re.search(r'^Repository = "(.+)"$', settings, re.M)[1]


def text_of(cell):
    outputs = [o.get("text", "") + o.get("data", {}).get("text/plain", "") for o in cell.outputs]
    return "".join(outputs)


@notebooks
def test_begins_with_its_title_and_a_link_to_itself_in_colab(path):
    title, badge = cells_of(path, "markdown")[:2]
    assert title.source.startswith(f"# {path.stem[:2]} · ")
    place = repository().removeprefix("https://github.com/")
    assert (
        f"(https://colab.research.google.com/github/{place}/blob/main/notebooks/{path.name})"
        in (badge.source)
    )


@notebooks
def test_set_up_is_the_same_everywhere_and_parameters_are_checked(path):
    set_up, parameters, imports = cells_of(path)[:3]
    assert repository() in set_up.source
    assert set_up.source == cells_of(PATHS[0])[0].source
    assert parameters.metadata["tags"] == ["parameters"]
    assert notebook.declared(path)
    assert imports.source.endswith("\nnotebook.check_parameters()")
    # neither is of use to a reader of the report
    assert set_up in tagged(path, "not-in-report")
    assert imports in tagged(path, "not-in-report")


@notebooks
def test_every_cell_was_run_in_order_without_an_error(path):
    cells = cells_of(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell.outputs if o.output_type == "error"]


@notebooks
def test_checked_cells_have_outputs_that_nbval_can_compare(path):
    checked = tagged(path, "nbval-check-output")
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
    imported = set()
    for cell in cells_of(path):
        for node in ast.walk(python_of(cell)):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    assert imported <= {*allowed, "batik_utils", "google", *sys.stdlib_module_names}


@notebooks
def test_no_cell_installs_or_hides_errors(path):
    for cell in cells_of(path):
        assert cell.source.strip()
        assert "pip install" not in cell.source
        for node in ast.walk(python_of(cell)):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None
                assert not all(isinstance(line, ast.Pass) for line in node.body)


@pytest.mark.parametrize("path", [p for p in PATHS if "04" not in p.stem], ids=lambda p: p.stem)
def test_committed_outputs_show_drawn_cloth_and_say_so(path):
    printed = "".join(text_of(cell) for cell in cells_of(path))
    assert "SYNTHETIC" in printed
    assert "Indonesian Batik Motifs (Kaggle)" not in printed


def test_the_report_reads_files_only_so_it_can_show_no_photograph():
    assert "data.load" not in "\n".join(cell.source for cell in cells_of(PATHS[3]))
    assert notebook.declared(PATHS[3])["DATASET"] == "kaggle"
