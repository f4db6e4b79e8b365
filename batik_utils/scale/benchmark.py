"""Distance from the limit of the machine: ``make bench`` (``RAY=1``: also a second Ray worker).

In ``bench.csv``, ``ratio`` is limit / measured, so 1 is the limit; ``protocol`` alone is compared
with the published training loop. What else the machine does meets both sides: see `in_turn`.
"""

import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import psutil
import torch
from gradio_client import Client, handle_file
from PIL import Image
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from batik_utils import data, experiments, models, recipes, training, transforms
from batik_utils.app import server
from batik_utils.app.predict import Predictor
from batik_utils.checkpoints import Store
from batik_utils.data import Dataset
from batik_utils.evaluation import cost
from batik_utils.images import cache
from batik_utils.images.files import open_image
from batik_utils.images.resize import squash, to_pixels
from batik_utils.scale import ray_cluster, ray_jobs

#: Times that a row is measured; folds and repeats of the protocol; pictures, and those with Ray.
REPETITIONS, FOLDS, REPEATS, PICTURES, WITH_RAY = 4, 10, 5, 16, 1000
#: Rows that are timed half as often, and those with the seconds of one picture.
LONG, OF_A_PICTURE = ("frozen recipe", "protocol", "worker"), ("predict", "folder", "app")


def in_turn(sides: Sequence[Callable[[], object]], repetitions: int) -> np.ndarray:
    """Seconds (side, repetition) after a warm-up; a number that a side returns counts instead."""
    seconds = []
    for work in [*sides] * (repetitions + 1):
        began = time.perf_counter()
        counted = work()
        seconds.append(counted if isinstance(counted, float) else time.perf_counter() - began)
    return np.reshape(seconds, (-1, len(sides)))[1:].T


