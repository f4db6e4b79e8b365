"""What more cores give: a plan for very many pictures, and how much a second worker really adds.

    >>> from batik_utils import scaling
    >>> scaling.measure_scaling(pictures)[["name", "ratio", "aim"]]

Called by ``make bench``. Every worker has one thread of onnxruntime. Timed is the stretch in which
all workers are at work: from when the last of them has answered its first batch to when the first
of them has answered its last. So what Ray takes to start (seconds, once) does not count, and what
it costs while it runs does.
"""

import csv
import itertools
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from batik_utils import bulk, cluster, predict
from batik_utils.bulk import Listing
from batik_utils.errors import BatikError
from batik_utils.predict import Prediction, Predictor

COLUMNS = (
    "name",
    "reference",
    "measured",
    "ratio",
    "ratio_min",
    "ratio_max",
    "aim",
    "repetitions",
)
#: Share of the speed of separate machines that is asked for.
AIM = 0.85
#: Pictures that go through the model at once, and such batches a worker at least.
BATCH, BATCHES = 8, 24


def measure_stages(predictor: Predictor, pictures: Sequence[str | Path]) -> dict[str, float]:
    """Measure what one core does with one picture.

    Time of the processor is taken, not of the clock, so a busy machine does little harm.

    Args:
        predictor: opened with one thread.
        pictures: files; each is opened once, after a first one that warms up.

    Returns:
        Seconds a picture by stage: ``open`` (read, decode, resize) and ``model``.
    """
    squares, spent = [predictor.square(pictures[0])], {"open": 0.0, "model": 0.0}
    predictor.run(np.stack(squares * BATCH))
    for start in range(0, len(pictures), BATCH):
        clock = time.process_time()
        squares = [predictor.square(picture) for picture in pictures[start : start + BATCH]]
        opened = time.process_time()
        predictor.run(np.stack(squares))
        spent["open"] += opened - clock
        spent["model"] += time.process_time() - opened
    return {stage: seconds / len(pictures) for stage, seconds in spent.items()}


def plan(
    stages: Mapping[str, float],
    *,
    pictures: int,
    megabytes: float,
    cores: int,
    gigabits: float,
    answers_per_second: float,
) -> pd.DataFrame:
    """Say how long very many pictures take, and what they wait for.

    Machines, network and the writer of the answers work at the same time, so the slowest of them
    sets the time.

    Args:
        stages: seconds a picture on one core, see `measure_stages`.
        pictures: how many.
        megabytes: of one picture's file (10^6 bytes).
        cores: of all machines.
        gigabits: a second, of the network between the store of pictures and all machines.
        answers_per_second: that one process writes.

    Returns:
        One row a resource: ``resource``, ``of`` what there is, ``hours`` of work, and whether it is
        the ``bottleneck``.

    Raises:
        BatikError: a number that is not positive.
    """
    numbers = (*stages.values(), pictures, megabytes, cores, gigabits, answers_per_second)
    if not stages or min(numbers) <= 0:
        raise BatikError("A plan needs positive numbers: of pictures, cores, seconds and so on.")
    seconds = {
        f"cores: {' and '.join(stages)}": (
            f"{cores} cores",
            pictures * sum(stages.values()) / cores,
        ),
        "network: reading": (f"{gigabits:g} Gbit/s", pictures * megabytes * 8e-3 / gigabits),
        "one process: writing": (
            f"{answers_per_second:,.0f} a second",
            pictures / answers_per_second,
        ),
    }
    table = pd.DataFrame(
        [(what, of, value / 3600) for what, (of, value) in seconds.items()],
        columns=["resource", "of", "hours"],
    )
    return table.assign(bottleneck=table["hours"] == table["hours"].max())


def writing_speed(answer: Prediction, classes: Sequence[str], n: int = 20_000) -> float:
    """Return the answers a second that one process turns into lines of the table."""
    clock = time.process_time()
    with Path(os.devnull).open("w", encoding="utf-8") as stream:
        csv.writer(stream).writerows(predict.row(answer, classes) for _ in range(n))
    return n / (time.process_time() - clock)


