"""Set up Google Colab: install what is missing, and leave what is there as it is.

Colab brings its own torch, numpy and CUDA. Upgrading one of them breaks the others, so only
packages that are not there at all are installed.
"""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

from batik_utils.errors import BatikError


def missing(requirements: Path) -> list[str]:
    """Return the requirement lines whose package is not installed, in any version.

    Args:
        requirements: a ``requirements.txt``.
    """
    lines = (line.split("#")[0].strip() for line in requirements.read_text().splitlines())
    return [line for line in lines if line and not _installed(line)]


def install_missing(requirements: Path) -> list[str]:
    """Install the packages that `missing` names.

    Args:
        requirements: a ``requirements.txt``.

    Returns:
        What was installed.

    Raises:
        BatikError: pip failed; the message ends with its last line.
    """
    wanted = missing(requirements)
    if wanted:
        command = [sys.executable, "-m", "pip", "install", "--quiet", *wanted]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            raise BatikError(f"pip could not install {', '.join(wanted)}: {last}")
    return wanted


def _installed(requirement: str) -> bool:
    name = requirement.split(">")[0].split("=")[0].split("[")[0].strip()
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True
