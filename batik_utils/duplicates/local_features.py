"""Local features: which pictures share a piece of cloth, and how well the pieces lie on each other.

    >>> import numpy as np
    >>> from batik_utils.duplicates.pairs import local_features as features
    >>> from batik_utils.images import cloth as synthetic
    >>> a = features.extract(synthetic.draw("tambal", seed=7))
    >>> b = features.extract(synthetic.draw("tambal", seed=7).rotate(30).crop((40, 40, 280, 280)))
    >>> features.is_same(features.verify(a, b))
    True

RootSIFT (Lowe 2004; Arandjelovic and Zisserman 2012) finds points that survive scale, turn, crop
and JPEG; a vocabulary of such points shortlists the pictures that share rare ones; a homography
(MAGSAC, Barath et al. 2020) is fitted to a shortlisted pair. Batik repeats itself, so many inliers
alone prove little: they must spread over the shared part, and the two pictures, laid on each
other, must look alike block by block. Used by `duplicates`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from sklearn.cluster import MiniBatchKMeans
from tqdm.auto import tqdm

#: Pictures are looked at with this longest side (px), small ones enlarged.
SIDE = 448
#: Strongest points kept of a picture.
POINTS = 500
#: Words of the vocabulary, and points it is learned from.
WORDS, SAMPLE = 2048, 60_000
#: Two points may be the same if their descriptors' cosine is at least this.
ALIKE = 0.88
#: A block of the overlap counts as alike from this correlation on; its side in px.
BLOCK_ALIKE, BLOCK = 0.5, 32

#: A pair is the same cloth if it passes all of these: inliers (points), spread, aligned, overlap
#: and the sum of spread and aligned. Set on planted duplicates, on random pairs and by eye.
MIN_INLIERS = 14
MIN_SPREAD = 0.12
MIN_ALIGNED = 0.3
MIN_OVERLAP = 0.05
MIN_SUM = 0.7
#: Fewer points do if the two lie on each other perfectly, as after a large enlargement.
FEW_INLIERS, FEW_ALIGNED = 8, 0.9

# how the 4 x 4 x 8 numbers of a SIFT descriptor change places when the picture is mirrored
_MIRROR = np.arange(128).reshape(4, 4, 8)[::-1][..., (-np.arange(8)) % 8].ravel()


@dataclass(frozen=True, eq=False)
class Features:
    """A picture's points.

    Attributes:
        points: x and y in px of ``grey``, float32 (N, 2).
        descriptors: RootSIFT, float32 (N, 128), each of length 1.
        grey: the picture with longest side ``SIDE``, uint8 (H, W).
    """

    points: np.ndarray
    descriptors: np.ndarray
    grey: np.ndarray

    def mirrored(self) -> "Features":
        """Return the features of the picture flipped left to right, without detecting again."""
        points = self.points.copy()
        points[:, 0] = self.grey.shape[1] - 1 - points[:, 0]
        return Features(points, self.descriptors[:, _MIRROR], self.grey[:, ::-1])


@dataclass(frozen=True)
class Verification:
    """How well one picture can be laid on another.

    Attributes:
        inliers: pairs of points that one homography explains.
        spread: share of the overlap's cells (of an 8 x 8 grid over the picture) with an inlier.
        aligned: share of the overlap's textured blocks that look alike, 0 to 1.
        overlap: overlap's share of the smaller picture, 0 to 1.
        mirrored: whether the first picture had to be flipped.
    """

    inliers: int = 0
    spread: float = 0.0
    aligned: float = 0.0
    overlap: float = 0.0
    mirrored: bool = False


def extract(picture: Image.Image) -> Features:
    """Find a picture's points.

    Args:
        picture: PIL image, mode RGB, any size.
    """
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
    """Finds the pictures that share rare points with a picture.

    Args:
        features: of all pictures; their order decides nothing but the numbering.
        seed: of the vocabulary.
    """

    def __init__(self, features: Sequence[Features], seed: int = 0):
        self.n_pictures = len(features)
        self._descriptors = np.concatenate([f.descriptors for f in features])
        self._owner = np.repeat(np.arange(len(features)), [len(f.points) for f in features])
        words = max(1, min(WORDS, len(self._descriptors) // 20))
        sample = np.random.default_rng(seed).permutation(len(self._descriptors))[:SAMPLE]
        kmeans = MiniBatchKMeans(
            words, batch_size=8192, max_iter=20, n_init=1, init="random", random_state=seed
        ).fit(self._descriptors[np.sort(sample)])
        centres = kmeans.cluster_centers_
        self._centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
        word = self._words(self._descriptors, 1)[:, 0]
        order = np.argsort(word, kind="stable")
        self._descriptors, self._owner = self._descriptors[order], self._owner[order]
        self._starts = np.searchsorted(word[order], np.arange(words + 1))

    def votes(self, queries: Sequence[Features], *, progress: bool = False) -> np.ndarray:
        """Return how many points each picture shares with each query, rare ones counting more.

        Args:
            queries: of any pictures, indexed or not.
            progress: show a bar.

        Returns:
            float array (queries, pictures). A point that k pictures have gives each of them 1/k.
        """
        descriptors = np.concatenate([f.descriptors for f in queries])
        asker = np.repeat(np.arange(len(queries)), [len(f.points) for f in queries])
        words = self._words(descriptors, 2)
        votes = np.zeros(len(queries) * self.n_pictures)
        bar = tqdm(
            range(len(self._centres)), desc="Shortlisting", unit="word", disable=not progress
        )
        for word in bar:
            here = slice(self._starts[word], self._starts[word + 1])
            rows = np.flatnonzero((words == word).any(1))
            alike = descriptors[rows] @ self._descriptors[here].T >= ALIKE
            row, column = np.nonzero(alike)
            # a picture that repeats the point a hundred times still has it once
            pairs = np.unique(row * self.n_pictures + self._owner[here][column])
            row, picture = np.divmod(pairs, self.n_pictures)
            share = 1 / np.bincount(row, minlength=len(rows))[row]
            np.add.at(votes, asker[rows[row]] * self.n_pictures + picture, share)
        return votes.reshape(len(queries), self.n_pictures)

    def _words(self, descriptors: np.ndarray, count: int) -> np.ndarray:
        found = [
            np.argpartition(-(part @ self._centres.T), min(count, len(self._centres)) - 1, axis=1)[
                :, :count
            ]
            for part in np.array_split(descriptors, max(1, len(descriptors) // 4096))
        ]
        return np.concatenate(found)


def match(a: Features, b: Features) -> np.ndarray:
    """Return the pairs of points that are each other's nearest and nearer than their rivals.

    Args:
        a: one picture.
        b: the other.

    Returns:
        int array (M, 2) of positions in ``a.points`` and ``b.points``.
    """
    if min(len(a.points), len(b.points)) < 2:
        return np.zeros((0, 2), int)
    cosine = a.descriptors @ b.descriptors.T
    forth, back = cosine.argmax(1), cosine.argmax(0)
    here = np.flatnonzero(back[forth] == np.arange(len(forth)))
    best = cosine[here, forth[here]]
    second = np.partition(cosine[here], -2, axis=1)[:, -2]
    # Lowe's ratio of distances, lenient: cloth repeats itself
    good = (2 - 2 * best) <= 0.9**2 * (2 - 2 * second)
    good &= best >= 0.8
    return np.stack([here[good], forth[here[good]]], 1)


def verify(a: Features, b: Features) -> Verification:
    """Lay one picture on another, as it is and flipped; return the better result.

    Args:
        a: one picture.
        b: the other.
    """
    plain, flipped = _lay(a, b, False), _lay(a.mirrored(), b, True)
    return (
        flipped if (is_same(flipped), flipped.inliers) > (is_same(plain), plain.inliers) else plain
    )


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


def _lay(a: Features, b: Features, mirrored: bool) -> Verification:
    pairs = match(a, b)
    if len(pairs) < FEW_INLIERS:
        return Verification(mirrored=mirrored)
    source, target = a.points[pairs[:, 0]], b.points[pairs[:, 1]]
    try:
        homography, mask = cv2.findHomography(
            source, target, cv2.USAC_MAGSAC, 5.0, maxIters=1500, confidence=0.999
        )
    except cv2.error:
        return Verification(mirrored=mirrored)
    if homography is None or not _is_sane(homography, a.grey.shape):
        return Verification(mirrored=mirrored)
    inside = mask.ravel() > 0
    # several points at one spot, with different directions, are one witness
    inliers = len(np.unique(np.round(target[inside] / 4), axis=0))
    if inliers < FEW_INLIERS:
        return Verification(inliers, mirrored=mirrored)
    size = b.grey.shape[::-1]
    warped = cv2.warpPerspective(a.grey, homography, size, flags=cv2.INTER_AREA)
    covered = cv2.warpPerspective(np.ones_like(a.grey), homography, size, flags=cv2.INTER_NEAREST)
    back = abs(1 / np.linalg.det(homography[:2, :2]))
    overlap = min(1.0, covered.sum() * max(1 / b.grey.size, back / a.grey.size))
    return Verification(
        inliers,
        _spread(target[inside], covered),
        _aligned(warped, b.grey, covered),
        float(overlap),
        mirrored,
    )


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
    """Return the share of textured blocks of the overlap whose correlation is high.

    Either sign counts, as a recoloured print may be light where the other is dark.
    """
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