def measure_scaling(
    pictures: Sequence[str | Path],
    workers: Sequence[int] = (1, 2),
    repetitions: int = 3,
    *,
    model: str | Path | None = None,
) -> pd.DataFrame:
    """Measure the prediction path with several numbers of workers, in turn.

    Args:
        pictures: files that are read, decoded and judged again and again.
        workers: processes with a model each, beginning with 1; as many free cores are needed.
        repetitions: of everything.
        model: see `Predictor.load`.

    Returns:
        A row for each number of workers, with `COLUMNS`. ``reference`` and ``measured`` are seconds
        for a thousand pictures, medians of the repetitions. For one worker, the reference is the
        same model called in a loop without Ray; for more, what so many single workers would take
        together. ``ratio`` is reference over measured, pair by pair: for more workers the scaling
        efficiency.

    Raises:
        BatikError: no pictures, ``workers`` does not begin with 1, or Ray is not installed.
    """
    if not pictures or repetitions < 1 or list(workers)[:1] != [1]:
        raise BatikError(
            "Scaling is measured on at least one picture, once or more, from 1 worker on."
        )
    predictor = Predictor.load(model, threads=1)
    listings = {n: _repeated(pictures, n * BATCH * BATCHES) for n in workers}
    alone: list[float] = []
    speeds: dict[int, list[float]] = {n: [] for n in workers}
    with cluster.connected("local", cpus=max(workers)):
        for _ in range(repetitions):
            alone.append(_without_ray(predictor, listings[1]))
            for n in workers:
                speeds[n].append(_on_ray(predictor, listings[n], n))
    rows = []
    for n in workers:
        references = np.array(alone if n == 1 else [n * speed for speed in speeds[1]])
        ratios = np.divide(speeds[n], references)
        rows.append(
            {
                "name": f"1000 pictures, predict --ray, {n} worker{'s' * (n > 1)}",
                "reference": float(np.median(1000 / references)),
                "measured": float(np.median(np.divide(1000, speeds[n]))),
                "ratio": float(np.median(ratios)),
                "ratio_min": float(ratios.min()),
                "ratio_max": float(ratios.max()),
                "aim": AIM,
                "repetitions": repetitions,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


class Timed(bulk._Worker):
    """A worker that also tells when each batch was answered."""

    def result(self, opened: list):
        """Return one row: process, time (s) and number of pictures."""
        import pyarrow as pa

        n = len(list(self.predictor.answer(opened)))
        return pa.table({"worker": [os.getpid()], "time": [time.time()], "pictures": [n]})


def speed(batches: pd.DataFrame) -> float:
    """Return the pictures a second of all workers while all of them are at work.

    Args:
        batches: ``worker``, ``time`` (s) when a batch was answered, and its ``pictures``.

    Raises:
        BatikError: there is no such stretch.
    """
    ends = batches.groupby("worker")["time"].agg(["min", "max"])
    during = batches[batches["time"].between(ends["min"].max(), ends["max"].min())]
    total = 0.0
    for _, rows in during.groupby("worker"):
        rows = rows.sort_values("time")
        # what a worker answered after its first batch of the stretch, over the time that took
        lasted = rows["time"].iloc[-1] - rows["time"].iloc[0]
        total += rows["pictures"].iloc[1:].sum() / lasted if lasted > 0 else 0.0
    if during["worker"].nunique() < len(ends) or not total:
        raise BatikError("The workers were not at work together: measure with more pictures.")
    return total


def _on_ray(predictor: Predictor, listing: Listing, workers: int) -> float:
    answers = bulk.mapped(listing, Timed, predictor, BATCH, workers)
    return speed(answers.to_pandas())


def _without_ray(predictor: Predictor, listing: Listing) -> float:
    (names,) = listing.sources
    answers = predictor.stream(names, batch=BATCH, workers=1)
    # the first batch warms up
    for _ in itertools.islice(answers, BATCH):
        pass
    clock = time.perf_counter()
    rest = sum(1 for _ in answers)
    return rest / (time.perf_counter() - clock)


def _repeated(pictures: Sequence[str | Path], count: int) -> Listing:
    names = tuple(itertools.islice(itertools.cycle(map(str, pictures)), count))
    return Listing((names,), len(names))
