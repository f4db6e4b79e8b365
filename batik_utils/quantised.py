"""The deployed model with eight-bit numbers, and whether that is worth it.

    python -m batik_utils export --format int8 --data folder --root path/to/pictures
    python -m batik_utils formats --data folder --root path/to/pictures     # the comparison

Convolutions, nearly all of the work, are computed with 8-bit integers: weights by channel, maps by
ranges that pictures of other motifs decide, so that no picture which is tested has a part in them.
What follows them (statistics of the maps, linear functions) stays as it is. ``formats`` measures
what that costs and gives in the grouped folds, and writes ``<data set>/cv/formats.csv``.

Sources: Jacob et al. (2018), Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference; https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html.
Introduced in notebook 05.
"""

import hashlib
import logging
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import Tensor, nn
from tqdm.auto import tqdm

from batik_utils import (
    build,
    embedding,
    export,
    final,
    foreign,
    formats,
    linear,
    pictures,
    predict,
    selection,
    significance,
    splits,
)
from batik_utils.data import Dataset
from batik_utils.errors import BatikError

#: Pictures of other motifs that decide the ranges of the maps.
CALIBRATION = 48
#: Accuracy that eight bits may cost, share of pictures that they must judge alike, and the time of
#: the deployed file that they must save, to be kept.
LOSS, ALIKE, SAVED = 0.01, 0.95, 0.1
#: Passes of each format, alternating with the deployed one.
PASSES = 30
#: Rows of the table, from top to bottom.
ORDER = ("onnx", "int8", "int8 refitted", "int8 dynamic", "safetensors", "pt")
COLUMNS = (
    "format",
    "megabytes",
    "ms",
    "ms_onnx",
    "ratio",
    "largest_difference",
    "same_motif",
    "same_verdict",
    "accuracy",
    "lower",
    "upper",
    "change",
    "change_lower",
    "change_upper",
    "nll",
    "auroc",
    "pictures",
    "repeats",
    "processor",
    "onnxruntime",
)

_NOTE = (
    "> Eight-bit copy, made by `python -m batik_utils export --format int8`. The results below are "
    "those of the float model; what rounding does to them is in `cv/formats.csv`.\n\n"
)


def write(folder: Path | str | None, pixels: Sequence[np.ndarray], target: Path) -> Path:
    """Write the model folder with an 8-bit ``model.onnx``, which the application can open.

    Args:
        folder: the model; None takes `predict.default_folder`.
        pixels: uint8 (S, S, 3) of each picture that decides the ranges of the maps.
        target: where to.

    Returns:
        The folder.

    Raises:
        BatikError: no pictures, or the model is not whole.
    """
    source = predict.default_folder() if folder is None else Path(folder)
    predict.verify(source)
    if not len(pixels):
        raise BatikError("Eight-bit numbers need pictures that decide their ranges.")
    formats.copy_folder(source, target)
    # what was measured on the float model is not true of this one
    (target / "metrics.json").unlink(missing_ok=True)
    card = target / "MODEL_CARD.md"
    if card.is_file():
        card.write_text(_NOTE + card.read_text(encoding="utf-8"), encoding="utf-8")
    quantise(source / "model.onnx", target / "model.onnx", pixels)
    build.write_sums(target)
    predict.Predictor.load(target, threads=1)
    return target


