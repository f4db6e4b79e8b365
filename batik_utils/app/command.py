"""``python -m batik_utils predict``: answers on standard output, or in a table."""

import contextlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from batik_utils.app import sources, tables
from batik_utils.app.predict import Prediction, Predictor
from batik_utils.errors import BatikError

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
    """Answer about files and folders; return 1 if a picture was refused, otherwise 0.

    ``ray`` is the address of a Ray cluster, which the module ``scale.ray_jobs`` works on.

    Raises:
        BatikError: a setting, the model or the table is wrong.
    """
    if resume and not csv:
        raise BatikError("--resume goes on with a table: name it with --csv.")
    cores = os.cpu_count() or 1
    # one picture: all cores for it; several: one core for each is faster
    alone = len(named) == 1 and not Path(named[0]).expanduser().is_dir()
    predictor = Predictor.load(model or None, threads=0 if alone or cores == 1 else 1)
    table = Path(csv).expanduser()
    if ray_jobs:
        listing = ray_jobs.find(named)
        found = count = listing.count
        if resume:
            listing = ray_jobs.still_to_do(listing, predictor.classes, table)
            count = listing.count
        answers = ray_jobs.stream(listing, predictor, ray=ray, details=details)
    else:
        # counting ten thousand names takes a moment, and gives the bar an end
        paths = list(sources.files(named))
        found = count = len(paths)
        if resume:
            paths = list(tables.still_to_do(paths, predictor.classes, table))
            count = len(paths)
        elif csv:
            tables.refuse_to_overwrite(paths, predictor.classes, table)
        answers = predictor.stream(paths, workers=cores, details=details)
    if not found:
        raise BatikError(f"No picture was found in {', '.join(map(sources.printable, named))}.")
    if resume:
        _log.info("%d of %d pictures are in %s", found - count, found, csv)
        if not count:
            return 0
    if csv:
        answers = tables.write_csv(answers, predictor.classes, table, append=resume)
    show = _json if as_json else None if csv else _line
    given = []
    try:
        with contextlib.closing(answers), logging_redirect_tqdm():
            for answer in tqdm(answers, total=count, unit="picture", disable=None):
                given.append((answer.verdict, answer.motif))
                if answer.verdict == "refused":
                    _log.warning("%s: %s", answer.name, answer.reason)
                if show and (as_json or answer.verdict != "refused"):
                    tqdm.write(show(answer, details))
    except KeyboardInterrupt:
        if csv:
            remedy = f"{len(given)} answers are in {csv}: add --resume to go on"
        else:
            remedy = "with --csv TABLE the answers are kept, and --resume goes on"
        raise KeyboardInterrupt(remedy) from None
    verdicts, motifs = Counter(v for v, _ in given), Counter(m for _, m in given)
    _log.info(
        "%d pictures: %s; none of these %d, refused %d, not sure %d",
        count,
        ", ".join(f"{name} {motifs[name]}" for name in predictor.classes),
        verdicts["none"],
        verdicts["refused"],
        verdicts["unsure"],
    )
    return 1 if verdicts["refused"] else 0


def _json(answer: Prediction, details: bool) -> str:
    # what another encoding cannot write must be escaped as JSON does it
    plain = not (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf8")
    return json.dumps(answer.as_json(details=details), ensure_ascii=plain)


def _line(answer: Prediction, details: bool) -> str:
    level = f"\t{answer.level}" if details else ""
    what = answer.motif or "none of these"
    return f"{answer.name}\t{what}\t{answer.probability:.2f}\t{answer.verdict}{level}"
