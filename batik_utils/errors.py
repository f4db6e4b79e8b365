"""One exception type for everything a reader can mend, and where the project lies."""

from pathlib import Path

#: Folder that holds the package, and in a checkout notebooks and results beside it.
PROJECT = Path(__file__).resolve().parents[1]


class BatikError(Exception):
    """A mistake that a person can mend.

    The message is one sentence or two: what is wrong, where, and what to do. The command line
    prints it without a traceback; notebooks show it as the last line of the cell.
    """
