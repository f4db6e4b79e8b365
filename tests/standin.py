"""A small model folder for tests: the layout of the real one, made in a second.

The network reads an 8 x 8 mosaic of the picture and how rough each colour is in it, fitted to
synthetic cloth by ridge regression: it knows that by heart and is worth nothing on batik.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper, parser

from batik_utils.images import cloth as synthetic
from batik_utils.images.motifs import MOTIFS
from batik_utils.images.resize import to_pixels

SIZE = 64
SHAPE = {"size": SIZE, "fit": "squash", "interpolation": "bilinear", "colour": "RGB"}
#: Cloth the stand-in was fitted to: these seeds of each motif are answered rightly.
SEEDS = range(8)
GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
standin (uint8[N, 64, 64, 3] pixels) => (float[N, 3] probabilities, float[N] familiarity%s) {
  whole = Cast<to = 1>(pixels)
  unit = Div(whole, most)
  first = Transpose<perm = [0, 3, 1, 2]>(unit)
  square = Mul(first, first)
  first8 = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(first)
  square8 = AveragePool<kernel_shape = [8, 8], strides = [8, 8]>(square)
  first_flat = Flatten(first8)
  square_flat = Flatten(square8)
  features = Concat<axis = 1>(first_flat, square_flat)
  centred = Sub(features, mean)
  scores = MatMul(centred, weights)
  probabilities = Softmax<axis = 1>(scores)
  inner = MatMul(centred, axes)
  known = MatMul(inner, axes_t)
  rest = Sub(centred, known)
  rest2 = Mul(rest, rest)
  length = ReduceSum<keepdims = 0>(rest2, one)
  familiarity = Neg(length)
%s}
"""
OUTPUTS = ", float[N] cloth, float[N, 3, 8, 8] evidence"
NODES = """\
  cloth = Identity(familiarity)
  places = Reshape(centred, by_place)
  products = Mul(places, weights_by_place)
  added = ReduceSum<keepdims = 0>(products, one)
  by_motif = Transpose<perm = [0, 2, 1]>(added)
  mean_added = ReduceMean<axes = [1], keepdims = 1>(by_motif)
  less_mean = Sub(by_motif, mean_added)
  evidence = Reshape(less_mean, as_grid)
"""

#: Begins a program: it prints every address that is asked for and is not this machine's.
GUARD = """
import sys
def heard(event, given):
    if event in ("socket.connect", "socket.getaddrinfo"):
        place = given[event == "socket.connect"]
        host = place[0] if isinstance(place, tuple) else place
        here = ("127.0.0.1", "0.0.0.0", "::1", "localhost", "", None)
        if (host.decode() if isinstance(host, bytes) else host) not in here:
            print("OUTSIDE", event, given, flush=True)
sys.addaudithook(heard)
"""


def examples(size: tuple[int, int] = (200, 160)):
    """Yield motif, seed and picture of the cloth that the stand-in knows."""
    for motif in MOTIFS:
        for seed in SEEDS:
            yield motif, seed, synthetic.draw(motif, seed, size)


def features(pixels: np.ndarray) -> np.ndarray:
    """Mosaic of 8 x 8 means and 8 x 8 mean squares; uint8 (N, S, S, 3) to float (N, 384)."""
    n, step = len(pixels), SIZE // 8
    tiles = (pixels.astype(np.float64) / 255).reshape(n, 8, step, 8, step, 3)
    parts = [tiles.mean(axis=(2, 4)), (tiles**2).mean(axis=(2, 4))]
    # channels first, as the graph's pooling leaves them
    return np.concatenate([part.transpose(0, 3, 1, 2).reshape(n, -1) for part in parts], axis=1)


def write(folder: Path, *, old: bool = False) -> Path:
    """Write the model folder and return it; ``old``: without cloth and evidence."""
    drawn = list(examples())
    x = features(np.stack([to_pixels(picture, SIZE).transpose(1, 2, 0) for _, _, picture in drawn]))
    y = np.array([MOTIFS.index(motif) for motif, _, _ in drawn])
    mean = x.mean(axis=0)
    x = x - mean
    dual = np.linalg.solve(x @ x.T + 0.03 * np.eye(len(x)), np.eye(3)[y] - 1 / 3)
    weights = x.T @ dual * 4
    # familiarity: minus the squared length of what the known cloth's main directions leave over
    axes = np.linalg.svd(x, full_matrices=False)[2][:16].T
    rest = x - x @ axes @ axes.T
    threshold = -4 * float(np.square(rest).sum(axis=1).max())
    constants = {"most": 255, "mean": mean, "weights": weights, "axes": axes, "axes_t": axes.T}
    constants = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    constants["one"] = np.array([1])
    labels = {"classes": list(MOTIFS), "familiarity_threshold": threshold, "opset": 17}
    if not old:
        constants["weights_by_place"] = weights.reshape(6, 64, 3).astype(np.float32)
        constants |= {"by_place": np.array([-1, 6, 64, 1]), "as_grid": np.array([-1, 3, 8, 8])}
        labels |= {"cloth_threshold": 3 * threshold, "sure_from": 0.8, "probably_from": 0.6}
        labels["sure_familiarity"] = 0.9 * threshold
    model = parser.parse_model(GRAPH % (("", "") if old else (OUTPUTS, NODES)))
    model.graph.initializer.extend(map(numpy_helper.from_array, constants.values(), constants))
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")
    tested = {"words": {"folds": {"sure": {"right": 0.97}, "probably": {"right": None}}}}
    for name, content in (("labels", labels), ("preprocessing", SHAPE), ("metrics", tested)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "MODEL_CARD.md").write_text("# A stand-in for tests\n")
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write SHA256SUMS over what lies in the folder."""
    content = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
    content.pop("SHA256SUMS", None)
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items()]
    (folder / "SHA256SUMS").write_text("".join(lines))
