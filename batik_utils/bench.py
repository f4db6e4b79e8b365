"""How many times faster than the published way: every figure is a ratio of two times.

Run it::

    python -m batik_utils bench --data folder --root path/to/pictures

The two sides of a ratio are timed in turn (A, B, A, B, ...) in one process tree on one machine,
after a warm-up, so that whatever else the machine does meets both. The slow side of training is
`published.fit`, which gives the same losses. ``results/bench/bench.csv`` holds one row a ratio,
``repetitions.csv`` every single time. Introduced in notebook 04, section "How fast".
"""

import contextlib
import json
import logging
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from batik_utils import (
    array_cache,
    embedding,
    engine,
    experiments,
    feature_files,
    final,
    models,
    pictures,
    predict,
    published,
    recipes,
    splits,
    transforms,
)
from batik_utils.data import Dataset
from batik_utils.errors import BatikError
from batik_utils.predict import Predictor
from batik_utils.preprocessing import IMAGENET, frame
from batik_utils.recipes import Recipe
from batik_utils.weights import WeightsNotFound

log = logging.getLogger(__name__)

COLUMNS = (
    "name",
    "reference",
    "measured",
    "ratio",
    "ratio_min",
    "ratio_max",
    "aim",
    "repetitions",
    "met",
    "limit_s",
    "reference_is",
    "extrapolated",
    "time_goes_into",
)
REPETITION_COLUMNS = ("name", "side", "repetition", "seconds")
#: A fold of cross-validation stands for so many trainings.
FOLDS, REPEATS = 10, 5


@dataclass(frozen=True)
class Size:
    """How much is timed.

    Attributes:
        repetitions: of long work.
        pictures: that are looked at one by one.
        folder: pictures of the folder.
        starts: of a fresh Python.
        folds: of the protocol; `REPEATS` repeats of `FOLDS` are the real one.
        repeats: of the protocol.
        scratch: recipe of the scratch epoch.
    """

    repetitions: int
    pictures: int
    folder: int
    starts: int
    folds: int = FOLDS
    repeats: int = REPEATS
    scratch: str = "scratch1"


FULL = Size(repetitions=4, pictures=30, folder=60, starts=6)
#: For tests: shows that everything runs; its times mean nothing.
QUICK = Size(repetitions=1, pictures=2, folder=3, starts=1, folds=2, repeats=1)


@dataclass(frozen=True)
class Ratio:
    """One figure: how many times less the measured side takes than the reference.

    Attributes:
        name: what is done.
        reference: side of the race that is the slow one.
        measured: side that is the fast one.
        aim: the ratio to reach; NaN for none.
        limit_s: seconds that the measured side may take; NaN for no limit.
        reference_is: in words.
        extrapolated: how the reference was extrapolated, or "".
        times: the reference's work is so many times what was timed.
        parts: sides that the measured one consists of, to say what the time goes into.
    """

    name: str
    reference: str
    measured: str
    reference_is: str
    aim: float = math.nan
    limit_s: float = math.nan
    extrapolated: str = ""
    times: float = 1.0
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Race:
    """Sides that are timed in turn.

    Attributes:
        sides: name to work; the work is called with the number of the repetition, 0 to warm up, and
            may return the seconds that count, where not all of it counts.
        repetitions: after the warm-up.
        ratios: what is made of the times.
    """

    sides: dict[str, Callable[[int], float | None]]
    repetitions: int
    ratios: tuple[Ratio, ...]


@dataclass
class Bench:
    """What all races need.

    Attributes:
        dataset: pictures to learn from and to look at.
        groups: ``duplicate_groups.csv`` of them, or None: then folds do not mind near-twins.
        model: folder of the deployed model.
        size: how much is timed.
        scratchpad: folder for everything that is written meanwhile; removed by the caller.
        weights_directory: folder to look for pretrained weights first.
    """

    dataset: Dataset
    groups: Path | None
    model: Path
    size: Size
    scratchpad: Path
    weights_directory: str | None = None
    frozen: Recipe = field(init=False)

    def __post_init__(self):
        self.frozen = recipes.get("mobilenet_v2_probe")
        try:
            models.build(self.frozen, 2, self.weights_directory)
        except WeightsNotFound:
            self.frozen = recipes.get("efficientnet_lite0")
            log.info("No weights of MobileNetV2 here: EfficientNet-Lite0 takes its place.")

    def paths(self, n: int) -> list[Path]:
        """Return pictures spread evenly over the data set; some come again if there are fewer."""
        spread = np.linspace(0, len(self.dataset.paths) - 1, min(n, len(self.dataset.paths)))
        return [self.dataset.paths[round(spread[i % len(spread)])] for i in range(n)]


