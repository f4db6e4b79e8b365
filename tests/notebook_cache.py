"""Print the folder of results that notebooks leave while they are tested or refreshed.

An edited docstring trains nothing; changed recipes, drawn cloth or libraries train everything.
"""

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def folder() -> Path:
    from batik_utils import data, errors, recipes

    versions = map(version, ("torch", "torchvision", "numpy", "pillow", "scikit-learn"))
    parts = [*map(repr, recipes.RECIPES.values()), *versions, data.load("synthetic").digest]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]
    return errors.PROJECT / ".cache" / "notebooks" / name


if __name__ == "__main__":
    sys.stdout.write(f"{folder()}\n")
