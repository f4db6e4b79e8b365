"""Other ways to compute than the ones in use, timed against these: what would they give?

    python -m batik_utils bench --tried --data folder --root path/to/pictures

Introduced in notebook 04, section "How fast".
"""

import copy
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from batik_utils import engine, models, pictures, predict, recipes, timing, transforms
from batik_utils.data import Dataset
from batik_utils.predict import Predictor
from batik_utils.preprocessing import frame
from batik_utils.timing import Race, Ratio

Way = Callable[[], np.ndarray]


def run(dataset: Dataset, output: Path, *, model: Path | None = None) -> pd.DataFrame:
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
    table = pd.DataFrame(rows).assign(**timing.machine(), dataset=dataset.name)
    output.mkdir(parents=True, exist_ok=True)
    timing.write(table, output / "tried.csv")
    return table


def _tried_features(dataset: Dataset) -> list[dict]:
    """Features of a frozen backbone, sixteen pictures at once."""
    recipe = recipes.get("efficientnet_lite0")
    seen = models.preprocessing_of(recipe)
    with engine.seeded(0):
        classifier, _ = models.build(recipe, 2)
    backbone = classifier.backbone.eval().to(memory_format=torch.channels_last)
    pixels = transforms.load_pixels(dataset, seen, progress=False)[:16]
    batch = transforms.EvalPreset(seen)(pixels)

    def eager(mode: Callable, *, last: bool = True, mixed: bool = False) -> Way:
        layout = torch.channels_last if last else torch.contiguous_format
        network = copy.deepcopy(backbone).to(memory_format=layout)
        given = batch.contiguous(memory_format=layout)

        def work() -> np.ndarray:
            with mode(), torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                return network(given).float().numpy()

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
        lambda: eager(torch.no_grad),
        {
            "usual memory layout": (lambda: eager(torch.no_grad, last=False), "no"),
            "inference mode": (
                lambda: eager(torch.inference_mode),
                "where no gradient follows: a head cannot learn from its tensors",
            ),
            "bfloat16": (
                lambda: eager(torch.no_grad, mixed=True),
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

        if compiled:  # both passes, without a step
            forward(given).sum().backward()
            optimiser.zero_grad()
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

    path = model / "model.onnx"

    def session(threads: int, at_once: int = 1, **entries: str) -> Callable[[], Way]:
        def make() -> Way:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            options.log_severity_level = 3  # errors only
            for key, value in entries.items():
                options.add_session_config_entry(f"session.{key.replace('__', '.')}", value)
            opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
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
                "no: it helps only where others use the cores",
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
    seconds = timing.timed(Race(sides, repetitions, ()))
    rows = []
    for name, (_, kept) in others.items():
        found = timing.as_row(Ratio(f"{what}: {name}", usual, name, usual), seconds)
        difference = np.abs(given[name] - given[usual]).max() / max(1, np.abs(given[usual]).max())
        rows.append(
            {
                "name": f"{what}: {name}",
                "against": usual,
                **{k: found[k] for k in timing.COLUMNS[1:6]},
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