def run(
    dataset: Dataset,
    output: Path,
    *,
    groups: Path | None = None,
    model: Path | None = None,
    weights_directory: str | None = None,
    size: Size = FULL,
    progress: bool = True,
) -> pd.DataFrame:
    """Time everything and write ``bench.csv`` and ``repetitions.csv``.

    Args:
        dataset: pictures to learn from and to look at.
        output: folder of the tables.
        groups: groups of near-twins (``duplicate_groups.csv``), or None.
        model: folder of the deployed model; None for `predict.default_folder`.
        weights_directory: folder to look for pretrained weights first.
        size: how much is timed.
        progress: show a bar.

    Returns:
        ``COLUMNS``, and facts of the machine, one row a ratio.
    """
    output.mkdir(parents=True, exist_ok=True)
    rows, times = [], []
    with _cache_of_its_own() as scratchpad:
        bench = Bench(
            dataset,
            groups,
            model or predict.default_folder(),
            size,
            scratchpad,
            weights_directory,
        )
        makers = (scratch_epoch, frozen_recipe, protocol, one_picture, folder, start_up)
        for maker in tqdm(makers, desc="Bench", unit="race", disable=not progress):
            race = maker(bench)
            found = timed(race)
            times += [
                {"name": maker.__name__, "side": side, "repetition": k, "seconds": s}
                for side, seconds in found.items()
                for k, s in enumerate(seconds, 1)
            ]
            rows += [as_row(ratio, found) for ratio in race.ratios]
            # the next race starts from an empty folder
            shutil.rmtree(array_cache.folder(), ignore_errors=True)
    facts = machine() | {"dataset": dataset.name}
    table = pd.DataFrame(rows, columns=list(COLUMNS)).assign(**facts)
    _write(table, output / "bench.csv")
    _write(pd.DataFrame(times, columns=list(REPETITION_COLUMNS)), output / "repetitions.csv")
    return table


def timed(race: Race) -> dict[str, list[float]]:
    """Return the seconds of each side, in turn, without the warm-up."""
    seconds: dict[str, list[float]] = {side: [] for side in race.sides}
    for repetition in range(race.repetitions + 1):
        for side, work in race.sides.items():
            clock = time.perf_counter()
            counted = work(repetition)
            passed = time.perf_counter() - clock if counted is None else counted
            if repetition:
                seconds[side].append(passed)
    return seconds


def as_row(ratio: Ratio, seconds: dict[str, list[float]]) -> dict:
    """Return one row of ``bench.csv``: medians of the times and of the ratios in pairs."""
    slow = [ratio.times * s for s in seconds[ratio.reference]]
    fast = seconds[ratio.measured]
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    middle, measured = statistics.median(ratios), statistics.median(fast)
    # a NaN, no aim, is never missed
    met = not middle < ratio.aim and not measured > ratio.limit_s
    parts = [f"{part} {_seconds(statistics.median(seconds[part]))}" for part in ratio.parts]
    return {
        "name": ratio.name,
        "reference": statistics.median(slow),
        "measured": measured,
        "ratio": middle,
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "aim": ratio.aim,
        "repetitions": len(ratios),
        "met": met,
        "limit_s": ratio.limit_s,
        "reference_is": ratio.reference_is,
        "extrapolated": ratio.extrapolated,
        "time_goes_into": ", ".join(parts),
    }


def summary(table: pd.DataFrame) -> str:
    """Return the table as text: what was measured beside what was aimed at, and what is missed."""
    lines = [f"{'':50}{'reference':>11}{'measured':>11}{'ratio':>8}{'from':>8}{'to':>8}  aim"]
    for row in table.itertuples():
        aim = "" if math.isnan(row.aim) else f"{row.aim:g}x"
        aim += "" if math.isnan(row.limit_s) else f" under {row.limit_s:g} s"
        line = f"{row.name:50}{_seconds(row.reference):>11}{_seconds(row.measured):>11}"
        line += f"{row.ratio:8.3g}{row.ratio_min:8.3g}{row.ratio_max:8.3g}  {aim.strip()}"
        lines.append(line if row.met else f"{line}  MISSED")
    for row in table[~table["met"].astype(bool)].itertuples():
        where = row.time_goes_into or "no parts were timed"
        lines.append(f"Missed: {row.name}. The measured side's time goes into: {where}.")
    return "\n".join(lines)


