"""Local features: which pictures share a piece of cloth, and how well the pieces lie on each other.

RootSIFT (Lowe 2004; Arandjelovic and Zisserman 2012) finds points, a vocabulary of them shortlists
pictures that share rare ones, a homography (MAGSAC, Barath et al. 2020) is fitted to a pair. Batik
repeats itself, so inliers must also spread over the overlap, and its blocks must look alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from sklearn.cluster import MiniBatchKMeans

from batik_utils.errors import BatikError

#: Longest side that pictures are looked at with (px), small ones enlarged; strongest points kept.
SIDE, POINTS = 448, 500
#: Words of the vocabulary, and points it is learned from.
WORDS, SAMPLE = 2048, 60_000
#: Two points may be the same if their descriptors' cosine is at least this.
ALIKE = 0.88
#: A block of the overlap counts as alike from this correlation on; its side in px.
BLOCK_ALIKE, BLOCK = 0.5, 32

#: A pair is the same cloth if it passes all of these; the sum is of spread and aligned. Set on
#: planted duplicates, on random pairs and by eye.
MIN_INLIERS, MIN_SPREAD, MIN_ALIGNED, MIN_OVERLAP, MIN_SUM = 14, 0.12, 0.3, 0.05, 0.7
#: Fewer points do if the two lie on each other perfectly, as after a large enlargement.
FEW_INLIERS, FEW_ALIGNED = 8, 0.9

# how the 4 x 4 x 8 numbers of a SIFT descriptor change places when the picture is mirrored
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][..., (-np.arange(8)) % 8].ravel()


@dataclass(frozen=True, eq=False)
class Features:
    """A picture's points."""

    points: np.ndarray  # x and y in px of ``grey``, float32 (N, 2)
    descriptors: np.ndarray  # RootSIFT, float32 (N, 128), each of length 1
    grey: np.ndarray  # the picture with longest side ``SIDE``, uint8 (H, W)

    def mirrored(self) -> "Features":
        """Return the features of the picture flipped left to right, without detecting again."""
        points = self.points.copy()
        points[:, 0] = self.grey.shape[1] - 1 - points[:, 0]
        return Features(points, self.descriptors[:, _MIRROR], self.grey[:, ::-1])


@dataclass(frozen=True)
class Verification:
    """How well one picture can be laid on another; shares are 0 to 1."""

    inliers: int = 0  # pairs of points that one homography explains
    spread: float = 0.0  # share of the overlap's cells (of an 8 x 8 grid) with an inlier
    aligned: float = 0.0  # share of the overlap's textured blocks that look alike
    overlap: float = 0.0  # share of the smaller picture that the overlap is


def extract(picture: Image.Image) -> Features:
    """Return the points of an RGB picture of any size."""
    scale = SIDE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    grey = np.asarray(picture.convert("L").resize(size, Image.Resampling.LANCZOS))
    # a low contrast limit, as faded cloth has points too; the strongest are kept anyway
    detector = cv2.SIFT_create(nfeatures=POINTS, contrastThreshold=0.01)
    keypoints, descriptors = detector.detectAndCompute(grey, None)
    if not keypoints:
        return Features(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32), grey)
    # OpenCV keeps all that tie for the last place
    order = np.argsort([-k.response for k in keypoints], kind="stable")[:POINTS]
    points = np.array([keypoints[i].pt for i in order], np.float32)
    descriptors = descriptors[order].astype(np.float32)
    descriptors /= np.maximum(descriptors.sum(1, keepdims=True), 1e-9)
    return Features(points, np.sqrt(descriptors), grey)


