"""Answers as a CSV table that an interrupted call can go on with."""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from batik_utils.app.predict import Prediction
from batik_utils.app.sources import Upload, printable
from batik_utils.errors import BatikError

Source = Path | str | Upload


def columns(classes: Sequence[str]) -> list[str]:
    """Return the header of the CSV table."""
    return ["file", "verdict", "motif", *(f"p_{name}" for name in classes), "familiarity", "reason"]


def row(answer: Prediction, classes: Sequence[str]) -> list[str]:
    """Return one answer as a line of the CSV table."""
    shares = [f"{answer.probabilities[c]:.4f}" if answer.probabilities else "" for c in classes]
    familiarity = "" if math.isnan(answer.familiarity) else f"{answer.familiarity:.4f}"
    name, motif = _cell(answer.name), answer.motif or ""
    return [name, answer.verdict, motif, *shares, familiarity, answer.reason]


def _cell(name: Source) -> str:
    name = printable(name.name if isinstance(name, Upload) else name)
    # a spreadsheet would run a file name that begins like a formula
    return f"'{name}" if name[:1] in tuple("=+-@") else name


def write_csv(
    answers: Iterable[Prediction], classes: Sequence[str], path: Path, *, append: bool = False
) -> Iterator[Prediction]:
    """Write answers while they pass by; each is in the file before the next comes.

    ``append`` adds to what is there, see `still_to_do`. BatikError: it cannot be written.
    """
    try:
        append = append and path.is_file()
        with path.open("a" if append else "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            if not append:
                writer.writerow(columns(classes))
            for answer in answers:
                writer.writerow(row(answer, classes))
                stream.flush()
                yield answer
    except OSError as error:
        raise BatikError(
            f"{path} cannot be written ({error.strerror or error}): name a file in a folder that "
            f"exists and may be written to, with --csv."
        ) from error


def still_to_do(paths: Iterable[Source], classes: Sequence[str], table: Path) -> Iterator[Source]:
    """Yield the files that an interrupted `write_csv` left; a line it left half written goes."""
    done = _done(classes, table, cut=True)
    for path in paths:
        if done[_cell(path)]:
            done[_cell(path)] -= 1
        else:
            yield path


def refuse_to_overwrite(paths: Iterable[Source], classes: Sequence[str], table: Path) -> None:
    """Raise a `BatikError` where writing a table anew would lose answers that are in it.

    A table whose every line will be written again may be replaced: it is the same call, repeated.
    """
    old = _done(classes, table, cut=False)
    if old and old != Counter(map(_cell, paths)):
        raise BatikError(
            f"{table} holds {old.total()} answers of an earlier call: add --resume to go on with "
            f"it, name another file, or delete it."
        )


def _done(classes: Sequence[str], table: Path, *, cut: bool) -> Counter:
    """Count the lines of each file in a table."""
    if not table.exists():
        return Counter()
    try:
        content = table.read_bytes()
        end = _last_end(content)
        lines = list(csv.reader(io.StringIO(content[:end].decode("utf-8"), newline="")))
        if content and lines[:1] != [columns(classes)]:
            raise BatikError(
                f"{table} is no table of answers about {', '.join(classes)}: name another file."
            )
        if cut and end < len(content):
            with table.open("rb+") as stream:
                stream.truncate(end)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BatikError(f"{table} cannot be read ({error}): name another file.") from error
    return Counter(line[0] for line in lines[1:] if line)


def _last_end(content: bytes) -> int:
    """Return where the last whole line ends: not half written, and not inside quotes."""
    end = content.rfind(b"\n") + 1
    while content.count(b'"', 0, end) % 2:
        end = content.rfind(b"\n", 0, end - 1) + 1
    return end