def read(folder: Path, name: str = "bench") -> pd.DataFrame | None:
    """Return ``bench``, ``repetitions``, ``tried`` or ``scale`` of a folder; None if not there."""
    path = folder / f"{name}.csv"
    return pd.read_csv(path, keep_default_na=True) if path.is_file() else None


def describe(table: pd.DataFrame | None) -> str:
    """Return what was measured in Markdown: with what, and what is missed and why."""
    if table is None:
        return "Not measured here: `make bench` does it, in about five minutes."
    facts = table.iloc[0]
    text = (
        f"Measured on {facts['date']} with {facts['cores']} cores ({facts['cpu']}), torch "
        f"{facts['torch']} and onnxruntime {facts['onnxruntime']}."
    )
    aimed = table[table["aim"].notna() | table["limit_s"].notna()]
    missed = aimed[~aimed["met"].astype(bool)]
    text += f" {len(aimed) - len(missed)} of {len(aimed)} aims are reached."
    for row in missed.itertuples():
        aim = f"{row.limit_s:g} s" if math.isnan(row.aim) else f"{row.aim:.3g} times"
        got = _seconds(row.measured) if math.isnan(row.aim) else f"{row.ratio:.3g} times"
        where = row.time_goes_into if isinstance(row.time_goes_into, str) else ""
        text += f"\n- **Missed:** {row.name}: {got} in place of {aim}."
        text += f" The time goes into: {where}." if where else ""
    return text


def machine() -> dict[str, str | int]:
    """Return what the times were measured with."""
    import onnxruntime
    import PIL

    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }


# --- races ------------------------------------------------------------------------------------


def scratch_epoch(bench: Bench) -> Race:
    """One epoch of a scratch recipe, from files on the slow side and kept pixels on the fast one.

    Each repetition trains the same network on.
    """
    recipe = recipes.with_epochs(recipes.get(bench.size.scratch), 1)
    seen = models.preprocessing_of(recipe)
    train, _ = _divided(bench.dataset)
    labels = torch.tensor(bench.dataset.labels)
    with engine.seeded(0):
        slow, fast, mixed = (models.build_untrained(recipe, 3) for _ in range(3))

    def reference(_: int) -> None:
        published.fit(slow, recipe, seen, bench.dataset, train, generator=_generator())

    def measured(model: models.Classifier, precision: str) -> Callable[[int], None]:
        def work(_: int) -> None:
            # mapped from the cache folder, where the warm-up left it
            pixels = transforms.load_pixels(bench.dataset, seen, progress=False)
            examples = engine.Examples(pixels[train], labels[train])
            engine.fit(
                model,
                recipe,
                seen,
                examples,
                None,
                generator=_generator(),
                precision=precision,
                progress=False,
            )

        return work

    def decode(_: int) -> None:
        for index in train:
            published.open_one(bench.dataset.paths[index], seen)

    pixels = transforms.load_pixels(bench.dataset, seen, progress=False)[train]

    def passes(_: int) -> None:
        fast.train()
        augment = transforms.TrainPreset(seen, recipe.flip)
        order = torch.arange(len(train))
        for chosen in order.split(recipe.batch_size):
            logits = fast(augment(pixels[chosen], _generator()))
            nn.functional.cross_entropy(logits, labels[train][chosen]).backward()
        fast.zero_grad()

    return Race(
        {
            "published loop": reference,
            "kept pixels": measured(fast, "float32"),
            "kept pixels, bfloat16": measured(mixed, "bfloat16"),
            "forward and backward": passes,
            "decoding, in the reference alone": decode,
        },
        bench.size.repetitions,
        (
            Ratio(
                f"one epoch of {recipe.name}",
                "published loop",
                "kept pixels",
                "published loop, the same losses",
                aim=4,
                parts=("forward and backward", "decoding, in the reference alone"),
            ),
            Ratio(
                f"one epoch of {recipe.name}, --precision bfloat16",
                "published loop",
                "kept pixels, bfloat16",
                "published loop; losses differ by rounding to bfloat16",
            ),
        ),
    )


