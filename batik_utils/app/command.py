"""``python -m batik_utils predict``: answers on standard output, or in a table to go on with."""

import contextlib
import csv
import io
import json
import logging
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batik_utils.app.predict import Prediction, Predictor
from batik_utils.app.sources import Upload, files, printable
from batik_utils.errors import BatikError, expanded

_log = logging.getLogger(__name__)


def predict(
    named: Sequence[str],
    *,
    csv: str = "",
    as_json: bool = False,
    resume: bool = False,
    details: bool = False,
    model: str = "",
    ray: str = "",
    ray_jobs: ModuleType | None = None,
) -> int:
    """Answer about files and folders, on a Ray cluster if given; 1 if a picture was refused."""
    if resume and not csv:
        raise BatikError("--resume goes on with a table: name it with --csv.")
    # counting ten thousand names takes a moment, and gives the bar an end
    paths = list(ray_jobs.find(named) if ray_jobs else files(named))
    if not paths:
        raise BatikError(f"No picture was found in {', '.join(map(printable, named))}.")
    # one picture: all cores for it; several: one core for each is faster
    workers = min(len(paths), os.cpu_count() or 1)
    predictor = Predictor.load(model or None, threads=0 if workers == 1 else 1)
    table, found = expanded(csv) if csv else None, len(paths)
    if table:
        paths = still_to_do(paths, predictor.classes, table, resume=resume)
    if resume:
        _log.info("%d of %d pictures are in %s", found - len(paths), found, table)
        if not paths:
            return 0
    if ray_jobs:
        answers = ray_jobs.stream(paths, predictor, ray=ray, details=details)
    else:
        answers = predictor.stream(paths, workers=workers, details=details)
    if table:
        answers = write_csv(answers, predictor.classes, table, append=resume)
    verdicts, motifs = Counter(), Counter()
    try:
        with contextlib.closing(answers), logging_redirect_tqdm():
            for answer in tqdm(answers, total=len(paths), unit="picture", disable=None):
                verdicts[answer.verdict] += 1
                motifs[answer.motif] += 1
                _show(answer, as_json, details, tabulated=bool(table))
    except KeyboardInterrupt:
        remedy = "with --csv TABLE the answers are kept, and --resume goes on"
        if table:
            done = found - len(paths) + verdicts.total()
            remedy = f"{done} answers are in {table}: add --resume to go on"
        raise KeyboardInterrupt(remedy) from None
    counted = ", ".join(f"{name} {motifs[name]}" for name in predictor.classes)
    rest = (verdicts["none"], verdicts["refused"], verdicts["unsure"])
    _log.info("%s; none of these %d, refused %d, not sure %d", counted, *rest)
    return 1 if verdicts["refused"] else 0


def _show(answer: Prediction, as_json: bool, details: bool, *, tabulated: bool) -> None:
    """Print an answer; what is in a table is printed only as JSON."""
    if answer.verdict == "refused":
        _log.warning("%s: %s", answer.name, answer.reason)
    if as_json:
        unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
        # what another encoding cannot write is escaped as JSON does it
        tqdm.write(json.dumps(answer.as_json(details=details), ensure_ascii=not unicode))
    elif answer.verdict != "refused" and not tabulated:
        what = (answer.motif or "none of these", f"{answer.probability:.2f}", answer.verdict)
        tqdm.write("\t".join([answer.name, *what, *([answer.level] * details)]))


def columns(classes: Sequence[str]) -> list[str]:
    """Return the header of the CSV table."""
    return ["file", "verdict", "motif", *(f"p_{name}" for name in classes), "familiarity", "reason"]


def row(answer: Prediction, classes: Sequence[str]) -> list[str]:
    """Return one answer as a line of the CSV table."""
    shares = [f"{answer.probabilities[c]:.4f}" if answer.probabilities else "" for c in classes]
    familiarity = "" if math.isnan(answer.familiarity) else f"{answer.familiarity:.4f}"
    name, motif = _cell(answer.name), answer.motif or ""
    return [name, answer.verdict, motif, *shares, familiarity, answer.reason]


def _cell(source: Path | str | Upload) -> str:
    name = printable(source)
    # a spreadsheet would run a file name that begins like a formula
    return f"'{name}" if name[:1] in tuple("=+-@") else name


def write_csv(
    answers: Iterable[Prediction], classes: Sequence[str], path: Path, *, append: bool = False
) -> Iterator[Prediction]:
    """Write answers while they pass by; each is in the file before the next comes."""
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
    found: Sequence[Path | Upload], classes: Sequence[str], path: Path, *, resume: bool
) -> list[Path | Upload]:
    """Return all files, with ``resume`` those that an interrupted `write_csv` left.

    BatikError where answers about other files, or of an unfinished call, would be lost.
    """
    done = _done(classes, path, cut=resume)
    if not resume and done and done != Counter(map(_cell, found)):
        raise BatikError(
            f"{path} holds {done.total()} answers of an earlier call: add --resume to go on with "
            f"it, name another file, or delete it."
        )
    left = []
    for one in found:
        if resume and done[_cell(one)]:
            done[_cell(one)] -= 1
        else:
            left.append(one)
    return left


def _done(classes: Sequence[str], path: Path, *, cut: bool) -> Counter:
    """Count the lines of each file in a table."""
    if not path.is_file():  # not there, or a pipe or device
        return Counter()
    try:
        content = path.read_bytes()
        # the last whole line ends here: not half written, and not inside quotes
        end = content.rfind(b"\n") + 1
        while content.count(b'"', 0, end) % 2:
            end = content.rfind(b"\n", 0, end - 1) + 1
        lines = list(csv.reader(io.StringIO(content[:end].decode("utf-8"), newline="")))
        if content and lines[:1] != [columns(classes)]:
            raise BatikError(
                f"{path} is no table of answers about {', '.join(classes)}: name another file."
            )
        if cut and end < len(content):
            with path.open("rb+") as stream:
                stream.truncate(end)
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise BatikError(f"{path} cannot be read ({error}): name another file.") from error
    return Counter(line[0] for line in lines[1:] if line)
