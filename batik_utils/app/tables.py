"""Answers as a CSV table that an interrupted call can go on with.

>>> for answer in tables.write_csv(predictor.stream(paths), predictor.classes, Path("out.csv")):
...     pass
"""

import csv
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from batik_utils.app.predict import Prediction
from batik_utils.app.sources import Upload, printable
from batik_utils.errors import BatikError


def columns(classes: Sequence[str]) -> list[str]:
    """Return the header of the CSV table."""
    return ["file", "verdict", "motif", *(f"p_{name}" for name in classes), "familiarity", "reason"]


def row(answer: Prediction, classes: Sequence[str]) -> list[str]:
    """Return one answer as a line of the CSV table."""
    shares = [f"{answer.probabilities[c]:.4f}" if answer.probabilities else "" for c in classes]
    familiarity = "" if math.isnan(answer.familiarity) else f"{answer.familiarity:.4f}"
    name, motif = _cell(answer.name), answer.motif or ""
    return [name, answer.verdict, motif, *shares, familiarity, answer.reason]


def _cell(name: str) -> str:
    # a spreadsheet would run a file name that begins like a formula
    return f"'{name}" if name[:1] in tuple("=+-@\t\r") else name


def write_csv(
    answers: Iterable[Prediction], classes: Sequence[str], path: Path, *, append: bool = False
) -> Iterator[Prediction]:
    """Write answers to a CSV file while they pass by; each is in the file before the next comes.

    ``append`` adds to what is there; see `still_to_do`.

    Raises:
        BatikError: the file cannot be written.
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


def still_to_do(
    paths: Iterable[Path | str | Upload], classes: Sequence[str], table: Path
) -> Iterator[Path | str | Upload]:
    """Yield the files that an interrupted `write_csv` left; a line it left half written is removed.

    Everything is to do if there is no such file.

    Raises:
        BatikError: the file is no such table of these motifs.
    """
    done = _done(classes, table, cut=True)
    for path in paths:
        name = _name(path)
        if done[name]:
            done[name] -= 1
        else:
            yield path


def refuse_to_overwrite(
    paths: Iterable[Path | str | Upload], classes: Sequence[str], table: Path
) -> None:
    """Raise a `BatikError` where writing a table anew would lose answers that are in it.

    A table whose every line will be written again may be replaced: it is the same call, repeated.
    """
    if not table.exists():
        return
    if not table.is_file():
        raise BatikError(f"{table} is no file: name a table to write with --csv.")
    old, new = _done(classes, table, cut=False), Counter(map(_name, paths))
    if old and old != new:
        raise BatikError(
            f"{table} holds {old.total()} answers of an earlier call: add --resume to go on with "
            f"it, name another file, or delete it."
        )


def _name(path: Path | str | Upload) -> str:
    return _cell(printable(path.name if isinstance(path, Upload) else path))


def _done(classes: Sequence[str], table: Path, *, cut: bool) -> Counter:
    """Count the lines of each file in a table."""
    if not table.is_file():
        return Counter()
    try:
        with table.open(newline="", encoding="utf-8") as stream:
            header = next(csv.reader(stream), None)
        if header != columns(classes) and not (header is None and not cut):
            raise BatikError(
                f"{table} is no table of answers about {', '.join(classes)}: name another file."
            )
        if cut:
            with table.open("rb+") as stream:
                _cut_half_a_line(stream)
        with table.open(newline="", encoding="utf-8") as stream:
            lines = itertools.islice(csv.reader(stream), 1, None)
            return Counter(line[0] for line in lines if line)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BatikError(f"{table} cannot be read ({error}).") from error


def _cut_half_a_line(stream: BinaryIO) -> None:
    """Cut what stands after the last line end, or was written after an odd quote."""
    end = position = 0
    quoted = False
    for line in stream:
        position += len(line)
        quoted ^= line.count(b'"') % 2 == 1
        if line.endswith(b"\n") and not quoted:
            end = position
    stream.truncate(end)
