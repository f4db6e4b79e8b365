"""One exception type for everything a reader can mend."""


class BatikError(Exception):
    """A mistake that a person can mend.

    The message is one sentence or two: what is wrong, where, and what to do. The command line
    prints it without a traceback; notebooks show it as the last line of the cell.
    """
