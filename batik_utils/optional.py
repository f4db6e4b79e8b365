"""Packages that the core can do without: imported when they are needed, asked for by name."""

import importlib
from types import ModuleType

from batik_utils.errors import BatikError

#: What installs everything that only large runs need.
INSTALL = "pip install -r requirements-scale.txt -c constraints.txt"


def need(module: str, purpose: str) -> ModuleType:
    """Import a module of the extra ``scale``.

    Args:
        module: name to import, e.g. ``ray.data``.
        purpose: what asks for it, as the message begins with it.

    Raises:
        BatikError: it is not installed, with the command that mends it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # a package that is there but lacks a part of its own is named by that part
        raise BatikError(
            f"{purpose} needs the package '{error.name}', which is not installed: run "
            f"'{INSTALL}' (the optional extra 'scale')."
        ) from error
