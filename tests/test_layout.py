"""The house keeps its order: who imports whom, how large a module is, what an import loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools.config.pyprojecttoml import read_configuration

import batik_utils
from batik_utils.errors import PROJECT

FOLDER = Path(batik_utils.__file__).parent
#: A folder without ``__init__`` holds data, e.g. what a Space is made from.
MODULES = sorted(p for p in FOLDER.rglob("*.py") if (p.parent / "__init__.py").is_file())
#: Parts in the order in which they may import: each those before it. Root modules are "root".
ORDER = ("errors", "images", "root", "duplicates", "evaluation", "classifier", "scale")
MAY_IMPORT = {part: {*ORDER[: k + 1]} for k, part in enumerate(ORDER)}
MAY_IMPORT["app"] = {"app", "errors", "images"}
for user in ("evaluation", "classifier", "scale"):
    MAY_IMPORT[user].add("app")
#: Optional packages, and those of the application, that the root modules do without.
OPTIONAL = {"ray", "lightning_fabric", "mlflow", "gradio", "onnxruntime"}


def part_of(path):
    name = path.relative_to(FOLDER).parts[0].removesuffix(".py")
    return name if name in (*ORDER, "notebook", "__main__", "app") else "root"


def imported(tree):
    """Modules that a syntax tree imports, as dotted names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(FOLDER)))
def test_a_module_imports_what_stands_before_it(path):
    part = part_of(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if part in ("notebook", "__main__"):  # inside functions they may import all
        tree.body = [node for node in tree.body if not isinstance(node, ast.FunctionDef)]
        part = "errors"
    names = {name.partition(".")[::2] for name in imported(tree)}
    ours = {rest for top, rest in names if top == "batik_utils"} - {"__version__"}
    assert {part_of(FOLDER / name.split(".")[0]) for name in ours} <= MAY_IMPORT[part]
    if part in ("errors", "images", "root"):
        assert not OPTIONAL & {top for top, _ in names}


def test_sizes():
    assert len(list(FOLDER.glob("*.py"))) <= 16
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert not {name: number for name, number in lines.items() if number > 400}


@pytest.mark.parametrize(
    ("module", "without"),
    [
        # the first cell of a notebook, where nothing is installed yet
        ("batik_utils.notebook", {"numpy", "PIL", "pandas", "torch", "nbformat", "papermill"}),
        ("batik_utils.__main__", {"numpy", "PIL", "pandas", "torch", "onnxruntime", "gradio"}),
        ("batik_utils.data", {"torch"}),
        ("batik_utils.app.predict", {"pandas", "torch"}),
        ("batik_utils.app.server", {"torch"}),
    ],
)
def test_what_an_import_does_not_load(module, without):
    words = f"import {module}, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", words], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert not without & set(done.stdout.split())


def test_every_data_file_is_packaged():
    settings = read_configuration(PROJECT / "pyproject.toml", expand=False)["tool"]["setuptools"]
    covered = {
        path
        for name, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (PROJECT / name.replace(".", "/")).glob(pattern)
    }
    files = {p for p in FOLDER.rglob("*.*") if p.is_file() and p.suffix != ".pyc"} - {*MODULES}
    assert not {str(path.relative_to(FOLDER)) for path in files - covered}
