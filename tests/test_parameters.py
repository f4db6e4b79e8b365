"""A misspelt or mistyped parameter is refused, before and inside a notebook."""

import nbformat
import pytest

from batik_utils import parameters
from batik_utils.errors import BatikError
from batik_utils.run import NOTEBOOKS, find

DECLARED = {"EPOCHS": 0, "DATA": "auto", "RATE": 0.1, "FAST": False}
EXPECTED = {"EPOCHS": int, "DATA": str, "RATE": float, "FAST": bool}


def notebook(tmp_path, *sources, tag="parameters"):
    cells = []
    for source in sources:
        cell = nbformat.v4.new_code_cell(source)
        cell.metadata["tags"] = [tag]
        cells.append(cell)
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_declared_reads_names_and_defaults(tmp_path):
    path = notebook(tmp_path, 'EPOCHS = 0  # how long\nDATA = "auto"\nRATE = 0.1\nFAST = False')
    assert parameters.declared(path) == DECLARED


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ((), "0 cells tagged"),
        (("A = 1", "B = 2"), "2 cells tagged"),
        (("A = [1]",), "A must be a plain"),
        (("A = open('x')",), "A must be a plain"),
        (("print(1)",), "NAME = value"),
    ],
)
def test_declared_refuses_other_cells(tmp_path, sources, message):
    with pytest.raises(BatikError, match=message):
        parameters.declared(notebook(tmp_path, *sources))


def test_declared_refuses_what_is_no_notebook(tmp_path):
    with pytest.raises(BatikError, match="No notebook at"):
        parameters.declared(tmp_path / "none.ipynb")
    (tmp_path / "text.ipynb").write_text("hello")
    with pytest.raises(BatikError, match="no notebook"):
        parameters.declared(tmp_path / "text.ipynb")


def test_bind_gives_each_notebook_its_own_with_the_right_type(tmp_path):
    first, second = tmp_path / "1.ipynb", tmp_path / "2.ipynb"
    given = {"EPOCHS": "3", "FAST": "true", "RATE": "1e-3"}
    bound = parameters.bind(given, {first: DECLARED, second: {"EPOCHS": 1}})
    assert bound == {first: {"EPOCHS": 3, "FAST": True, "RATE": 0.001}, second: {"EPOCHS": 3}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"EPOHCS": "3"}, "Unknown parameter EPOHCS .*Did you mean EPOCHS"),
        ({"EPOCHS": "three"}, "EPOCHS must be a whole number, not 'three'"),
        ({"EPOCHS": "1.5"}, "EPOCHS must be a whole number"),
        ({"RATE": "fast"}, "RATE must be a number"),
        ({"FAST": "1"}, "FAST must be True or False"),
    ],
)
def test_bind_refuses(tmp_path, given, message):
    with pytest.raises(BatikError, match=message):
        parameters.bind(given, {tmp_path / "n.ipynb": DECLARED})


def test_check_accepts_what_fits():
    namespace = {"EPOCHS": 3, "DATA": "x", "RATE": 1, "FAST": True, "IS_COLAB": False, "other": 1}
    parameters.check(namespace, EXPECTED)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EPOHCS", 3, "Unknown parameter EPOHCS .*Did you mean EPOCHS"),
        ("EPOCHS", "3", "EPOCHS must be a whole number, not '3'"),
        ("EPOCHS", True, "EPOCHS must be a whole number"),
        ("DATA", 1, "DATA must be text"),
        ("FAST", 1, "FAST must be True or False"),
    ],
)
def test_check_refuses(name, value, message):
    with pytest.raises(BatikError, match=message):
        parameters.check({name: value}, EXPECTED)


def test_epochs_misspelt_is_unknown_to_every_notebook():
    found = {path: parameters.declared(path) for path in find(NOTEBOOKS)}
    with pytest.raises(BatikError, match="EPOHCS"):
        parameters.bind({"EPOHCS": "3"}, found)
