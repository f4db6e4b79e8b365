"""Cost of using a classifier: size on disk and time for one picture.

The command ``bench`` calls `measure` and so writes ``cost.csv``. Used in notebook 04.
"""

import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from timeit import repeat

import numpy as np
import pandas as pd
import torch

from batik_utils import baselines, data, models, recipes, training
from batik_utils.evaluation.out_of_fold import FINAL
from batik_utils.experiments import Setup
from batik_utils.images.resize import IMAGENET

Work = tuple[Callable[[], object], int]


def measure(setup: Setup, names: str, *, repetitions: int = 20) -> pd.DataFrame:
    """Measure recipes and the data set's final model, and write ``cost.csv``; other rows stay.

    ``recipe``; ``latency_ms``: median from decoded pixels to probabilities of one picture, float32;
    ``megabytes`` (10^6 bytes) of parameters and buffers, of a pickled baseline, or of the final
    model's ONNX file; ``threads, device, torch``. Weights are random, which costs the same.
    """
    jobs = {
        recipe.name: partial(_baseline if recipe.family == "baseline" else _network, setup, recipe)
        for recipe in recipes.select(names)
    }
    onnx = setup.store.folder.parent / "model" / "model.onnx"
    if onnx.is_file():
        jobs[FINAL] = partial(_onnx, onnx)
    rows = []
    for name, make in jobs.items():
        work, size = make()
        seconds = repeat(work, number=1, repeat=2 * repetitions)[repetitions:]  # after a warm-up
        cpu = make.func is not _network
        device = "cpu" if cpu else setup.device.type
        rows.append((name, 1000 * np.median(seconds), size / 1e6, device))
    table = pd.DataFrame(rows, columns=["recipe", "latency_ms", "megabytes", "device"])
    table = table.assign(threads=torch.get_num_threads(), torch=str(torch.__version__))
    table = table.round({"latency_ms": 2, "megabytes": 3})
    path = setup.store.folder / "cost.csv"
    if path.is_file():
        old = data.read_table(path)
        table = pd.concat([old[~old["recipe"].isin(table["recipe"])], table], ignore_index=True)
    place = {name: k for k, name in enumerate([*recipes.RECIPES, FINAL])}
    table = table.sort_values("recipe", key=lambda column: column.map(place), ignore_index=True)
    data.write_table(table, path)
    return table


def _network(setup: Setup, recipe: recipes.Recipe) -> Work:
    model = models.build_untrained(recipe, len(setup.dataset.classes)).to(setup.device)
    model.to(memory_format=torch.channels_last)
    seen = models.preprocessing_of(recipe)
    pixels = torch.zeros(1, 3, seen.size, seen.size, dtype=torch.uint8)
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    return partial(training.predict, model, seen, pixels), size


def _baseline(setup: Setup, recipe: recipes.Recipe) -> Work:
    baseline = baselines.BASELINES[recipe.architecture]
    labels = np.array(setup.dataset.labels)
    fitted = baseline.classifier(0).fit(setup.described(recipe.architecture), labels)
    row, pixels = setup.dataset.manifest.iloc[:1], setup.pixels(IMAGENET)[:1].numpy()
    size = len(pickle.dumps(fitted))
    return lambda: fitted.predict_proba(baseline.describe(row, pixels)), size


def _onnx(path: Path) -> Work:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = session.get_inputs()[0]
    pixels = np.zeros((1, *given.shape[1:]), np.uint8)
    return partial(session.run, None, {given.name: pixels}), path.stat().st_size