def quantise(source: Path, target: Path, pixels: Sequence[np.ndarray] | None) -> Path:
    """Write an ONNX file whose convolutions are computed with 8-bit integers.

    Args:
        source: ONNX file with input ``pixels``.
        target: the new file.
        pixels: uint8 (S, S, 3) of each picture that decides the ranges of the maps ("static");
            None leaves the ranges to each run ("dynamic").
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(pixels or ())

        def get_next(self) -> dict[str, np.ndarray] | None:
            one = next(self.left, None)
            return None if one is None else {"pixels": one[None]}

    import onnxruntime

    root = logging.getLogger()
    level = root.level
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # it logs advice to the root logger, and has no other switch
        root.setLevel(logging.ERROR)
        onnxruntime.set_default_logger_severity(3)
        try:
            merged = Path(scratch) / "merged.onnx"
            # batch norm goes into the kernels first
            quant_pre_process(str(source), str(merged), skip_symbolic_shape=True)
            only = {"op_types_to_quantize": ["Conv"], "per_channel": True}
            if pixels is None:
                # the dynamic operator knows unsigned weights alone
                quantize_dynamic(merged, target, weight_type=QuantType.QUInt8, **only)
            else:
                quantize_static(
                    merged,
                    target,
                    Reader(),
                    quant_format=QuantFormat.QDQ,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                    **only,
                )
        finally:
            root.setLevel(level)
            onnxruntime.set_default_logger_severity(2)  # warnings, as it starts
    return target


class Features(nn.Module):
    """The features that an ONNX model computes on its way, in the form of `embedding.Embedding`.

    Args:
        path: ONNX file of `batik_utils.final`'s network, of any precision.
    """

    def __init__(self, path: Path):
        import onnx
        import onnxruntime

        super().__init__()
        content = path.read_bytes()
        # tells the cache of features one file from another
        digest = np.frombuffer(hashlib.sha256(content).digest(), np.uint8).copy()
        self.register_buffer("digest", torch.from_numpy(digest))
        model = onnx.load_from_string(content)
        readers = [node for node in model.graph.node if "weight" in node.input]
        if len(readers) != 1:
            raise BatikError(f"{path} has no linear functions of features: it is another network.")
        name = readers[0].input[0]
        model.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", None])
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._name = name
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Return (N, F) float32 features of uint8 pixels (N, S, S, 3)."""
        return torch.from_numpy(self._session.run([self._name], {"pixels": pixels.numpy()})[0])


def calibration_pixels(dataset: Dataset, home: Path) -> list[np.ndarray]:
    """Return pixels of `CALIBRATION` pictures of other motifs, spread evenly over them.

    Args:
        dataset: pictures of the motifs, below a root that also holds other motifs.
        home: results folder of the data set, with ``duplicate_groups.csv``.

    Raises:
        BatikError: there is no such table, or it knows no other motifs.
    """
    groups = build.read_table(home / "duplicate_groups.csv", "audit")
    others = final.other_pictures(groups, dataset.classes)["path"]
    places = np.linspace(0, len(others) - 1, min(CALIBRATION, len(others))).round().astype(int)
    return [
        embedding.pixels_of(pictures.open_picture(dataset.root / path))
        for path in others.iloc[places]
    ]


def compare(
    dataset: Dataset,
    results: Path,
    folder: Path | str | None = None,
    *,
    progress: bool = True,
) -> Path:
    """Compare all formats of the deployed model, and write ``<data set>/cv/formats.csv``.

    Accuracy, log-loss and AUROC are those of the deployed candidate in the grouped folds, learned
    anew in each from the features of the format: of ``onnx`` from the model as it is; of ``int8``
    with linear functions that were learned from the float features and are given 8-bit ones; of
    ``int8 refitted`` with functions learned from 8-bit features. The candidate was chosen on all
    pictures, so the differences are the finding here, not the height.

    Args:
        dataset: pictures of the motifs, below a root that also holds other motifs.
        results: the results folder, with ``duplicate_groups.csv`` and ``cv/folds.csv``.
        folder: the model; None takes `predict.default_folder`.
        progress: show bars.

    Returns:
        The table's path.

    Raises:
        BatikError: a file that is needed is missing or belongs to other pictures.
    """
    home = results / dataset.name
    groups = build.read_table(home / "duplicate_groups.csv", "audit")
    folds = build.read_table(home / "cv" / "folds.csv", "train --grid cv")
    if set(folds["dataset"]) != {dataset.digest}:
        raise BatikError(f"{home / 'cv' / 'folds.csv'} divides other pictures: make it again.")
    folds = folds.set_index("path").loc[dataset.manifest["path"]].reset_index()
    fold_of = folds[[c for c in folds if c.startswith("repeat_")]].to_numpy()
    source = predict.default_folder() if folder is None else Path(folder)
    model = formats.from_onnx(source)
    with tempfile.TemporaryDirectory() as scratch:
        room = Path(scratch)
        files = {"onnx": source / "model.onnx"}
        files["int8"] = quantise(
            files["onnx"], room / "int8.onnx", calibration_pixels(dataset, home)
        )
        files["int8 dynamic"] = quantise(files["onnx"], room / "dynamic.onnx", None)
        saved = {
            name: formats.save(model, room / f"model.{name}") for name in ("safetensors", "pt")
        }
        rows = _same_answers(dataset, groups, source, files, saved, progress)
        material = {
            name: _material(Features(path), model, dataset, groups, progress=progress)
            for name, path in files.items()
        }
    scores = _scores(material, model.candidate, fold_of, progress)
    for name, values in scores.items():
        rows.setdefault(name, {}).update(values)
    ordered = [name for name in ORDER if name in rows]
    table = pd.DataFrame([{"format": name, **rows[name]} for name in ordered])
    table["pictures"], table["repeats"] = len(dataset.labels), fold_of.shape[1]
    numbers = table.select_dtypes("float").columns
    table[numbers] = table[numbers].map(lambda value: float(f"{value:.4g}"))
    path = home / "cv" / "formats.csv"
    splits.save(table.reindex(columns=list(COLUMNS)), path)
    return path


