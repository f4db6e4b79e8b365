"""A small model folder for tests: the layout of the real one, made in a second.

The network reads an 8 x 8 mosaic of the picture and how rough each colour is in it, and is fitted
to synthetic cloth by ridge regression. It knows the cloth it was fitted to by heart and is worth
nothing on batik.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from batik_utils.images import cloth as synthetic
from batik_utils.images.motifs import MOTIFS
from batik_utils.images.resize import to_pixels

SIZE = 64
SHAPE = {"size": SIZE, "fit": "squash", "interpolation": "bilinear", "colour": "RGB"}
#: Cloth the stand-in was fitted to: these seeds of each motif are answered rightly.
SEEDS = range(8)


def examples(size: tuple[int, int] = (200, 160)):
    """Yield motif, seed and picture of the cloth that the stand-in knows."""
    for motif in MOTIFS:
        for seed in SEEDS:
            yield motif, seed, synthetic.draw(motif, seed, size)


def features(pixels: np.ndarray) -> np.ndarray:
    """Mosaic of 8 x 8 means and 8 x 8 mean squares; uint8 (N, S, S, 3) to float (N, 384)."""
    values = pixels.astype(np.float64) / 255
    n, step = len(values), SIZE // 8
    tiles = values.reshape(n, 8, step, 8, step, 3)
    parts = [tiles.mean(axis=(2, 4)), (tiles**2).mean(axis=(2, 4))]
    # channels first, as the graph's pooling leaves them
    return np.concatenate([part.transpose(0, 3, 1, 2).reshape(n, -1) for part in parts], axis=1)


def write(folder: Path, *, old: bool = False) -> Path:
    """Write the model folder and return it; ``old``: without cloth and evidence."""
    drawn = list(examples())
    x = features(np.stack([to_pixels(picture, SIZE).transpose(1, 2, 0) for _, _, picture in drawn]))
    y = np.array([MOTIFS.index(motif) for motif, _, _ in drawn])
    mean = x.mean(axis=0)
    gram = (x - mean) @ (x - mean).T
    dual = np.linalg.solve(gram + 0.03 * np.eye(len(x)), np.eye(3)[y] - 1 / 3)
    weights = (x - mean).T @ dual * 4
    # familiarity: minus the squared length of what the known cloth's main directions leave over
    _, _, axes = np.linalg.svd(x - mean, full_matrices=False)
    axes = axes[:16].T
    rest = (x - mean) - (x - mean) @ axes @ axes.T
    threshold = -4 * float(np.square(rest).sum(axis=1).max())

    def constant(name, value, kind=np.float32):
        return numpy_helper.from_array(np.asarray(value, kind), name)

    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "255"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["first"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["first", "first"], ["square"]),
    ]
    for name in ("first", "square"):
        step = SIZE // 8
        nodes += [
            helper.make_node(
                "AveragePool", [name], [f"{name}8"], kernel_shape=[step] * 2, strides=[step] * 2
            ),
            helper.make_node("Flatten", [f"{name}8"], [f"{name}_flat"]),
        ]
    nodes += [
        helper.make_node("Concat", ["first_flat", "square_flat"], ["features"], axis=1),
        helper.make_node("Sub", ["features", "mean"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        helper.make_node("MatMul", ["centred", "axes"], ["inner"]),
        helper.make_node("MatMul", ["inner", "axes_t"], ["known"]),
        helper.make_node("Sub", ["centred", "known"], ["rest"]),
        helper.make_node("Mul", ["rest", "rest"], ["rest2"]),
        helper.make_node("ReduceSum", ["rest2", "one"], ["length"], keepdims=0),
        helper.make_node("Neg", ["length"], ["familiarity"]),
    ]
    if not old:
        nodes += [
            helper.make_node("Identity", ["familiarity"], ["cloth"]),
            helper.make_node("Reshape", ["centred", "by_place"], ["places"]),
            helper.make_node("Mul", ["places", "weights_by_place"], ["products"]),
            helper.make_node("ReduceSum", ["products", "one"], ["added"], keepdims=0),
            helper.make_node("Transpose", ["added"], ["by_motif"], perm=[0, 2, 1]),
            helper.make_node("ReduceMean", ["by_motif"], ["mean_added"], axes=[1], keepdims=1),
            helper.make_node("Sub", ["by_motif", "mean_added"], ["less_mean"]),
            helper.make_node("Reshape", ["less_mean", "as_grid"], ["evidence"]),
        ]
    graph = helper.make_graph(
        nodes,
        "stand-in",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("familiarity", TensorProto.FLOAT, ["N"]),
            *(
                []
                if old
                else [
                    helper.make_tensor_value_info("cloth", TensorProto.FLOAT, ["N"]),
                    helper.make_tensor_value_info("evidence", TensorProto.FLOAT, ["N", 3, 8, 8]),
                ]
            ),
        ],
        [
            constant("255", 255),
            constant("mean", mean),
            constant("weights", weights),
            constant("axes", axes),
            constant("axes_t", axes.T),
            constant("one", [1], np.int64),
            constant("weights_by_place", weights.reshape(6, 64, 3)),
            constant("by_place", [-1, 6, 64, 1], np.int64),
            constant("as_grid", [-1, 3, 8, 8], np.int64),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    labels = {"classes": list(MOTIFS), "familiarity_threshold": threshold, "opset": 17}
    if not old:
        labels |= {"cloth_threshold": 3 * threshold, "sure_from": 0.8, "probably_from": 0.6}
        labels["sure_familiarity"] = 0.9 * threshold
    (folder / "labels.json").write_text(json.dumps(labels))
    (folder / "preprocessing.json").write_text(json.dumps(SHAPE))
    (folder / "metrics.json").write_text(json.dumps({"note": "a stand-in for tests"}))
    (folder / "MODEL_CARD.md").write_text("# A stand-in for tests\n")
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write SHA256SUMS over what lies in the folder."""
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(lines))