def frozen_recipe(bench: Bench) -> Race:
    """Ten epochs of a recipe with a fixed backbone: with an empty cache folder, and a full one."""
    recipe, epochs = bench.frozen, bench.frozen.epochs
    seen = models.preprocessing_of(recipe)
    train, validation = _divided(bench.dataset)
    with engine.seeded(0):
        slow, _ = models.build(recipe, len(bench.dataset.classes), bench.weights_directory)
    setup = _setup(bench, "frozen", folds=False)
    # both sides have the network and its weights in memory
    with engine.seeded(0):
        model, _ = setup.built(recipe, 0)

    def reference(_: int) -> None:
        published.fit(
            slow, recipe, seen, bench.dataset, train, validation, generator=_generator(), epochs=1
        )

    def first(_: int) -> None:
        shutil.rmtree(array_cache.folder(), ignore_errors=True)
        setup._pixels.clear()
        again(0)

    def again(_: int) -> None:
        setup._views.clear()
        experiments.train(setup, recipe, 0, record=False, progress=False)

    def decode(_: int) -> None:
        shutil.rmtree(array_cache.folder(), ignore_errors=True)
        transforms.load_pixels(bench.dataset, seen, progress=False)

    def backbone(_: int) -> None:
        pixels = setup.pixels(seen)
        engine.views_of(model, seen, pixels, recipe, _generator())

    reference_is = "published loop with a frozen backbone, the same losses"
    extrapolated = f"one epoch was timed, times {epochs}"
    return Race(
        {
            "published loop": reference,
            "first time": first,
            "features kept": again,
            "features of each picture and its mirror image": backbone,
            "decoding": decode,
        },
        bench.size.repetitions,
        (
            Ratio(
                f"{recipe.name}, {epochs} epochs, first time",
                "published loop",
                "first time",
                reference_is,
                aim=40,
                extrapolated=extrapolated,
                times=epochs,
                parts=(
                    "features of each picture and its mirror image",
                    "decoding",
                    "features kept",
                ),
            ),
            Ratio(
                f"{recipe.name}, {epochs} epochs, features kept",
                "published loop",
                "features kept",
                reference_is,
                aim=500,
                extrapolated=extrapolated,
                times=epochs,
            ),
        ),
    )


def protocol(bench: Bench) -> Race:
    """The whole cross-validation of a frozen probe, result files included."""
    recipe, size = bench.frozen, bench.size
    seen = models.preprocessing_of(recipe)
    with engine.seeded(0):
        slow, _ = models.build(recipe, len(bench.dataset.classes), bench.weights_directory)
    folds = _setup(bench, "folds", folds=True)
    split = folds.at(0, 0).split
    train, test = (splits.indices(split, bench.dataset, name) for name in ("train", "test"))

    def reference(_: int) -> None:
        published.fit(
            slow, recipe, seen, bench.dataset, train, test, generator=_generator(), epochs=1
        )

    def grid(repetition: int, name: str) -> None:
        # a fresh set-up and folder: nothing but the cache folder is left from before
        setup = _setup(bench, f"{name} {repetition}", folds=True)
        experiments.run_grid(setup, recipe.name, size.repeats, progress=False)

    def first(repetition: int) -> None:
        shutil.rmtree(array_cache.folder(), ignore_errors=True)
        grid(repetition, "first")

    def again(repetition: int) -> None:
        grid(repetition, "again")

    trainings = size.folds * size.repeats
    name = f"{size.repeats} x {size.folds} protocol, {recipe.name}"
    extrapolated = (
        f"one epoch of one fold was timed, times {recipe.epochs} epochs, times {trainings}"
    )
    reference_is = "published loop, each fold anew"
    times = float(recipe.epochs * trainings)
    return Race(
        {"published loop": reference, "first time": first, "features kept": again},
        size.repetitions,
        (
            Ratio(
                f"{name}, first time",
                "published loop",
                "first time",
                reference_is,
                aim=1000,
                extrapolated=extrapolated,
                times=times,
                parts=("features kept",),
            ),
            Ratio(
                f"{name}, features kept",
                "published loop",
                "features kept",
                reference_is,
                aim=1000,
                extrapolated=extrapolated,
                times=times,
            ),
        ),
    )


