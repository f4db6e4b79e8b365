"""The Dockerfile as far as it can be read without Docker: what it copies is there and is sent."""

import re
import subprocess

from batik_utils.app import space
from batik_utils.errors import PROJECT

ROOT = PROJECT
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
COPIED = [line.split()[1] for line in LINES if line.startswith("COPY")]
SENT = [
    line.removeprefix("!")
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line.startswith("!")
]


def test_what_is_copied_is_kept_by_git_and_sent_to_docker():
    kept = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert len(COPIED) >= 3
    for path in COPIED:
        assert any(name == path or name.startswith(f"{path}/") for name in kept), path
    # everything else stays outside: a picture of the data set beside the project, a .venv
    assert sorted(SENT) == sorted(COPIED)


def test_it_installs_what_the_application_needs_and_no_more():
    install = next(line for line in LINES if "pip install" in line)
    named = install.split("pip install")[1].split(" -c ")[0].split()
    packages = [word for word in named if not word.startswith("-")]
    assert sorted(packages) == sorted(["gradio", *space.PACKAGES])
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name in packages:
        assert re.search(rf"^{name}==", pinned, re.M), name


def test_it_runs_as_an_ordinary_user_with_the_projects_command():
    user = LINES.index("USER batik")
    start = next(k for k, line in enumerate(LINES) if line.startswith("CMD"))
    assert user < start
    assert any("useradd" in line for line in LINES[:user])
    assert '"-m", "batik_utils", "app", "--host", "0.0.0.0"' in LINES[start]
    # the health check asks the port that is opened
    port = next(line for line in LINES if line.startswith("EXPOSE")).split()[1]
    check = next(line for line in LINES if line.startswith("HEALTHCHECK"))
    assert f"127.0.0.1:{port}/health" in check
