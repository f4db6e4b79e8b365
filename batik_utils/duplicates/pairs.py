"""Near-duplicates: the same photograph or the same cloth, filed twice.

    >>> from batik_utils import data
    >>> from batik_utils.duplicates.pairs import pairs as duplicates
    >>> dataset = data.load("folder", "indonesian-batik-motifs", "all")
    >>> looks = duplicates.look_all(dataset)
    >>> edges = duplicates.find(dataset, looks)      # direct edges: pair, method, score
    >>> groups = duplicates.group(dataset, edges)    # transitive, for splitting only

Four methods, from the strictest to the most patient: ``exact`` (same bytes), ``hash`` (perceptual
hashes of the eight flips and right turns), ``correlation`` (of small grey versions, same eight) and
``features`` (a piece of one laid on the other, see `features`). The first that holds names the
edge. Thresholds were set on planted duplicates against pairs of different pictures, see
`duplicate_check`.

Introduced in notebook 01, section "Near-duplicates".
"""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import imagehash
import networkx as nx
import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from batik_utils.data import Dataset
from batik_utils.duplicates import local_features as features
from batik_utils.images import files

METHODS = ("exact", "hash", "correlation", "features")
EDGE_COLUMNS = (
    "path_a",
    "path_b",
    "motif_a",
    "motif_b",
    "method",
    "score",
    "hash",
    "correlation",
    "inliers",
    "spread",
    "aligned",
    "overlap",
)
GROUP_COLUMNS = ("path", "motif", "group")

#: From here on a pair is the same picture: share of equal hash bits, correlation. High, as two
#: shirts before one white wall agree in 0.87 of the bits and correlate by 0.98.
MIN_HASH = 0.90
MIN_CORRELATION = 0.99
#: From here on a pair is worth a closer look.
LOOK_HASH, LOOK_CORRELATION = 0.70, 0.75
#: Pictures looked at closely because they share the most rare points, of each flip.
SHORTLIST = 12

_SMALL, _SIDE, _HASH = 128, 32, 16  # px, px, bits a side
_TURNS = (None, *Image.Transpose)
_HASHES = (imagehash.phash, imagehash.dhash, imagehash.whash)


@dataclass(frozen=True, eq=False)
class Look:
    """What is kept of a picture to compare it.

    Attributes:
        sha256: of its file; "" if it has none.
        hashes: perceptual hashes of the eight flips and turns, bits as -1 and 1, int8 (8, 768).
        small: grey versions of zero mean and unit length, float32 (8, 1024).
        features: its points.
    """

    sha256: str
    hashes: np.ndarray
    small: np.ndarray
    features: features.Features


@dataclass(frozen=True)
class Comparison:
    """How alike two pictures are, by each method.

    Attributes:
        exact: same bytes.
        hash: largest share of equal hash bits over the eight flips and turns, 0 to 1.
        correlation: largest correlation of the small grey versions, -1 to 1.
        verification: see `features.verify`.
    """

    exact: bool
    hash: float
    correlation: float
    verification: features.Verification

    @property
    def method(self) -> str:
        """The strictest method that calls them duplicates; "" if none does."""
        held = (
            self.exact,
            self.hash >= MIN_HASH,
            self.correlation >= MIN_CORRELATION,
            features.is_same(self.verification),
        )
        return next((name for name, holds in zip(METHODS, held, strict=True) if holds), "")

    @property
    def score(self) -> float:
        """The method's own number: 1, share of bits, correlation, or share of blocks alike."""
        numbers = (1.0, self.hash, self.correlation, self.verification.aligned)
        return dict(zip(METHODS, numbers, strict=True)).get(self.method, 0.0)


def look(picture: Image.Image, sha256: str = "") -> Look:
    """Take in a picture.

    Args:
        picture: PIL image, mode RGB.
        sha256: of its file.
    """
    grey = picture.convert("L").resize((_SMALL, _SMALL), Image.Resampling.LANCZOS)
    turned = [grey if turn is None else grey.transpose(turn) for turn in _TURNS]
    bits = [np.concatenate([h(t, _HASH).hash.ravel() for h in _HASHES]) for t in turned]
    small = np.stack(
        [np.asarray(t.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float32) for t in turned]
    ).reshape(len(turned), -1)
    small -= small.mean(1, keepdims=True)
    small /= np.maximum(np.linalg.norm(small, axis=1, keepdims=True), 1e-6)
    return Look(sha256, np.where(bits, 1, -1).astype(np.int8), small, features.extract(picture))


def look_all(dataset: Dataset, *, progress: bool = True) -> list[Look]:
    """Take in every picture, in manifest order.

    Args:
        dataset: the data set.
        progress: show a bar.
    """

    def one(job) -> Look:
        path, sha256 = job
        return look(files.open_image(path, at_least=features.SIDE), sha256)

    jobs = list(zip(dataset.paths, dataset.manifest["sha256"], strict=True))
    return list(in_threads(one, jobs, "Looking at pictures", "picture", progress))