def one_picture(bench: Bench) -> Race:
    """From a file to an answer; every repetition takes another picture."""
    predictor = Predictor.load(bench.model)
    paths = bench.paths(bench.size.pictures + 1)
    squares = [frame(predictor.open(path), predictor.framing) for path in paths]
    b2 = _published_b2()
    eager = eager_twin(bench.model)
    session = predictor._session

    def published_way(k: int) -> None:
        with torch.no_grad():
            b2(published.open_one(paths[k], IMAGENET)[None]).softmax(1)

    def ours(k: int) -> None:
        predictor.predict([paths[k]])

    def bare(k: int) -> None:
        pixels = frame(pictures.open_picture(paths[k]), predictor.framing)
        session.run(["probabilities", "familiarity"], {"pixels": pixels[None]})

    def in_torch(k: int) -> None:
        with torch.inference_mode():
            eager(torch.from_numpy(squares[k][None].copy()))

    def in_onnxruntime(k: int) -> None:
        predictor.run(squares[k][None])

    def decode(k: int) -> None:
        pictures.open_picture(paths[k])

    def decode_and_resize(k: int) -> float:
        picture = pictures.open_picture(paths[k])
        clock = time.perf_counter()
        frame(picture, predictor.framing)
        return time.perf_counter() - clock

    return Race(
        {
            "EfficientNet-B2 eager": published_way,
            "predict": ours,
            "decode and onnxruntime": bare,
            "model in torch": in_torch,
            "model in onnxruntime": in_onnxruntime,
            "decoding": decode,
            "resizing": decode_and_resize,
        },
        bench.size.pictures,
        (
            Ratio(
                "one picture, file to answer",
                "EfficientNet-B2 eager",
                "predict",
                "torchvision EfficientNet-B2 at 224 px in torch; random weights cost the same",
                aim=15,
                parts=("model in onnxruntime", "decoding", "resizing"),
            ),
            Ratio(
                "the deployed model alone",
                "model in torch",
                "model in onnxruntime",
                "the same layers in torch eager; random linear functions cost the same",
                aim=2.5,
                parts=("model in onnxruntime",),
            ),
            Ratio(
                "predict against decode + onnxruntime alone",
                "decode and onnxruntime",
                "predict",
                "nothing but decode, resize and session.run; within 1.15 times",
                aim=1 / 1.15,
                parts=("model in onnxruntime", "decoding", "resizing"),
            ),
        ),
    )


def folder(bench: Bench) -> Race:
    """A folder of pictures: one after another, and side by side."""
    paths = bench.paths(bench.size.folder)
    cores = os.cpu_count() or 1
    one_by_one = Predictor.load(bench.model)
    side_by_side = Predictor.load(bench.model, threads=1)
    eager = eager_twin(bench.model)

    def loop(_: int) -> None:
        for path in paths:
            one_by_one.predict([path])

    def stream(_: int) -> None:
        for _answer in side_by_side.stream(paths, workers=cores):
            pass

    def in_torch(_: int) -> None:
        for path in paths:
            pixels = frame(one_by_one.open(path), one_by_one.framing)
            with torch.inference_mode():
                eager(torch.from_numpy(pixels[None].copy()))

    return Race(
        {"one after another": loop, "side by side": stream, "torch, one after another": in_torch},
        bench.size.repetitions,
        (
            Ratio(
                f"folder of {len(paths)} pictures",
                "one after another",
                "side by side",
                "predict on one picture after another, the same model, all cores for each",
                aim=2,
            ),
            Ratio(
                f"folder of {len(paths)} pictures, against torch",
                "torch, one after another",
                "side by side",
                "the same model in torch eager, one picture after another",
            ),
        ),
    )


def start_up(bench: Bench) -> Race:
    """A fresh Python: importing torch, ``--help``, and one picture from nothing to its answer."""
    path = bench.paths(1)[0]
    program = (sys.executable, "-m", "batik_utils")

    def start(*words: str) -> Callable[[int], None]:
        def work(_: int) -> None:
            subprocess.run(words, check=True, capture_output=True, cwd=_root())

        return work

    reference_is = "a Python that imports torch and torchvision and does nothing"
    return Race(
        {
            "import torch": start(sys.executable, "-c", "import torch, torchvision"),
            "--help": start(*program, "--help"),
            "predict": start(*program, "predict", str(path), "--model", str(bench.model)),
        },
        bench.size.starts,
        (
            Ratio("--help", "import torch", "--help", reference_is, limit_s=0.3),
            Ratio("predict, one picture, cold", "import torch", "predict", reference_is, limit_s=1),
        ),
    )


