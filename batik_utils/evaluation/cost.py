"""What a classifier costs when it is used: time for one picture, and size on disk.

    >>> from batik_utils.evaluation import cost
    >>> cost.measure(setup, "majority,mobilenet_v2_probe")

Introduced in notebook 04, section "Cost against accuracy".
"""

import pickle
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from batik_utils import baselines, models, recipes, splits
from batik_utils import training as engine
from batik_utils.app import onnx_session
from batik_utils.experiments import Setup
from batik_utils.images.resize import IMAGENET
from batik_utils.recipes import Recipe

COLUMNS = ("recipe", "latency_ms", "megabytes", "threads", "device", "torch")
#: Name of the final model's row.
FINAL = "final"
#: Passes that are timed, after as many to warm up.
REPETITIONS = 20


def measure(
    setup: Setup, names: str, *, repetitions: int = REPETITIONS, progress: bool = True
) -> pd.DataFrame:
    """Measure recipes and write ``cost.csv``; rows of other recipes stay.

    Args:
        setup: data set, split, device.
        names: see `recipes.select`; a recipe's weights are random here, which costs the same.
        repetitions: passes that are timed.
        progress: show a bar.

    Returns:
        One row a recipe: ``recipe``; ``latency_ms``, median milliseconds from decoded pixels to
        probabilities of one picture, in float32 without compilation; ``megabytes`` (10^6 bytes) of
        its parameters and buffers, or of a pickled baseline; ``threads, device, torch``. The data
        set's final model, if it has one, is measured with them: its ONNX file, by onnxruntime.
    """
    jobs = []
    for recipe in recipes.select(names):
        build = _baseline if recipe.family == "baseline" else _network
        device = "cpu" if recipe.family == "baseline" else setup.device.type
        jobs.append((recipe.name, device, partial(build, setup, recipe)))
    model = setup.store.folder.parent / "model" / "model.onnx"
    if model.is_file():
        jobs.append((FINAL, "cpu", partial(_onnx, model)))
    rows = []
    for name, device, build in tqdm(jobs, desc="Costs", unit="recipe", disable=not progress):
        predict, size = build()
        rows.append(
            {
                "recipe": name,
                "latency_ms": 1000 * _median_seconds(predict, repetitions),
                "megabytes": size / 1e6,
                "threads": torch.get_num_threads(),
                "device": device,
                "torch": str(torch.__version__),
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    path = setup.store.folder / "cost.csv"
    there = read(setup.store.folder)
    others = there[~there["recipe"].isin(table["recipe"])]
    table = pd.concat([others, table], ignore_index=True) if len(others) else table
    place = {name: k for k, name in enumerate([*recipes.RECIPES, FINAL])}
    table = table.sort_values("recipe", key=lambda c: c.map(place), ignore_index=True)
    splits.save(table.round({"latency_ms": 2, "megabytes": 3}), path)
    return table


def read(folder: Path) -> pd.DataFrame:
    """Return ``cost.csv`` of a split's folder; empty if nothing was measured."""
    path = folder / "cost.csv"
    return pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=list(COLUMNS))


def _network(setup: Setup, recipe: Recipe) -> tuple[Callable[[], object], int]:
    model = models.build_untrained(recipe, len(setup.dataset.classes)).to(setup.device)
    model.to(memory_format=torch.channels_last)
    seen = models.preprocessing_of(recipe)
    pixels = torch.zeros(1, 3, seen.size, seen.size, dtype=torch.uint8)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return lambda: engine.predict(model, seen, pixels), size


def _baseline(setup: Setup, recipe: Recipe) -> tuple[Callable[[], object], int]:
    name = recipe.architecture
    labels = np.array(setup.dataset.labels)
    classifier = baselines.BASELINES[name].classifier(0).fit(setup.described(name), labels)
    manifest = setup.dataset.manifest.iloc[:1]
    pixels = setup.pixels(IMAGENET)[:1].numpy()
    describe = baselines.BASELINES[name].describe
    return (
        lambda: classifier.predict_proba(describe(manifest, pixels)),
        len(pickle.dumps(classifier)),
    )


def _onnx(path: Path) -> tuple[Callable[[], object], int]:
    session = onnx_session.open_session(path, torch.get_num_threads())
    given = session.get_inputs()[0]
    pixels = np.zeros((1, *given.shape[1:]), np.uint8)
    return lambda: session.run(None, {given.name: pixels}), path.stat().st_size


def _median_seconds(work: Callable[[], object], repetitions: int) -> float:
    seconds = []
    for number in range(2 * repetitions):
        start = time.perf_counter()
        work()
        if number >= repetitions:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