class Gallery:
    """Pictures to find duplicates in.

    Args:
        looks: one a picture.
    """

    def __init__(self, looks: Sequence[Look]):
        self.looks = list(looks)
        # a vocabulary learned in the order of the content depends on no file's name
        order = sorted(range(len(looks)), key=lambda i: looks[i].sha256)
        self._place = np.argsort(order)
        self._index = features.Index([looks[i].features for i in order])
        self._hashes = np.stack([entry.hashes[0] for entry in looks]).astype(np.float32)
        self._small = np.stack([entry.small[0] for entry in looks])

    def alike(self, query: Look) -> tuple[np.ndarray, np.ndarray]:
        """Return hash agreement and correlation with every picture, each float (n,)."""
        bits = query.hashes.astype(np.float32) @ self._hashes.T / self._hashes.shape[1]
        return (1 + bits.max(0)) / 2, (query.small @ self._small.T).max(0)

    def candidates(self, queries: Sequence[Look], *, progress: bool = True) -> list[np.ndarray]:
        """Return, for each query, the positions worth a closer look, ascending.

        Args:
            queries: any pictures; one that is in the gallery finds itself too.
            progress: show bars.
        """
        found = []
        hashes = np.array([entry.sha256 for entry in self.looks])
        for query in queries:
            bits, correlation = self.alike(query)
            near = (bits >= LOOK_HASH) | (correlation >= LOOK_CORRELATION)
            found.append(near | ((hashes == query.sha256) & (query.sha256 != "")))
        for mirrored in (False, True):
            seen = [q.features.mirrored() if mirrored else q.features for q in queries]
            votes = self._index.votes(seen, progress=progress)[:, self._place]
            for near, row in zip(found, votes, strict=True):
                # one more, as it may find itself
                near[np.argsort(-row, kind="stable")[: SHORTLIST + 1]] = True
        return [np.flatnonzero(near) for near in found]


def compare(a: Look, b: Look) -> Comparison:
    """Compare two pictures by every method; their order makes no difference."""
    a, b = sorted((a, b), key=lambda entry: entry.sha256)
    bits = a.hashes.astype(np.float32) @ b.hashes[0].astype(np.float32) / len(b.hashes[0])
    return Comparison(
        a.sha256 == b.sha256 != "",
        float((1 + bits.max()) / 2),
        float((a.small @ b.small[0]).max()),
        features.verify(a.features, b.features),
    )


def find(
    dataset: Dataset,
    looks: Sequence[Look],
    gallery: Gallery | None = None,
    *,
    progress: bool = True,
) -> pd.DataFrame:
    """Return the direct edges: every pair of pictures that a method calls duplicates.

    Args:
        dataset: the data set.
        looks: of `look_all`.
        gallery: of the same looks, if there is one already.
        progress: show bars.

    Returns:
        One row a pair with ``EDGE_COLUMNS``; ``path_a`` stands before ``path_b`` in the manifest.
    """
    gallery = gallery or Gallery(looks)
    pairs: set[tuple[int, int]] = set()
    for i, others in enumerate(gallery.candidates(looks, progress=progress)):
        pairs |= {(min(i, j), max(i, j)) for j in others.tolist() if i != j}
    jobs = sorted(pairs)
    compared = in_threads(
        lambda pair: compare(looks[pair[0]], looks[pair[1]]), jobs, "Comparing", "pair", progress
    )
    paths, motifs = dataset.manifest["path"].tolist(), dataset.manifest["motif"].tolist()
    rows = [
        {"path_a": paths[i], "path_b": paths[j], "motif_a": motifs[i], "motif_b": motifs[j]}
        | numbers_of(comparison)
        for (i, j), comparison in zip(jobs, compared, strict=True)
        if comparison.method
    ]
    return pd.DataFrame(rows, columns=list(EDGE_COLUMNS))


def numbers_of(comparison: Comparison) -> dict:
    """Return a comparison as the columns of an edge."""
    seen = comparison.verification
    return {
        "method": comparison.method,
        "score": round(comparison.score, 3),
        "hash": round(comparison.hash, 3),
        "correlation": round(comparison.correlation, 3),
        "inliers": seen.inliers,
        "spread": round(seen.spread, 3),
        "aligned": round(seen.aligned, 3),
        "overlap": round(seen.overlap, 3),
    }


def group(dataset: Dataset, edges: pd.DataFrame) -> pd.DataFrame:
    """Join what is connected, directly or through others.

    For splitting only: two ends of a chain need not look alike. An edge that a person has judged
    false (column ``seen``) joins nothing.

    Args:
        dataset: the data set; edges to pictures outside it are left out.
        edges: of `find`, with or without ``seen``.

    Returns:
        One row a picture in manifest order with ``GROUP_COLUMNS``; ``group`` is the path of the
        group's first picture, so a picture without twins is its own group.
    """
    paths = dataset.manifest["path"].tolist()
    if "seen" in edges:
        edges = edges[edges["seen"] != "false"]
    graph = nx.Graph()
    graph.add_nodes_from(paths)
    known = set(paths)
    graph.add_edges_from(
        (a, b)
        for a, b in zip(edges["path_a"], edges["path_b"], strict=True)
        if a in known and b in known
    )
    place = {path: i for i, path in enumerate(paths)}
    first = {}
    for members in nx.connected_components(graph):
        head = min(members, key=place.__getitem__)
        first |= dict.fromkeys(members, head)
    return dataset.manifest[["path", "motif"]].assign(group=[first[path] for path in paths])


def in_threads(
    function: Callable, jobs: Sequence, text: str, unit: str, progress: bool
) -> Iterable:
    """Map a function over jobs in threads, in order, with a bar.

    OpenCV and NumPy leave the interpreter lock while they work.

    Args:
        function: of one job.
        jobs: its arguments.
        text: the bar's title.
        unit: what a job is called.
        progress: show the bar.
    """
    with _one_opencv_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from tqdm(
            pool.map(function, jobs), total=len(jobs), desc=text, unit=unit, disable=not progress
        )


@contextmanager
def _one_opencv_thread():
    """Our threads are pictures: OpenCV's own would only stand in their way."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
