"""Cost of using a classifier: size on disk and time for one picture (``cost.csv``)."""

import pickle
from functools import partial
from timeit import repeat

import numpy as np
import pandas as pd
import torch

from batik_utils import baselines, data, models, recipes, training
from batik_utils.evaluation.out_of_fold import FINAL
from batik_utils.experiments import Setup
from batik_utils.images.resize import IMAGENET


def measure(setup: Setup, names: str, *, repetitions: int = 20) -> pd.DataFrame:
    """Measure recipes and the data set's final model, and write ``cost.csv``.

    The columns are explained in results/README.md. Weights are random, which costs the same.
    """
    rows, onnx = [], setup.store.folder.parent / "model" / "model.onnx"
    for recipe in [*recipes.select(names), *([onnx] if onnx.is_file() else [])]:
        if recipe is onnx:
            import onnxruntime

            session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
            given = session.get_inputs()[0]
            pixels = {given.name: np.zeros((1, *given.shape[1:]), np.uint8)}
            name, size, work = FINAL, onnx.stat().st_size, partial(session.run, None, pixels)
        elif recipe.family == "baseline":
            kind, dataset = baselines.BASELINES[recipe.architecture], setup.dataset
            fitted = kind.classifier(0)
            fitted.fit(setup.described(recipe.architecture), np.array(dataset.labels))
            given = dataset.manifest.iloc[:1], setup.pixels(IMAGENET)[:1].numpy()
            name, size = recipe.name, len(pickle.dumps(fitted))
            work = partial(lambda f, k, g: f.predict_proba(k.describe(*g)), fitted, kind, given)
        else:
            model = models.build_untrained(recipe, len(setup.dataset.classes))
            model.to(setup.device, memory_format=torch.channels_last)
            name, seen = recipe.name, models.preprocessing_of(recipe)
            pixels = torch.zeros(1, 3, seen.size, seen.size, dtype=torch.uint8)
            size = sum(tensor.nbytes for tensor in model.state_dict().values())
            work = partial(training.predict, model, seen, pixels)
        seconds = repeat(work, number=1, repeat=2 * repetitions)[repetitions:]  # after a warm-up
        rows.append((name, round(1000 * float(np.median(seconds)), 2), round(size / 1e6, 3)))
    table = pd.DataFrame(rows, columns=["recipe", "latency_ms", "megabytes"])
    made_with = {"device": setup.device.type, "torch": str(torch.__version__)}
    table = table.assign(threads=torch.get_num_threads(), **made_with)
    data.write_table(table, setup.store.folder / "cost.csv")
    return table
