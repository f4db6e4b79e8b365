"""In Colab only what is missing is installed; nothing is up- or downgraded."""

from pathlib import Path

import pytest

from batik_utils import colab
from batik_utils.errors import BatikError

PROJECT = Path(__file__).resolve().parents[1]


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
