"""In Colab only what is missing is installed; nothing is up- or downgraded."""

import nbformat
import pytest
from nbclient import NotebookClient

from batik_utils import colab
from batik_utils.errors import PROJECT, BatikError


def requirements(tmp_path, text):
    path = tmp_path / "requirements.txt"
    path.write_text(text)
    return path


def test_what_is_there_in_any_version_is_not_missing(tmp_path):
    path = requirements(
        tmp_path, "# models\ntorch>=99\nscikit-learn==0.1  # old\n\nno-such-package>=1\n"
    )
    assert colab.missing(path) == ["no-such-package>=1"]


def test_nothing_missing_starts_no_pip(tmp_path, monkeypatch):
    monkeypatch.setattr(colab.subprocess, "run", lambda *a, **k: pytest.fail("pip was started"))
    assert colab.install_missing(requirements(tmp_path, "numpy\n")) == []


def test_a_failing_pip_is_one_sentence(tmp_path):
    path = requirements(
        tmp_path, "no-such-package==0.0.0.1.dev999 ; python_version < '3'\nbad name!\n"
    )
    with pytest.raises(BatikError, match="pip could not install"):
        colab.install_missing(path)


def test_requirements_state_floors_only():
    for line in (PROJECT / "requirements.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            assert ">=" in line
            assert "==" not in line
            assert "<" not in line


def test_the_set_up_cell_works_in_an_empty_colab(tmp_path, monkeypatch):
    if not (PROJECT / ".git").exists():
        pytest.skip("this copy of the project is no git checkout, so there is nothing to clone")
    notebook = nbformat.read(PROJECT / "notebooks" / "01_exploration.ipynb", as_version=4)
    set_up = next(c.source for c in notebook.cells if "IS_COLAB =" in c.source)
    fake = "import sys, types\nsys.modules['google.colab'] = types.ModuleType('google.colab')"
    check = "import batik_utils\nprint(IS_COLAB, Path(batik_utils.__file__).parents[1].name)"
    cells = [nbformat.v4.new_code_cell(source) for source in (fake, set_up, check)]
    # git fetches the published address from this checkout instead of the network
    address = set_up.split("--depth 1 ")[1].split()[0]
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{PROJECT}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", address)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    client = NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    done = client.execute()
    assert "True batik-image-classification" in done.cells[-1].outputs[0]["text"]
