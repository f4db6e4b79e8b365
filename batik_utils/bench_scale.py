"""Very many pictures through prediction and feature extraction: time and memory must not grow.

    python -m batik_utils bench --scale 100000 --data folder --root path/to/pictures

Introduced in notebook 04, section "How fast".
"""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from batik_utils import embedding, feature_files, predict, timing
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.predict import Predictor


def run(
    dataset: Dataset,
    output: Path,
    n: int,
    *,
    model: Path | None = None,
    blocks: int = 20,
    progress: bool = True,
) -> pd.DataFrame:
    """Send very many pictures through `Predictor.stream` and through feature extraction.

    The data set's pictures are repeated as often as needed; nothing knows that they are.

    Args:
        dataset: pictures to repeat.
        output: folder of ``scale.csv``.
        n: pictures, for each of the two.
        model: folder of the deployed model; None for `predict.default_folder`.
        blocks: rows of the table; each tells about n / blocks pictures.
        progress: show a bar.

    Returns:
        ``what`` (``predict`` or ``features``), ``pictures`` so far, ``seconds_per_picture`` of the
        block, ``megabytes`` of memory in use at its end.

    Raises:
        BatikError: fewer pictures than blocks.
    """
    if n < blocks:
        raise BatikError(f"{blocks} blocks need at least {blocks} pictures, not {n}.")
    predictor = Predictor.load(model, threads=1)
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as place:
        answers = predict.write_csv(
            predictor.stream(_repeated(dataset.paths, n), workers=os.cpu_count() or 1),
            predictor.classes,
            Path(place) / "answers.csv",
        )
        bar = tqdm(answers, "predict", n, unit="picture", disable=not progress)
        rows += _blocks("predict", bar, n, blocks)
    with tempfile.TemporaryDirectory() as place:
        # cut off early: what is tested is the way of the pictures, not the network
        network = embedding.build([embedding.Branch("efficientnet_lite0", (2,))])
        done = feature_files.write(network, _repeated(dataset.paths, n), Path(place), size=224)
        bar = tqdm(done, "features", n, unit="picture", disable=not progress)
        rows += _blocks("features", bar, n, blocks)
    table = pd.DataFrame(rows).assign(**timing.machine(), dataset=dataset.name)
    output.mkdir(parents=True, exist_ok=True)
    timing.write(table, output / "scale.csv")
    return table


def describe(table: pd.DataFrame) -> str:
    """Return `scale` in a sentence for each of its two parts."""
    lines = []
    for what, rows in table.groupby("what", sort=False):
        quarter = max(1, len(rows) // 4)
        # the first block starts threads and fills memory pools
        early, late = rows.iloc[1 : 1 + quarter], rows.iloc[-quarter:]
        times = late["seconds_per_picture"].median() / early["seconds_per_picture"].median()
        more = late["megabytes"].max() - early["megabytes"].max()
        lines.append(
            f"{what}: {rows['pictures'].iloc[-1]:,} pictures, "
            f"{timing.in_words(rows['seconds_per_picture'].median())} each; the last quarter took "
            f"{times:.3g} times as long a picture as the first one; memory "
            f"{rows['megabytes'].iloc[-1]:,.0f} MB, {more:+.0f} MB since the first quarter."
        )
    return "\n".join(lines)


def _blocks(what: str, passing: Iterator, n: int, blocks: int) -> list[dict]:
    rows, clock, before = [], time.perf_counter(), 0
    for count, _ in enumerate(passing, 1):
        if count * blocks // n > len(rows):
            now = time.perf_counter()
            rows.append(
                {
                    "what": what,
                    "pictures": count,
                    "seconds_per_picture": (now - clock) / (count - before),
                    "megabytes": _megabytes(),
                }
            )
            clock, before = now, count
    return rows


def _repeated(paths: Sequence[Path], n: int) -> Iterator[Path]:
    return (paths[i % len(paths)] for i in range(n))


def _megabytes() -> float:
    import psutil

    return psutil.Process().memory_info().rss / 1e6
