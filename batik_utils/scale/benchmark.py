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
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm.auto import tqdm

from batik_utils import experiments, models, recipes, splits, transforms
from batik_utils import training as engine
from batik_utils.app import predict
from batik_utils.app.predict import Predictor
from batik_utils.classifier import embedding, final
from batik_utils.data import Dataset
from batik_utils.errors import PROJECT, BatikError
from batik_utils.images import cache as array_cache
from batik_utils.images import files
from batik_utils.images.resize import IMAGENET, frame
from batik_utils.recipes import Recipe
from batik_utils.scale import published, timing
from batik_utils.scale.timing import Race, Ratio
from batik_utils.weights import WeightsNotFound

log = logging.getLogger(__name__)

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
            found = timing.timed(race)
            times += [
                {"name": maker.__name__, "side": side, "repetition": k, "seconds": s}
                for side, seconds in found.items()
                for k, s in enumerate(seconds, 1)
            ]
            rows += [timing.as_row(ratio, found) for ratio in race.ratios]
            # the next race starts from an empty folder
            shutil.rmtree(array_cache.folder(), ignore_errors=True)
    facts = timing.machine() | {"dataset": dataset.name}
    table = pd.DataFrame(rows, columns=list(timing.COLUMNS)).assign(**facts)
    timing.write(table, output / "bench.csv")
    timing.write(
        pd.DataFrame(times, columns=list(timing.REPETITION_COLUMNS)), output / "repetitions.csv"
    )
    return table


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

    def measured(model: nn.Module, precision: str) -> Callable[[int], None]:
        def work(_: int) -> None:
            # mapped from the cache folder, where the warm-up left it
            pixels = transforms.load_pixels(bench.dataset, seen)
            examples = engine.Examples(pixels[train], labels[train])
            batches = engine.batches(examples, recipe, seen, _generator())
            engine.fit(model, recipe, batches, precision=precision)

        return work

    def decode(_: int) -> None:
        for index in train:
            published.open_one(bench.dataset.paths[index], seen)

    pixels = transforms.load_pixels(bench.dataset, seen)[train]

    def passes(_: int) -> None:
        fast.train()
        order = torch.arange(len(train))
        for chosen in order.split(recipe.batch_size):
            logits = fast(transforms.augment(pixels[chosen], seen, recipe, _generator()))
            nn.functional.cross_entropy(logits, labels[train][chosen]).backward()
        fast.zero_grad()

    return Race(
        {
            "published loop": reference,
            "kept pixels": measured(fast, "float32"),
            "kept pixels, bfloat16": measured(mixed, "bfloat16"),
            "forward and backward": passes,
            "decoding": decode,
        },
        bench.size.repetitions,
        (
            Ratio(
                f"one epoch of {recipe.name}",
                "published loop",
                "kept pixels",
                "published loop, the same losses",
                aim=4,
                parts=("forward and backward",),
                reference_parts=("decoding",),
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
        model, _ = models.build(recipe, len(bench.dataset.classes), bench.weights_directory)

    def reference(_: int) -> None:
        published.fit(
            slow, recipe, seen, bench.dataset, train, validation, generator=_generator(), epochs=1
        )

    def first(_: int) -> None:
        shutil.rmtree(array_cache.folder(), ignore_errors=True)
        again(0)

    def again(_: int) -> None:
        experiments.train(_setup(bench, "frozen", folds=False), recipe, 0, test=False)

    def decode(_: int) -> None:
        shutil.rmtree(array_cache.folder(), ignore_errors=True)
        transforms.load_pixels(bench.dataset, seen)

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
        experiments.run_grid(setup, recipe.name, size.repeats)

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

    def b2_alone(k: int) -> float:
        batch = published.open_one(paths[k], IMAGENET)[None]
        clock = time.perf_counter()
        with torch.no_grad():
            b2(batch)
        return time.perf_counter() - clock

    def ours(k: int) -> None:
        predictor.predict([paths[k]])

    def bare(k: int) -> None:
        pixels = frame(files.open_image(paths[k]), predictor.framing)
        session.run(["probabilities", "familiarity"], {"pixels": pixels[None]})

    def in_torch(k: int) -> None:
        with torch.inference_mode():
            eager(torch.from_numpy(squares[k][None].copy()))

    def in_onnxruntime(k: int) -> None:
        predictor.run(squares[k][None])

    def decode(k: int) -> None:
        files.open_image(paths[k])

    def decode_and_resize(k: int) -> float:
        picture = files.open_image(paths[k])
        clock = time.perf_counter()
        frame(picture, predictor.framing)
        return time.perf_counter() - clock

    return Race(
        {
            "EfficientNet-B2 eager": published_way,
            "its network": b2_alone,
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
                reference_parts=("its network",),
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
    return PROJECT
