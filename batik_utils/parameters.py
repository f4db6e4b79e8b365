"""Notebook parameters: what a notebook declares, and whether what it got is fit to use.

Papermill ignores a parameter that a notebook does not have, so a misspelt one would go unnoticed.
Here a wrong name or type is an error, before a run (`bind`) and inside the notebook (`check`).
"""

import ast
import difflib
from collections.abc import Mapping
from pathlib import Path

from batik_utils.errors import BatikError

#: The one plain upper-case name that notebooks use and that is not a parameter.
_NOT_PARAMETER = "IS_COLAB"
#: What papermill can pass; an upper-case name of another type is a notebook's own.
_PASSABLE = (bool, int, float, str, list, dict, tuple, type(None))

_TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def declared(notebook: Path) -> dict[str, object]:
    """Return the parameters of a notebook with their defaults.

    Args:
        notebook: path of an ``.ipynb`` file with one cell tagged ``parameters``.

    Raises:
        BatikError: no such file, no notebook, not exactly one such cell, or a value that is not
            plain.
    """
    import nbformat

    if not notebook.is_file():
        raise BatikError(f"No notebook at {notebook}.")
    try:
        cells = nbformat.read(notebook, as_version=4).cells
    except (nbformat.reader.NotJSONError, nbformat.validator.NotebookValidationError) as error:
        raise BatikError(f"{notebook} is no notebook that can be read ({error}).") from error
    tagged = [c for c in cells if "parameters" in c.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise BatikError(f"{notebook} has {len(tagged)} cells tagged 'parameters', not one.")
    found = {}
    for statement in ast.parse(tagged[0].source).body:
        if not (isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)):
            raise BatikError(f"{notebook}: the parameters cell may only hold NAME = value lines.")
        try:
            value = ast.literal_eval(statement.value)
        except ValueError:
            value = None
        if type(value) not in _TYPE_NAMES:
            raise BatikError(
                f"{notebook}: parameter {statement.targets[0].id} must be a plain number, text, "
                f"True or False."
            )
        found[statement.targets[0].id] = value
    return found


def bind(given: Mapping[str, str], notebooks: Mapping[Path, Mapping]) -> dict[Path, dict]:
    """Give every notebook the parameters that it declares, with the right type.

    Args:
        given: name and text of each value, as typed on the command line.
        notebooks: path to what `declared` returned.

    Returns:
        Path to parameters for papermill.

    Raises:
        BatikError: a name that no notebook declares, or a text that is no value of its type.
    """
    known = {name for parameters in notebooks.values() for name in parameters}
    for name in given:
        if name not in known:
            raise BatikError(_unknown(name, known, ", ".join(path.name for path in notebooks)))
    return {
        path: {n: _parse(n, text, parameters[n]) for n, text in given.items() if n in parameters}
        for path, parameters in notebooks.items()
    }


def check(namespace: Mapping[str, object], expected: Mapping[str, type]) -> None:
    """Stop a notebook that was given an unknown parameter or one of a wrong type.

    Args:
        namespace: the notebook's ``globals()``.
        expected: type of each parameter by name.

    Raises:
        BatikError: what is wrong, and the names that are known.
    """
    for name, value in namespace.items():
        ours = name.startswith("_") or name == _NOT_PARAMETER or not isinstance(value, _PASSABLE)
        if ours or not name.isupper():
            continue
        if name not in expected:
            raise BatikError(_unknown(name, expected, "this notebook"))
        wanted = expected[name]
        fits = type(value) is wanted or (wanted is float and type(value) is int)
        if not fits:
            raise BatikError(f"Parameter {name} must be {_TYPE_NAMES[wanted]}, not {value!r}.")


def _parse(name: str, text: str, default: object) -> object:
    kind = type(default)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise BatikError(f"Parameter {name} must be True or False, not '{text}'.")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise BatikError(f"Parameter {name} must be {_TYPE_NAMES[kind]}, not '{text}'.") from None


def _unknown(name: str, known: object, where: str) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"Unknown parameter {name} for {where}.{hint} Known: {', '.join(sorted(known))}."
