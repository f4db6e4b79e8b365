"""The package keeps its order: no module imports one to its right."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import batik_utils

FOLDER = Path(batik_utils.__file__).parent
MODULES = {path.stem for path in FOLDER.glob("*.py")} - {"__init__"}


def order():
    block = batik_utils.__doc__.split("::", 1)[1].split("No module imports")[0]
    return re.findall(r"\w+", block)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batik_utils"):
            inner = node.module.removeprefix("batik_utils").lstrip(".")
            yield from [inner] if inner else [alias.name for alias in node.names]


def test_the_order_names_every_module_once():
    assert sorted(order()) == sorted(MODULES)


def test_no_module_imports_one_to_its_right():
    place = {name: k for k, name in enumerate(order())}
    wrong = [
        f"{name} imports {other}"
        for name in MODULES
        for other in imported(FOLDER / f"{name}.py")
        if other in place and place[other] > place[name]
    ]
    assert not wrong


def test_importing_the_package_loads_nothing_heavy():
    code = "import batik_utils, sys; print({'torch', 'numpy', 'PIL', 'pandas'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
