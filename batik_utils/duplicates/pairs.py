"""Near-duplicates: the same photograph or the same cloth, filed twice.

The first method that holds names the pair: ``exact`` (same bytes), ``hash`` (perceptual hashes of
the eight flips and turns), ``correlation`` (of small grey versions, same eight) and ``features`` (a
piece of one laid on the other). Thresholds: see ``results/kaggle/duplicates_*.csv``.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass

import cv2
import imagehash
import networkx as nx
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from batik_utils.data import Dataset
from batik_utils.duplicates import local_features
from batik_utils.images.files import open_image

EDGE_COLUMNS = ("path_a", "path_b", "motif_a", "motif_b", "method", "score", "hash")
EDGE_COLUMNS += ("correlation", "inliers", "spread", "aligned", "overlap")

#: From here on a pair is the same picture: share of equal hash bits, correlation. High, as two
#: shirts before one white wall agree in 0.87 of the bits and correlate by 0.98.
MIN_HASH, MIN_CORRELATION = 0.90, 0.99
#: From here on a pair may be compared closely.
NEAR_HASH, NEAR_CORRELATION = 0.70, 0.75
#: Pictures looked at closely because they share the most rare points, of each flip; and at most so
#: many others because hash or correlation is near.
SHORTLIST, NEAR = 12, 50
#: Pictures whose shortlists are made at once, which bounds the memory.
BLOCK = 256

_SMALL, _SIDE, _HASH = 128, 32, 16  # px, px, bits a side
_TURNS = (None, *Image.Transpose)
_HASHES = (imagehash.phash, imagehash.dhash, imagehash.whash)


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """What is stored of a picture to compare it."""

    sha256: str  # of its file; "" if it has none
    hashes: np.ndarray  # perceptual hashes of the eight flips and turns as -1 and 1, int8 (8, 768)
    small: np.ndarray  # grey versions of zero mean and unit length, float32 (8, 1024)
    features: local_features.Features


@dataclass(frozen=True)
class Comparison:
    """How alike two pictures are, by each method."""

    method: str  # the strictest that calls them duplicates; "" if none does
    score: float  # its own number: 1, share of bits, correlation, or share of blocks alike
    hash: float  # largest share of equal hash bits over the eight flips and turns, 0 to 1
    correlation: float  # largest correlation of the small grey versions, -1 to 1
    verification: local_features.Verification


def fingerprint(picture: Image.Image, sha256: str = "") -> Fingerprint:
    """Return what is stored of an RGB picture, whose file has this SHA-256."""
    grey = picture.convert("L").resize((_SMALL, _SMALL), Image.Resampling.LANCZOS)
    turned = [grey if turn is None else grey.transpose(turn) for turn in _TURNS]
    bits = [np.concatenate([h(t, _HASH).hash.ravel() for h in _HASHES]) for t in turned]
    small = [np.asarray(t.resize((_SIDE, _SIDE), Image.Resampling.BOX)) for t in turned]
    small = np.stack(small).reshape(len(turned), -1).astype(np.float32)
    small -= small.mean(1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
    hashes = np.where(bits, 1, -1).astype(np.int8)
    return Fingerprint(sha256, hashes, small, local_features.extract(picture))


def candidates(pictures: Sequence[Fingerprint]) -> list[tuple[int, int]]:
    """Return the pairs of positions, ascending, that are worth comparing."""
    # a vocabulary learned in the order of the content depends on no file's name
    order = sorted(range(len(pictures)), key=lambda i: pictures[i].sha256)
    place, points = np.argsort(order), [picture.features for picture in pictures]
    index = local_features.Index([points[i].descriptors for i in order])
    found = _near(pictures)
    for start in tqdm(range(0, len(pictures), BLOCK), desc="Shortlisting", unit="block"):
        block = points[start : start + BLOCK]
        for seen in (block, [features.mirrored() for features in block]):
            votes = index.votes([features.descriptors for features in seen])
            for i, row in enumerate(votes, start):
                # one more, as it finds itself
                best = np.argsort(-row[place], kind="stable")[: SHORTLIST + 1]
                found[i] = np.union1d(found[i], best)
    pairs = ((i, j) for i, others in enumerate(found) for j in others.tolist() if i != j)
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _near(pictures: Sequence[Fingerprint]) -> list[np.ndarray]:
    """Return the positions near each by hash or correlation, at most ``NEAR`` not sure ones."""
    hashes = np.stack([picture.hashes[0] for picture in pictures]).astype(np.float32)
    small = np.stack([picture.small[0] for picture in pictures])
    digests, found = np.array([picture.sha256 for picture in pictures]), []
    for picture in pictures:
        bits = picture.hashes.astype(np.float32) @ hashes.T / hashes.shape[1]
        bits, correlation = (1 + bits.max(0)) / 2, (picture.small @ small.T).max(0)
        sure = (bits >= MIN_HASH) | (correlation >= MIN_CORRELATION)
        sure |= (digests == picture.sha256) & (picture.sha256 != "")
        near = np.flatnonzero(((bits >= NEAR_HASH) | (correlation >= NEAR_CORRELATION)) & ~sure)
        nearest = np.argsort(-np.maximum(bits, correlation)[near], kind="stable")[:NEAR]
        found.append(np.union1d(np.flatnonzero(sure), near[nearest]))
    return found


def compare(a: Fingerprint, b: Fingerprint) -> Comparison:
    """Compare two pictures by every method; their order makes no difference."""
    a, b = sorted((a, b), key=lambda entry: entry.sha256)
    bits = a.hashes.astype(np.float32) @ b.hashes[0].astype(np.float32) / len(b.hashes[0])
    bits, correlation = float((1 + bits.max()) / 2), float((a.small @ b.small[0]).max())
    found = local_features.verify(a.features, b.features)
    held = {
        "exact": (a.sha256 == b.sha256 != "", 1.0),
        "hash": (bits >= MIN_HASH, bits),
        "correlation": (correlation >= MIN_CORRELATION, correlation),
        "features": (local_features.is_same(found), found.aligned),
    }
    method, score = next(((name, n) for name, (holds, n) in held.items() if holds), ("", 0.0))
    return Comparison(method, score, bits, correlation, found)


def find(dataset: Dataset) -> pd.DataFrame:
    """Return every pair of pictures that a method calls duplicates, with ``EDGE_COLUMNS``."""
    files = list(zip(dataset.paths, dataset.manifest["sha256"], strict=True))

    def described(file: tuple) -> Fingerprint:
        return fingerprint(open_image(file[0], at_least=local_features.SIDE), file[1])

    pictures = list(_in_threads(described, files, "Describing pictures"))
    jobs = candidates(pictures)
    compared = _in_threads(lambda pair: compare(*(pictures[k] for k in pair)), jobs, "Comparing")
    names = dataset.manifest[["path", "motif"]].to_numpy()
    rows = []
    for (i, j), found in zip(jobs, compared, strict=True):
        if found.method:
            numbers = found.score, found.hash, found.correlation, *astuple(found.verification)
            row = (names[i, 0], names[j, 0], names[i, 1], names[j, 1], found.method)
            rows.append((*row, *(round(n, 3) for n in numbers)))
    return pd.DataFrame(rows, columns=list(EDGE_COLUMNS))


def group(dataset: Dataset, edges: pd.DataFrame) -> pd.DataFrame:
    """Join what is connected, directly or through others: ``path, motif, group``, for splitting.

    ``group`` is the path of the group's first picture in manifest order. An edge that a person has
    judged false (column ``seen``) and edges to pictures outside the data set join nothing.
    """
    place = {path: i for i, path in enumerate(dataset.manifest["path"])}
    edges = edges[edges["seen"] != "false"]
    graph = nx.Graph(list(zip(edges["path_a"], edges["path_b"], strict=True)))
    graph = nx.Graph(graph.subgraph(place))
    graph.add_nodes_from(place)
    first = {}
    for members in nx.connected_components(graph):
        first |= dict.fromkeys(members, min(members, key=place.get))
    return dataset.manifest[["path", "motif"]].assign(group=[first[path] for path in place])


def _in_threads(function: Callable, jobs: Sequence, text: str) -> Iterator:
    """Map a function over jobs in threads, in order: OpenCV and NumPy release the lock."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # our threads are pictures: OpenCV's own would stand in their way
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            yield from tqdm(pool.map(function, jobs), total=len(jobs), desc=text)
    finally:
        cv2.setNumThreads(before)