# --- scale ------------------------------------------------------------------------------------


def scale(
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
    table = pd.DataFrame(rows).assign(**machine(), dataset=dataset.name)
    output.mkdir(parents=True, exist_ok=True)
    _write(table, output / "scale.csv")
    return table


def describe_scale(table: pd.DataFrame) -> str:
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
            f"{_seconds(rows['seconds_per_picture'].median())} each; the last quarter took "
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


# --- what else was tried ------------------------------------------------------------------------


def tried(dataset: Dataset, output: Path, *, model: Path | None = None) -> pd.DataFrame:
    """Time ways to compute that are not the default, and write ``tried.csv``.

    Args:
        dataset: pictures.
        output: folder of the table.
        model: folder of the deployed model; None for `predict.default_folder`.

    Returns:
        ``name`` of the way, ``against`` what, ``reference`` and ``measured`` (median seconds),
        ``ratio`` with its range, ``repetitions``, ``difference`` (largest, of features relative to
        their largest; of probabilities absolute), ``once_s`` (seconds that it costs once, such as
        compiling) and ``kept``.
    """
    rows = _tried_features(dataset) + _tried_training(dataset)
    rows += _tried_answers(dataset, model or predict.default_folder())
    table = pd.DataFrame(rows).assign(**machine(), dataset=dataset.name)
    output.mkdir(parents=True, exist_ok=True)
    _write(table, output / "tried.csv")
    return table


Way = Callable[[], np.ndarray]


def _tried_features(dataset: Dataset) -> list[dict]:
    """Features of a frozen backbone, sixteen pictures at once."""
    recipe = recipes.get("efficientnet_lite0")
    seen = models.preprocessing_of(recipe)
    with engine.seeded(0):
        classifier = models.build_untrained(recipe, 2)
    backbone = classifier.backbone.eval().to(memory_format=torch.channels_last)
    pixels = transforms.load_pixels(dataset, seen, progress=False)[:16]
    batch = transforms.EvalPreset(seen)(pixels)
    rows = batch.contiguous()

    def eager(mode: Callable, given: torch.Tensor, **cast: object) -> Way:
        def work() -> np.ndarray:
            with mode(), torch.autocast("cpu", torch.bfloat16, **(cast or {"enabled": False})):
                return backbone(given).float().numpy()

        return work

    def frozen() -> Way:
        with torch.inference_mode():
            traced = torch.jit.freeze(torch.jit.trace(backbone, batch))
        return lambda: _without_gradients(traced, batch)

    def compiled(freezing: bool) -> Callable[[], Way]:
        def make() -> Way:
            import torch._inductor.config as settings

            torch.compiler.reset()
            with settings.patch(freezing=freezing):
                fast = torch.compile(backbone)
                _without_gradients(fast, batch)

            def work() -> np.ndarray:
                with settings.patch(freezing=freezing):
                    return _without_gradients(fast, batch)

            return work

        return make

    return _compared(
        "features of a frozen backbone, 16 pictures",
        "eager, channels last, no gradients",
        lambda: eager(torch.no_grad, batch),
        {
            "usual memory layout": (lambda: eager(torch.no_grad, rows), "no"),
            "inference mode": (
                lambda: eager(torch.inference_mode, batch),
                "where no gradient follows: a head cannot learn from its tensors",
            ),
            "bfloat16": (
                lambda: eager(torch.no_grad, batch, enabled=True),
                "as the setting --precision bfloat16: features differ by more than 1e-4",
            ),
            "traced and frozen, batch norm folded": (frozen, "no: TorchScript is deprecated"),
            "torch.compile": (compiled(False), "no: see once_s"),
            "torch.compile, freezing": (compiled(True), "no: see once_s"),
        },
    )


def _tried_training(dataset: Dataset) -> list[dict]:
    """One step of scratch1, forward to optimiser."""
    recipe = recipes.get("scratch1")
    seen = models.preprocessing_of(recipe)
    pixels = transforms.load_pixels(dataset, seen, progress=False)[: recipe.batch_size]
    batch = transforms.EvalPreset(seen)(pixels)
    labels = torch.tensor(dataset.labels)[: len(batch)]

    def step(*, last: bool, fused: bool, mixed: bool = False, compiled: bool = False) -> Way:
        with engine.seeded(0):
            model = models.build_untrained(recipe, len(dataset.classes))
        given = batch if last else batch.contiguous()
        if last:
            model.to(memory_format=torch.channels_last)
        optimiser = torch.optim.Adam(model.parameters(), recipe.learning_rate, fused=fused)
        forward = torch.compile(model) if compiled else model

        def work() -> np.ndarray:
            optimiser.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                logits = forward(given)
            loss = nn.functional.cross_entropy(logits.float(), labels)
            loss.backward()
            optimiser.step()
            return np.array([loss.item()])

        if compiled:
            work()
        return work

    return _compared(
        "one step of scratch1",
        "channels last, fused Adam",
        lambda: step(last=True, fused=True),
        {
            "usual memory layout": (lambda: step(last=False, fused=True), "no"),
            "unfused Adam": (lambda: step(last=True, fused=False), "no"),
            "bfloat16": (
                lambda: step(last=True, fused=True, mixed=True),
                "as the setting --precision bfloat16",
            ),
            "torch.compile": (
                lambda: step(last=True, fused=True, compiled=True),
                "no: see once_s, of every process",
            ),
        },
    )


def _tried_answers(dataset: Dataset, model: Path) -> list[dict]:
    """The deployed model, and the way to it."""
    import onnxruntime

    cores = os.cpu_count() or 1
    predictor = Predictor.load(model, threads=cores)
    paths = dataset.paths[:: max(1, len(dataset.paths) // 16)][:16]
    squares = np.stack([frame(predictor.open(path), predictor.framing) for path in paths])

    def session(threads: int, at_once: int = 1, **entries: str) -> Callable[[], Way]:
        def make() -> Way:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            for key, value in entries.items():
                options.add_session_config_entry(f"session.{key.replace('__', '.')}", value)
            opened = onnxruntime.InferenceSession(
                (model / "model.onnx").read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            parts = np.split(squares, len(squares) // at_once)
            wanted = ["probabilities"]
            return lambda: np.concatenate([opened.run(wanted, {"pixels": p})[0] for p in parts])

        return make

    def from_files(at_least: int | None) -> Way:
        def work() -> np.ndarray:
            opened = (pictures.open_picture(path, at_least=at_least) for path in paths)
            stack = [frame(picture, predictor.framing) for picture in opened]
            return np.concatenate([predictor.run(one[None])[0] for one in stack])

        return work

    size = predictor.framing.size
    found = _compared(
        f"the deployed model on {len(squares)} pictures",
        f"one picture at once, {cores} threads",
        session(cores),
        {
            "one thread": (session(1), "for folders, one thread a picture"),
            "four pictures at once": (session(cores, 4), "no"),
            "sixteen pictures at once": (session(cores, 16), "with --threads above 1"),
            "no spinning threads": (
                session(cores, intra_op__allow_spinning="0"),
                "no: slower, if kinder to others",
            ),
        },
    )
    return found + _compared(
        f"{len(squares)} pictures, file to answer",
        "decoded in full",
        lambda: from_files(None),
        {
            "JPEG draft, at least the model's square": (
                lambda: from_files(size),
                "no: answers differ",
            ),
            "JPEG draft, at least twice the square": (
                lambda: from_files(2 * size),
                "no: few of the pictures are that large",
            ),
        },
    )


def _without_gradients(network: Callable, batch: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return network(batch).float().numpy()


def _compared(
    what: str,
    usual: str,
    make_usual: Callable[[], Way],
    others: dict[str, tuple[Callable[[], Way], str]],
    repetitions: int = 7,
) -> list[dict]:
    """Time other ways in turn with the usual one and compare what they give."""
    ways, once = {usual: make_usual()}, {}
    for name, (make, _) in others.items():
        clock = time.perf_counter()
        ways[name] = make()
        once[name] = time.perf_counter() - clock
    given = {name: way() for name, way in ways.items()}
    sides = {name: _ignoring_result(way) for name, way in ways.items()}
    seconds = timed(Race(sides, repetitions, ()))
    rows = []
    for name, (_, kept) in others.items():
        found = as_row(Ratio(f"{what}: {name}", usual, name, usual), seconds)
        difference = np.abs(given[name] - given[usual]).max() / max(1, np.abs(given[usual]).max())
        rows.append(
            {
                "name": f"{what}: {name}",
                "against": usual,
                **{k: found[k] for k in COLUMNS[1:6]},
                "repetitions": repetitions,
                "difference": difference,
                "once_s": once[name],
                "kept": kept,
            }
        )
    return rows


def _ignoring_result(way: Way) -> Callable[[int], None]:
    def work(_: int) -> None:
        way()

    return work


# --- helpers ----------------------------------------------------------------------------------


def eager_twin(folder: Path) -> nn.Module:
    """Return the deployed model's layers in torch, with random weights and linear functions.

    Args:
        folder: of the model; its ``metrics.json`` names what was chosen.

    Raises:
        BatikError: the folder does not say what the model is.
    """
    path = folder / "metrics.json"
    try:
        name = json.loads(path.read_text(encoding="utf-8"))["model"]["candidate"].split()[0]
        branches = final.subsets()[name]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BatikError(
            f"{path} does not name the layers of the model ({error!r}): use a model that "
            f"'python -m batik_utils build' made."
        ) from error
    network = embedding.build_untrained(branches)
    f = 2 * sum(sum(widths) for widths in network.widths())
    rng = np.random.default_rng(0)

    class Twin(nn.Module):
        """Backbone, motifs, energy, known less other, and distances to three means."""

        def __init__(self):
            super().__init__()
            self.network = network
            for key, shape in (("weight", (f, 7)), ("means", (3, f)), ("axes", (f, 100))):
                values = torch.tensor(rng.normal(size=shape), dtype=torch.float32)
                self.register_buffer(key, values)

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            features = self.network(pixels)
            values = features @ self.weight
            gaps = features[:, None] - self.means
            lengths = gaps.square().sum(2) - (gaps @ self.axes).square().sum(2)
            return values[:, :3].softmax(1), values[:, 3:].logsumexp(1) + lengths.amin(1)

    return Twin().eval()


def _published_b2() -> nn.Module:
    from torchvision.models import efficientnet_b2

    return efficientnet_b2(weights=None, num_classes=3).eval()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _divided(dataset: Dataset) -> tuple[list[int], list[int]]:
    """Return 80 % of the pictures to learn from and 10 % to watch, as published."""
    order = torch.randperm(len(dataset.labels), generator=_generator()).tolist()
    n = len(order)
    return sorted(order[: n * 8 // 10]), sorted(order[n * 8 // 10 : n * 9 // 10])


def _setup(bench: Bench, name: str, *, folds: bool) -> experiments.Setup:
    results = bench.scratchpad / "results" / name.replace(" ", "-")
    settings: dict = {}
    split = "stratified-0"
    if folds:
        split = "cv" if bench.groups else "cv-ungrouped"
        settings = {"folds": bench.size.folds, "repeats": bench.size.repeats}
        if bench.groups:
            place = results / bench.dataset.name
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(bench.groups, place / "duplicate_groups.csv")
    return experiments.prepare(
        bench.dataset,
        split,
        results=results,
        device="cpu",
        weights_directory=bench.weights_directory,
        **settings,
    )


@contextlib.contextmanager
def _cache_of_its_own() -> Iterator[Path]:
    """Yield a folder; meanwhile arrays are kept below it, so that the cache can be emptied."""
    with tempfile.TemporaryDirectory(prefix="batik-bench-") as place:
        original = array_cache.folder
        array_cache.folder = lambda: Path(place) / "arrays"
        try:
            yield Path(place)
        finally:
            array_cache.folder = original


def _root() -> Path:
    return Path(__file__).resolve().parents[1]


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 1000 else f"{value:,.0f} s"


def _write(table: pd.DataFrame, path: Path) -> None:
    partial = path.with_suffix(".partial")
    table.to_csv(partial, index=False, float_format="%.5g")
    partial.replace(path)


def _cpu() -> str:
    """Return the processor's name."""
    facts = Path("/proc/cpuinfo")
    if facts.is_file():
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