class Index:
    """Finds the pictures, given by their descriptors, that share rare points with a picture."""

    def __init__(self, pictures: Sequence[np.ndarray]):
        self.n_pictures = len(pictures)
        self._all, self._owner = _joined(pictures)
        if not len(self._all):
            raise BatikError("There is nothing to compare: all pictures are of one colour.")
        words = max(1, min(WORDS, len(self._all) // 20))
        sample = np.random.default_rng(0).permutation(len(self._all))[:SAMPLE]
        how = {"batch_size": 8192, "max_iter": 20, "n_init": 1, "init": "random"}
        kmeans = MiniBatchKMeans(words, random_state=0, **how)
        centres = kmeans.fit(self._all[np.sort(sample)]).cluster_centers_
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        word = self._words(self._all, 1)[:, 0]
        self._order = np.argsort(word, kind="stable")
        self._starts = np.searchsorted(word[self._order], np.arange(words + 1))

    def votes(self, queries: Sequence[np.ndarray]) -> np.ndarray:
        """Return shared points, each divided by its owners, as (queries, pictures)."""
        descriptors, asker = _joined(queries)
        words = self._words(descriptors, 2)
        # the rows of each word, without looking through all of them for every word
        flat = np.argsort(words, axis=None, kind="stable")
        starts = np.searchsorted(words.ravel()[flat], np.arange(len(self._centres) + 1))
        votes = np.zeros(len(queries) * self.n_pictures)
        for word in range(len(self._centres)):
            here = self._order[self._starts[word] : self._starts[word + 1]]
            rows = flat[starts[word] : starts[word + 1]] // words.shape[1]
            alike = descriptors[rows] @ self._all[here].T >= ALIKE
            row, column = np.nonzero(alike)
            # a picture that repeats the point a hundred times still has it once; they are sorted
            pairs = row * self.n_pictures + self._owner[here][column]
            row, picture = np.divmod(pairs[np.diff(pairs, prepend=-1) > 0], self.n_pictures)
            share = 1 / np.bincount(row, minlength=len(rows))[row]
            np.add.at(votes, asker[rows[row]] * self.n_pictures + picture, share)
        return votes.reshape(len(queries), self.n_pictures)

    def _words(self, descriptors: np.ndarray, count: int) -> np.ndarray:
        """Return the nearest words of each descriptor, (N, count)."""
        found = []
        for part in np.array_split(descriptors, max(1, len(descriptors) // 4096)):
            cosine, words = part @ self._centres.T, []
            for _ in range(min(count, len(self._centres))):
                words.append(cosine.argmax(1))
                np.put_along_axis(cosine, words[-1][:, None], -1, axis=1)
            found.append(np.stack(words, axis=1))
        return np.concatenate(found)


def _joined(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the descriptors of all pictures, and whose each is."""
    owner = np.repeat(np.arange(len(pictures)), [len(part) for part in pictures])
    return np.concatenate(pictures), owner


def match(a: Features, b: Features) -> np.ndarray:
    """Return the points that are each other's nearest and nearer than rivals, as pairs (M, 2)."""
    if min(len(a.points), len(b.points)) < 2:
        return np.zeros((0, 2), int)
    cosine = a.descriptors @ b.descriptors.T
    forth, back = cosine.argmax(1), cosine.argmax(0)
    here = np.flatnonzero(back[forth] == np.arange(len(forth)))
    best, second = cosine[here, forth[here]], np.partition(cosine[here], -2, axis=1)[:, -2]
    # Lowe's ratio of distances, lenient: cloth repeats itself
    good = (best >= 0.8) & ((2 - 2 * best) <= 0.9**2 * (2 - 2 * second))
    return np.stack([here[good], forth[here[good]]], 1)


def verify(a: Features, b: Features) -> Verification:
    """Lay one picture on another, as it is and flipped; return the better result."""
    as_it_is, flipped = _lay(a, b), _lay(a.mirrored(), b)
    better = (is_same(flipped), flipped.inliers) > (is_same(as_it_is), as_it_is.inliers)
    return flipped if better else as_it_is


def is_same(found: Verification) -> bool:
    """Return whether two pictures show the same cloth."""
    enough = FEW_INLIERS if found.aligned >= FEW_ALIGNED else MIN_INLIERS
    return (
        found.inliers >= enough
        and found.spread >= MIN_SPREAD
        and found.aligned >= MIN_ALIGNED
        and found.overlap >= MIN_OVERLAP
        # either alone may be chance: a shared watermark spreads little, a shared studio aligns some
        and found.spread + found.aligned >= MIN_SUM
    )


def _lay(a: Features, b: Features) -> Verification:
    pairs = match(a, b)
    if len(pairs) < FEW_INLIERS:
        return Verification()
    source, target = a.points[pairs[:, 0]], b.points[pairs[:, 1]]
    how = {"maxIters": 1500, "confidence": 0.999}
    try:
        homography, mask = cv2.findHomography(source, target, cv2.USAC_MAGSAC, 5.0, **how)
    except cv2.error:
        return Verification()
    if homography is None or not _is_sane(homography, a.grey.shape):
        return Verification()
    inside = mask.ravel() > 0
    # several points at one spot, with different directions, are one witness
    inliers = len(np.unique(np.round(target[inside] / 4), axis=0))
    if inliers < FEW_INLIERS:
        return Verification(inliers)
    size = b.grey.shape[::-1]
    warped = cv2.warpPerspective(a.grey, homography, size, flags=cv2.INTER_AREA)
    covered = cv2.warpPerspective(np.ones_like(a.grey), homography, size, flags=cv2.INTER_NEAREST)
    back = abs(1 / np.linalg.det(homography[:2, :2]))
    overlap = min(1.0, covered.sum() * max(1 / b.grey.size, back / a.grey.size))
    spread, aligned = _spread(target[inside], covered), _aligned(warped, b.grey, covered)
    return Verification(inliers, spread, aligned, float(overlap))


def _is_sane(homography: np.ndarray, shape: tuple[int, int]) -> bool:
    """Return whether a homography keeps a picture's corners in order and within eight times."""
    height, width = shape
    corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    homogeneous = np.c_[corners, np.ones(4)] @ homography.T
    if (homogeneous[:, 2] * homogeneous[0, 2] <= 0).any():
        return False
    seen = homogeneous[:, :2] / homogeneous[:, 2:]
    sides = np.roll(seen, -1, 0) - seen
    turns = sides[:, 0] * np.roll(sides[:, 1], -1) - sides[:, 1] * np.roll(sides[:, 0], -1)
    if (turns <= 0).any():
        return False
    lengths = np.hypot(*sides.T) / [width, height, width, height]
    return lengths.min() > 1 / 8 and lengths.max() < 8 and lengths.max() / lengths.min() < 3


def _spread(points: np.ndarray, covered: np.ndarray) -> float:
    height, width = covered.shape
    cells = cv2.resize(covered.astype(np.float32), (8, 8), interpolation=cv2.INTER_AREA) > 0.5
    x = np.clip(points[:, 0] / width * 8, 0, 7).astype(int)
    y = np.clip(points[:, 1] / height * 8, 0, 7).astype(int)
    hit = np.zeros_like(cells)
    hit[y, x] = True
    return float((hit & cells).sum() / max(1, cells.sum()))


def _aligned(a: np.ndarray, b: np.ndarray, covered: np.ndarray) -> float:
    """Return the share of the overlap's textured blocks whose correlation, of any sign, is high."""
    height, width = (side // BLOCK * BLOCK for side in b.shape)

    def blocks(values: np.ndarray) -> np.ndarray:
        cut = values[:height, :width].astype(np.float32)
        cut = cut.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(1, 2)
        return cut.reshape(-1, BLOCK * BLOCK)

    full = blocks(covered).min(1) > 0
    first, second = blocks(a)[full], blocks(b)[full]
    first -= first.mean(1, keepdims=True)
    second -= second.mean(1, keepdims=True)
    lengths = np.linalg.norm(first, axis=1), np.linalg.norm(second, axis=1)
    # a deviation of 4 grey levels: less is plain ground, which always looks alike
    textured = np.maximum(*lengths) > 4 * BLOCK
    if textured.sum() < 4:
        return 0.0
    correlation = (first * second).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-6)
    return float((np.abs(correlation[textured]) >= BLOCK_ALIKE).mean())
