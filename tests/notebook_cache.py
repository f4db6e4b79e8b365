"""Print the folder of results that notebooks leave while they are tested or refreshed.

Its name is made from the recipes, the drawn cloth and the versions of the libraries, so that an
edited docstring trains nothing, and a changed recipe everything.
"""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
VERSIONS = ("torch", "torchvision", "numpy", "pillow", "scikit-learn")


def folder() -> Path:
    from batik_utils import data, recipes

    parts = [*map(repr, recipes.RECIPES.values()), *map(version, VERSIONS)]
    parts.append(data.load("synthetic").digest)
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return PROJECT / ".cache" / "notebooks" / name


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    sys.stdout.write(f"{folder()}\n")