def run(dataset: Dataset, output: Path, *, model: str = "", ray: str = "") -> pd.DataFrame:
    """Time everything and write ``bench.csv`` and ``cost.csv``."""
    table, load = [], psutil.getloadavg()[0]
    with tempfile.TemporaryDirectory() as here, patch.dict(os.environ, BATIK_CACHE_DIR=f"{here}/c"):
        setup = experiments.prepare(dataset, "stratified-0", results=here)
        rows = _prediction(dataset, model) + _training(setup)
        rows += [_worker(dataset, model, ray)] if ray else []
        for name, *sides in tqdm(rows, desc="Bench", unit="row", disable=None):
            n = max(REPETITIONS // 2, 1) if name in LONG else REPETITIONS
            limit, measured = in_turn(sides, n) / (PICTURES if name in OF_A_PICTURE else 1)
            ratio = limit / measured
            medians = map(np.median, (limit, measured, ratio))
            table.append((name, *medians, ratio.min(), ratio.max(), n))
        setup.store = Store(output.parent / dataset.name / "cv")
        cost.measure(setup, "all", repetitions=REPETITIONS)
    columns = ["name", "reference", "measured", "ratio", "ratio_min", "ratio_max", "repetitions"]
    facts = {**machine(), "load_before": load, "dataset": dataset.name}
    written = pd.DataFrame(table, columns=columns).assign(**facts)
    data.write_table(written, output / "bench.csv", digits=5)
    return written


def _prediction(dataset: Dataset, model: str) -> list[tuple]:
    """Rows ``predict``, ``folder`` and ``app``: a picture from its file to the answer."""
    spread = np.linspace(0, len(dataset.paths) - 1, PICTURES, dtype=int)
    paths = [str(dataset.paths[k]) for k in spread]
    alone, shared = (Predictor.load(model or None, threads=threads) for threads in (0, 1))
    pool = ThreadPoolExecutor(os.cpu_count())
    folder = partial(shared.stream, paths, workers=os.cpu_count() or 1)
    client = Client(server.serve(shared, port=0, wait=False), verbose=False)
    ask, uploads = partial(client.predict, api_name="/classify"), [*map(handle_file, paths)]

    def bare(path: str, predictor: Predictor = shared) -> None:
        with Image.open(path) as picture:
            pixels = squash(picture.convert("RGB"), alone.size, alone.interpolation)
        predictor.run(pixels[None])

    return [
        ("predict", lambda: [bare(p, alone) for p in paths], partial(alone.predict, paths)),
        ("folder", lambda: [*pool.map(bare, paths)], lambda: [*folder()]),
        ("app", lambda: shared.predict(paths, details=True), lambda: [*map(ask, uploads)]),
    ]


def _training(setup: experiments.Setup) -> list[tuple]:
    """Rows ``scratch epoch``, ``frozen recipe`` and ``protocol``."""
    dataset, generator = setup.dataset, torch.Generator().manual_seed(0)
    scratch, recipe = replace(recipes.get("scratch1"), epochs=1), recipes.get("efficientnet_lite0")
    n_classes = len(dataset.classes)
    network = models.build_untrained(scratch, n_classes).to(memory_format=torch.channels_last)
    seen = models.preprocessing_of(scratch)
    batches = training.batches(setup.examples("train", seen), scratch, seen, generator)
    ready = list(batches)
    model, _ = models.build(recipe, n_classes)
    seen = models.preprocessing_of(recipe)
    views = partial(training.views_of, model, seen, setup.pixels(seen), recipe, generator)
    optimiser, labels = training.adam(model, recipe), torch.tensor(dataset.labels)
    in_training = torch.randperm(len(labels))[: len(labels) * (FOLDS - 1) // FOLDS]

    def passes() -> None:
        network.train()
        for batch, target in ready:
            cross_entropy(network(batch), target).backward()
        network.zero_grad()

    def published() -> float:
        began = time.perf_counter()
        for chosen in in_training.split(recipe.batch_size):
            pixels = [to_pixels(open_image(dataset.paths[k]), seen.size) for k in chosen]
            batch = transforms.normalise(torch.from_numpy(np.stack(pixels)), seen)
            training.train_step(model.train(), batch, labels[chosen], optimiser)
        return (time.perf_counter() - began) * recipe.epochs * FOLDS * REPEATS  # of one epoch

    def from_nothing(split: str, seeds: int) -> None:
        shutil.rmtree(cache.folder(), ignore_errors=True)
        with tempfile.TemporaryDirectory() as folder:
            sizes = {"results": folder, "folds": FOLDS, "repeats": REPEATS}
            experiments.run_grid(experiments.prepare(dataset, split, **sizes), recipe.name, seeds)

    return [
        ("scratch epoch", passes, partial(training.fit, network, scratch, batches)),
        ("frozen recipe", views, partial(from_nothing, "stratified-0", 1)),
        ("protocol", published, partial(from_nothing, "cv-ungrouped", REPEATS)),
    ]


def _worker(dataset: Dataset, model: str, ray: str) -> tuple:
    """Row ``worker``: two Ray workers, beside half the time of one."""
    predictor = Predictor.load(model or None, threads=1)
    paths = [str(dataset.paths[k % len(dataset.paths)]) for k in range(WITH_RAY)]

    def seconds(workers: int) -> float:
        with ray_cluster.connected(ray, cpus=workers):
            for listed in (paths[:64] * workers, paths):  # the first ones start the workers
                began = time.perf_counter()
                list(ray_jobs.stream(ray_jobs.find(listed), predictor, ray=ray))
            return (time.perf_counter() - began) * workers / 2

    return "worker", partial(seconds, 1), partial(seconds, 2)


def machine() -> dict[str, str | int]:
    """What the times were measured with."""
    facts = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", facts.read_text()) if facts.is_file() else None
    return {
        "cpu": named[1] if named else platform.processor(),
        "cores": os.cpu_count() or 1,
        "torch_threads": torch.get_num_threads(),
        **{name: version(name) for name in ("torch", "onnxruntime", "pillow")},
        "python": platform.python_version(),
        "date": date.today().isoformat(),
    }
