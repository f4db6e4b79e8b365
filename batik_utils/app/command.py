"""``python -m batik_utils predict``: answers on standard output, or in a table."""

import contextlib
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
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
    """
    if resume and not csv:
        raise BatikError("--resume goes on with a table: name it with --csv.")
    # one picture: all cores for it; several: one core for each is faster
    alone = len(named) == 1 and not Path(named[0]).expanduser().is_dir()
    predictor = Predictor.load(model or None, threads=0 if alone or os.cpu_count() == 1 else 1)
    table = Path(csv).expanduser() if csv else None
    # counting ten thousand names takes a moment, and gives the bar an end
    paths = list(ray_jobs.find(named) if ray_jobs else sources.files(named))
    found = len(paths)
    if resume:
        paths = list(tables.still_to_do(paths, predictor.classes, table))
    elif table:
        tables.refuse_to_overwrite(paths, predictor.classes, table)
    count = len(paths)
    if ray_jobs:
        answers = ray_jobs.stream(paths, predictor, ray=ray, details=details)
    else:
        answers = predictor.stream(paths, workers=os.cpu_count() or 1, details=details)
    if not found:
        raise BatikError(f"No picture was found in {', '.join(map(sources.printable, named))}.")
    if resume:
        _log.info("%d of %d pictures are in %s", found - count, found, table)
        if not count:
            return 0
    if table:
        answers = tables.write_csv(answers, predictor.classes, table, append=resume)
    verdicts = _show(answers, count, predictor.classes, as_json, details, table)
    return 1 if verdicts["refused"] else 0


def _show(
    answers: Iterator[Prediction],
    count: int,
    classes: Sequence[str],
    as_json: bool,
    details: bool,
    table: Path | None,
) -> Counter:
    """Print answers while they come, and how many of each there were; return the verdicts."""
    verdicts, motifs = Counter(), Counter()
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    try:
        with contextlib.closing(answers), logging_redirect_tqdm():
            for answer in tqdm(answers, total=count, unit="picture", disable=None):
                verdicts[answer.verdict] += 1
                motifs[answer.motif] += 1
                if answer.verdict == "refused":
                    _log.warning("%s: %s", answer.name, answer.reason)
                if as_json:
                    # what another encoding cannot write is escaped as JSON does it
                    values = answer.as_json(details=details)
                    tqdm.write(json.dumps(values, ensure_ascii=not unicode))
                elif answer.verdict != "refused" and not table:
                    what = (answer.motif or "none of these", f"{answer.probability:.2f}")
                    words = [answer.name, *what, answer.verdict, *([answer.level] * details)]
                    tqdm.write("\t".join(words))
    except KeyboardInterrupt:
        remedy = f"{verdicts.total()} answers are in {table}: add --resume to go on"
        if not table:
            remedy = "with --csv TABLE the answers are kept, and --resume goes on"
        raise KeyboardInterrupt(remedy) from None
    found = ", ".join(f"{name} {motifs[name]}" for name in classes)
    rest = (verdicts["none"], verdicts["refused"], verdicts["unsure"])
    _log.info("%d pictures: %s; none of these %d, refused %d, not sure %d", count, found, *rest)
    return verdicts