def read(folder: Path) -> pd.DataFrame:
    """Return ``formats.csv`` of a split's folder.

    Raises:
        BatikError: there is none.
    """
    return build.read_table(folder / "formats.csv", "formats")


def describe(table: pd.DataFrame) -> str:
    """Return whether eight bits are worth it, as Markdown."""
    row = table.set_index("format").loc["int8"]
    reasons = {
        f"accuracy in the grouped folds changes by {100 * row['change']:+.1f} points "
        f"[{100 * row['change_lower']:+.1f}, {100 * row['change_upper']:+.1f}]": row["change"]
        >= -LOSS,
        f"{row['same_verdict']:.0%} of the pictures get the same verdict": row["same_verdict"]
        >= ALIKE,
        f"a picture takes {row['ratio']:.2f} times as long": row["ratio"] <= 1 - SAVED,
    }
    kept = all(reasons.values())
    return (
        f"Eight bits are **{'worth it' if kept else 'not kept'}**: {', '.join(reasons)}, and the "
        f"file has {row['megabytes']:.1f} MB."
    )


def alternating(works: dict[str, Callable[[], object]], passes: int = PASSES) -> dict[str, float]:
    """Return the median milliseconds of each work, one pass of each after the other.

    So what else the machine does meets all alike.
    """
    spent: dict[str, list[float]] = {name: [] for name in works}
    for number in range(passes + 3):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if number >= 3:
                spent[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in spent.items()}


def _same_answers(
    dataset: Dataset,
    groups: pd.DataFrame,
    source: Path,
    files: dict[str, Path],
    saved: dict[str, Path],
    progress: bool,
) -> dict[str, dict]:
    """Return by format: size, milliseconds, and agreement with the deployed file."""
    import onnxruntime

    predictor = predict.Predictor.load(source, threads=1)
    runs: dict[str, Callable] = {}
    for name, path in files.items():
        session = export.open_session(path)
        runs[name] = lambda x, s=session: s.run(["probabilities", "familiarity"], {"pixels": x})
    for name, path in saved.items():
        runs[name] = formats.load(path).predict
    others = final.other_pictures(groups, dataset.classes)["path"]
    paths = [*dataset.paths, *(dataset.root / path for path in others)]
    found = {name: ([], []) for name in runs}
    for path in tqdm(paths, desc="Answers", unit="picture", disable=not progress):
        pixels = embedding.pixels_of(pictures.open_picture(path))[None]
        for name, run in runs.items():
            # the torch formats only have to be the same network
            if name in saved and path not in dataset.paths[::10]:
                continue
            for kept, values in zip(found[name], run(pixels), strict=True):
                kept.append(values[0])
    ours = [np.array(values) for values in found["onnx"]]
    verdicts = [predictor.judge("", p, f) for p, f in zip(*ours, strict=True)]
    rows = {}
    for name in runs:
        p, f = (np.array(values) for values in found[name])
        asked = (
            np.arange(len(paths)) if len(p) == len(paths) else np.arange(0, len(dataset.paths), 10)
        )
        motifs = asked < len(dataset.paths)
        theirs = [predictor.judge("", a, b) for a, b in zip(p, f, strict=True)]
        size = (files.get(name) or saved[name]).stat().st_size
        rows[name] = {
            "megabytes": size / 1e6,
            "largest_difference": float(np.abs(p - ours[0][asked])[motifs].max()),
            "same_motif": float((p.argmax(1) == ours[0][asked].argmax(1))[motifs].mean()),
            "same_verdict": statistics.fmean(
                (a.verdict, a.motif) == (verdicts[i].verdict, verdicts[i].motif)
                for a, i in zip(theirs, asked, strict=True)
            ),
            "processor": _processor(),
            "onnxruntime": onnxruntime.__version__,
        }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, run in runs.items():
            pair = {"onnx": runs["onnx"], name: run}
            spent = alternating({key: lambda r=r: r(pixels) for key, r in pair.items()})
            rows[name] |= {
                "ms": spent[name],
                "ms_onnx": spent["onnx"],
                "ratio": spent[name] / spent["onnx"],
            }
    finally:
        torch.set_num_threads(threads)
    return rows


def _material(
    network: nn.Module,
    model: formats.TorchModel,
    dataset: Dataset,
    groups: pd.DataFrame,
    *,
    progress: bool,
) -> final.Material:
    """Return the features of one format, as `final.gather` does for the torch network."""
    branches, widths = model.branches, model.network.network.widths()
    store = final.FeatureCache(network, embedding.SIZE)
    group_of = dict(zip(groups["path"], groups["group"], strict=True))
    others = final.other_pictures(groups, dataset.classes)
    other_paths = [dataset.root / path for path in others["path"]]
    paths = dataset.manifest["path"].to_numpy()
    features = store.features(dataset.paths, progress=progress)
    return final.Material(
        paths=paths,
        labels=np.asarray(dataset.labels),
        groups=np.asarray([group_of[path] for path in paths]),
        features=features,
        copies=tuple(
            store.features(dataset.paths, copy=k, progress=progress)
            for k in range(1, final.COPIES + 1)
        ),
        others=others,
        other_features=store.features(other_paths, progress=progress),
        foreign={
            kind: store.features(found, progress=progress)
            for kind, found in foreign.pictures().items()
        },
        columns={"all": np.arange(features.shape[1])},
        typical={"all": final.near_places(branches, widths, branches)},
    )


def _scores(
    material: dict[str, final.Material], candidate: str, fold_of: np.ndarray, progress: bool
) -> dict[str, dict]:
    """Return by format: accuracy, its change, log-loss and AUROC in the grouped folds."""
    _, method, strength, _, copies = candidate.split()
    chosen = selection.Candidate("all", linear.Head(method, float(strength)), int(copies))
    # which features are learned from, and which are tested
    ways = {name: (name, name) for name in material} | {"int8": ("onnx", "int8")}
    ways["int8 refitted"] = ("int8", "int8")
    ways["int8 dynamic"] = ("onnx", "int8 dynamic")
    banks = {name: found.bank() for name, found in material.items()}
    labels, groups = material["onnx"].labels, material["onnx"].groups
    n, repeats = fold_of.shape
    logits = {way: np.full((repeats, n, labels.max() + 1), np.nan) for way in ways}
    jobs = [(r, f) for r in range(repeats) for f in np.unique(fold_of[:, r])]
    for repeat, fold in tqdm(jobs, desc="Folds", disable=not progress):
        tested = fold_of[:, repeat] == fold
        train = np.flatnonzero(~tested)
        seed = 100 * repeat + int(fold)  # as selection.nested
        for learned in {learned for learned, _ in ways.values()}:
            found = material[learned]
            head = linear.fit(
                np.concatenate([x[train] for x in (found.features, *found.copies[: int(copies)])]),
                np.tile(labels[train], 1 + int(copies)),
                chosen.head,
                linear.Scaler.of(found.other_features),
                linear.copy_weights(len(train), int(copies)),
            )
            t = selection.choose(banks[learned], train, [chosen], seed).temperature
            for way, (by, shown) in ways.items():
                if by == learned:
                    logits[way][repeat, tested] = head.logits(material[shown].features[tested]) / t
    rows = {}
    right = {way: (values.argmax(2) == labels).mean(0) for way, values in logits.items()}
    for way, values in logits.items():
        lower, upper = significance.group_bootstrap(right[way], groups)
        chance = softmax(values, axis=-1)[:, np.arange(n), labels]
        rows[way] = {
            "accuracy": right[way].mean(),
            "lower": lower,
            "upper": upper,
            "nll": float(-np.log(np.maximum(chance, 1e-12)).mean()),
        }
        if way != "onnx":
            change = right[way] - right["onnx"]
            lower, upper = significance.group_bootstrap(change, groups)
            rows[way] |= {"change": change.mean(), "change_lower": lower, "change_upper": upper}
    for way in ("onnx", "int8 refitted"):
        found = material[ways[way][1]]
        scores = {"combined": final.scores_of(found, "all")["combined"]}
        table = final.leave_motifs_out(found, fold_of[:, 0], found.columns["all"], scores).table
        rows[way]["auroc"] = table.set_index("other").loc["other motifs", "auroc"]
    return rows


def _processor() -> str:
    """Return the processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
