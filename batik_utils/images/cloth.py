"""The embedded data set: drawn cloth of the three motifs, for people without photographs.

    >>> from pathlib import Path
    >>> from batik_utils.images import cloth
    >>> cloth.draw("tambal", seed=7).size
    (320, 320)
    >>> cloth.write(Path("data/synthetic"))  # data/synthetic/batik-<motif>/1.jpg ... 50.jpg

A picture is made in two steps. First the cloth, seen straight on: *Sidoluhur* is a lattice of
lozenges with an ornament in each, *Tambal* a patchwork of patterns, *Betawi* figures on a plain
ground above a row of tumpal triangles. Then the photograph of it: crop, angle, folds, light,
watermark, blur, noise. Colour families overlap and motifs borrow from each other, so that neither
colour nor one single shape gives the motif away. It is no substitute for batik: whatever is
measured on it must say "synthetic".
"""

import colorsys
import json
import shutil
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter
from tqdm.auto import tqdm

from batik_utils.errors import BatikError, NotWritten
from batik_utils.images.changes import watermark
from batik_utils.images.motifs import MOTIFS
from batik_utils.images.patterns import (
    COURT,
    DARK,
    FILLS,
    GROUND,
    LIGHT,
    PATTERNS,
    STREET,
    A,
    B,
    C,
    Ornament,
    cecek,
    fold,
    plane,
)

#: Raise it whenever the same arguments give other pixels, so that old folders are not reused.
VERSION = 2
#: The file in the data set's root that says with which arguments it was finished.
MARKER = ".synthetic.json"

SIDE = 720  # pixels along a cloth's edge
SIDES = (240, 420)  # range of a written picture's sides, pixels
WORDS = ("contoh", "kain batik", "toko online", "Rp 85.000", "batik tulis", "foto: koleksi")


# Colour families: hue, hue's spread, saturation and value of contour, ground and fillings.
FAMILIES = {
    "sogan": ((0.04, 0.04, 0.6, 0.19), (0.06, 0.04, 0.7, 0.47), (0.08, 0.06, 0.65, 0.6)),
    "indigo": ((0.64, 0.04, 0.7, 0.22), (0.62, 0.05, 0.7, 0.55), (0.6, 0.08, 0.6, 0.65)),
    "red": ((0, 0.5, 0.6, 0.19), (0.02, 0.07, 0.9, 0.85), (0, 0.5, 0.8, 0.8)),
    "green": ((0, 0.5, 0.6, 0.19), (0.42, 0.13, 0.8, 0.7), (0, 0.5, 0.8, 0.8)),
    "mono": ((0, 0.5, 0.15, 0.12), (0, 0.5, 0.07, 0.5), (0, 0.5, 0.07, 0.55)),
}
# How often each motif wears each family: all occur everywhere, or colour would give motifs away.
WEARS = {
    "betawi": (0.08, 0.08, 0.68, 0.12, 0.04),
    "sidoluhur": (0.66, 0.20, 0.05, 0.03, 0.06),
    "tambal": (0.14, 0.18, 0.10, 0.14, 0.44),
}
# How often a cloth borrows a figure or a border from another motif.
STRAY = 0.3


def _palette(rng: Generator, family: str) -> np.ndarray:
    """Return six colours, ``uint8 (6, 3)``, in the order of the roles."""
    contour, ground, filling = FAMILIES[family]
    wax, colours = (0.12, 0.04, 0.16, 1.2), []
    for hue, spread, saturation, value in (ground, wax, contour, *[filling] * 3):
        hsv = (hue + spread * rng.uniform(-1, 1)) % 1, saturation * rng.uniform(0.7, 1.3), value
        colours.append(np.array(colorsys.hsv_to_rgb(*hsv)) * rng.uniform(0.65, 1.35))
    colours[GROUND] = colours[rng.choice((GROUND, LIGHT, DARK), p=(0.8, 0.08, 0.12))]
    return (255 * np.array(colours)).clip(0, 255).astype(np.uint8)


class _Cloth:
    """A cloth and its palette: roles (H, W) go in, colours come out."""

    def __init__(self, roles: np.ndarray, colours: np.ndarray):
        self.image = Image.fromarray(colours[roles])
        self.pen = ImageDraw.Draw(self.image)
        self.inks = [tuple(colour) for colour in colours.tolist()]
        self.line = LIGHT if colours[GROUND].mean() < 120 else DARK  # what shows on the ground

    def stamp(self, ornament: Ornament, at: Sequence, radius: float, angle: float = 0) -> None:
        """Draw an ornament of ``radius`` pixels at ``at``, turned by ``angle`` radians."""
        c, s = np.cos(angle), np.sin(angle)
        turn, width = radius * np.array([(c, s), (-s, c)]), max(1, round(radius / 22))
        for points, role in ornament:
            ring = (points @ turn + at).ravel().tolist()
            self.pen.polygon(ring, fill=self.inks[role])
            # a polygon's own wide outline costs Pillow two whole-picture masks, a line nothing
            self.pen.line(ring + ring[:2], fill=self.inks[self.line], width=width)

    def border(self, rng: Generator) -> None:
        """Draw tumpal along an edge: a row of nested triangles on a stripe."""
        n = int(rng.integers(5, 12))
        width, height = SIDE / n, SIDE / n * rng.uniform(0.8, 1.9)
        outer, inner, base = rng.permutation([*FILLS, LIGHT])[:3].tolist()
        self.pen.rectangle((0, SIDE - 30, SIDE, SIDE), fill=self.inks[base])
        for x in width * (np.arange(n) + 0.5):
            for role, k in ((outer, 1.0), (self.line, 0.72), (inner, 0.6)):
                triangle = k * np.array([(-width / 2, 0), (width / 2, 0), (0, -height)])
                self.stamp([(triangle, role)], (x, SIDE - 30), 1)


def _sidoluhur(rng: Generator, colours: np.ndarray) -> _Cloth:
    half, stretch = SIDE / rng.uniform(7, 18), rng.uniform(0.8, 1.7)  # half a lozenge's width, px
    u, v = plane((SIDE, SIDE), half)
    v = v / stretch
    away = np.abs(np.abs(fold(u)) + np.abs(fold(v)) - 1)
    column = np.floor((u + v + 1) / 2)
    grounds = rng.permutation([GROUND, GROUND, DARK, A, B, LIGHT])[: rng.integers(1, 5)]
    roles = grounds[column.astype(int) % len(grounds)]
    dots = np.hypot(fold(7 * u), fold(7 * v * stretch)) < 0.55
    roles = np.where(dots & (away > 0.18) & (away < rng.uniform(0.2, 0.45)), LIGHT, roles)
    bands, band = [C, *rng.permutation((LIGHT, DARK))], rng.uniform(0.05, 0.12)
    cloth = _Cloth(np.select([away < band * k for k in (0.4, 1.0, 1.4)], bands, roles), colours)
    ornaments = [COURT[k](rng) for k in rng.integers(len(COURT), size=2)]
    if rng.random() < STRAY:
        ornaments[0] = STREET[rng.integers(len(STREET))](rng)
    radius = half * min(stretch, 1) * rng.uniform(0.42, 0.6)
    for i in range(int(SIDE / half) + 2):
        for j in range(i % 2, int(SIDE / half / stretch) + 2, 2):
            cloth.stamp(ornaments[i % 2], (i * half, j * half * stretch), radius)
    if rng.random() < STRAY:
        cloth.border(rng)
    return cloth


def _tambal(rng: Generator, colours: np.ndarray) -> _Cloth:
    cloth = _Cloth(np.full((SIDE, SIDE), GROUND), colours)
    n, slant = rng.integers(2, 8), rng.uniform(0.1, 0.95)  # grid; share cut into triangles
    cell, seam = SIDE / rng.uniform(28, 60), cloth.inks[rng.choice((LIGHT, DARK))]
    width, edge = int(rng.integers(2, 7)), np.linspace(0, SIDE, n + 1)
    remnants = [colours, *(_palette(rng, family) for family in rng.choice([*FAMILIES], 2))]
    for i, j in np.ndindex(n, n):
        a, b, c, d = ((edge[i + p], edge[j + q]) for p, q in ((0, 0), (1, 0), (1, 1), (0, 1)))
        cut = rng.random() < slant
        for patch in [(a, b, c), (a, c, d)] if cut else [(a, b, c, d)]:
            corners = np.array(patch)
            low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
            w, h = (high - low).tolist()
            angle, shift = rng.choice((0, np.pi / 4, np.pi / 2)), rng.uniform(0, 2, 2)
            pattern = PATTERNS[rng.integers(len(PATTERNS))]
            roles = pattern(*plane((h, w), cell * rng.uniform(0.7, 1.5), angle, shift))
            piece = _Cloth(roles, rng.permutation(remnants[rng.integers(len(remnants))]))
            mask, ring = Image.new("1", (w, h)), corners.ravel().tolist()
            ImageDraw.Draw(mask).polygon((corners - low).ravel().tolist(), fill=1)
            cloth.image.paste(piece.image, tuple(low.tolist()), mask)
            cloth.pen.line(ring + ring[:2], fill=seam, width=width)
    if rng.random() < STRAY:
        cloth.border(rng)
    return cloth


def _betawi(rng: Generator, colours: np.ndarray) -> _Cloth:
    roles = np.full((SIDE, SIDE), GROUND)
    if rng.random() < 0.5:  # dots on the ground
        roles[cecek(*plane(roles.shape, SIDE / rng.uniform(10, 40))) == LIGHT] = C
    cloth = _Cloth(roles, colours)
    kinds = [STREET[k](rng) for k in rng.choice(len(STREET), rng.integers(2, 5))]
    n, loose = int(rng.integers(4, 9)), rng.uniform(0, 0.22)
    pitch = SIDE / n
    for i, j in np.ndindex(n + 1, n + 1):
        # rows are moved by half a step: the figures may stand as in a lattice of lozenges
        at = pitch * (np.array([i + 0.5 * (j % 2), j]) + rng.uniform(-loose, loose, 2))
        kind = kinds[(i + j) % len(kinds) if loose < 0.1 else rng.integers(len(kinds))]
        cloth.stamp(kind, at, pitch * rng.uniform(0.38, 0.52), rng.normal(0, loose))
    if rng.random() < 1 - STRAY:
        cloth.border(rng)
    return cloth


CLOTHS = {"betawi": _betawi, "sidoluhur": _sidoluhur, "tambal": _tambal}


def _view(rng: Generator, cloth: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Look at a part of the cloth, askew and somewhat from the side; ``size`` in pixels."""
    w, h = size
    corners = np.array([(0, 0), (0, h), (w, h), (w, 0)])
    seen = (corners / max(w, h) - (0.5, 0.5)) * rng.uniform(0.8, 1.25, 2)
    seen = seen * rng.uniform(0.86, 1.14, (4, 2))
    angle = rng.normal(0, 0.25) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
    seen = seen @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    seen = (seen - seen.min(0)) * rng.uniform(0.45, 1.0) * SIDE / np.ptp(seen, axis=0).max()
    seen = seen + rng.uniform(0, 1, 2) * (SIDE - np.ptp(seen, axis=0))
    rows = []  # the perspective that takes the picture's corners to those seen of the cloth
    for (x, y), (p, q) in zip(corners, seen, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -p * x, -p * y), (0, 0, 0, x, y, 1, -q * x, -q * y)]
    how = np.linalg.solve(np.array(rows), seen.ravel()).tolist()
    return cloth.transform(size, Image.Transform.PERSPECTIVE, how, Image.Resampling.BILINEAR)


def _shop_words(rng: Generator, picture: Image.Image) -> None:
    """Print a shop's words over the picture, at times on a dark band; they name no motif."""
    w, h = picture.size
    size, y, alpha = (
        h * rng.uniform(0.04, 0.09),
        rng.uniform(0.02, 0.88) * h,
        rng.integers(110, 255),
    )
    band = (y, y + h / 12, (20, 20, 20, alpha)) if rng.random() < 0.3 else None
    ink = (255, 255, 255) if rng.random() < 0.7 else (250, 220, 60)
    at = (rng.uniform(0, 0.5) * w, y)
    watermark(picture, str(rng.choice(WORDS)), at, size, (*ink, alpha), band)


def _light(rng: Generator, picture: Image.Image) -> Image.Image:
    """Fold, light and tint the cloth as a room and a telephone do, then add sensor noise."""
    w, h = picture.size
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle, waves, skew = rng.uniform(0, 2 * np.pi), rng.uniform(1, 9), rng.uniform(0, 1.5)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    folds = np.sin(waves * along + skew * across + rng.uniform(0, 6))
    light = 1 + rng.uniform(0, 0.2) * across + rng.uniform(0, 0.15) * folds
    light = light[..., None] * rng.uniform(0.9, 1.08) * rng.normal(1, 0.04, 3)
    pixels = np.asarray(picture, np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * (0 if rng.random() < 0.04 else rng.uniform(0.75, 1.15))
    pixels = (128 + (pixels - 128) * rng.uniform(0.8, 1.1)) * light
    noise = rng.standard_normal((h, w, 1), np.float32) * rng.uniform(2, 12)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def draw(motif: str, seed: int, size: tuple[int, int] = (320, 320)) -> Image.Image:
    """Draw one RGB picture of one of `MOTIFS`; a seed and size always give the same pixels.

    ``size`` is width and height in px, each at least 32.

    Raises:
        BatikError: for a motif that cannot be drawn, a negative seed, or a size too small.
    """
    _check(motif, seed)
    w, h = size
    if min(w, h) < 32:
        raise BatikError(f"A picture of {w} x {h} pixels is too small: ask for 32 x 32 or more.")
    rng = _generator(seed, motif)
    colours = _palette(rng, rng.choice([*FAMILIES], p=WEARS[motif]))
    picture = _view(rng, CLOTHS[motif](rng, colours).image, (2 * w, 2 * h))
    picture = picture.reduce(2)  # drawn twice as large, so that edges come out smooth
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    if rng.random() < 0.25:
        _shop_words(rng, picture)
    return _light(rng, picture)


def write(
    root: Path,
    motifs: Sequence[str] = MOTIFS,
    per_motif: int = 50,
    seed: int = 0,
) -> Path:
    """Write the data set, ``root/batik-<motif>/1.jpg`` and so on, or find it written already.

    The tree grows in a hidden folder beside ``root`` and is renamed at the end: an interrupted
    call leaves nothing at ``root``, and of two processes at once one is first and the other uses
    its folder. A picture depends on ``seed``, its motif and its number alone.

    Raises:
        BatikError: for an unknown motif, a negative seed, fewer than one picture per motif, or a
            ``root`` that holds anything else than this very data set.
        NotWritten: the system refuses to write there.
    """
    for motif in motifs:
        _check(motif, seed)
    if not motifs or per_motif < 1:
        raise BatikError("Nothing to draw: ask for at least one motif and one picture of each.")
    root = Path(root).resolve()
    wanted = {
        "version": VERSION,
        "motifs": sorted(set(motifs)),
        "per_motif": per_motif,
        "seed": seed,
    }
    if _finished(root, wanted):
        return root
    growing = root.with_name(f".{root.name}-{uuid.uuid4().hex}")
    try:
        pictures = [(motif, n) for motif in wanted["motifs"] for n in range(1, per_motif + 1)]
        for motif, n in tqdm(pictures, desc="Drawing cloth", unit="picture"):
            folder = growing / f"batik-{motif}"
            folder.mkdir(parents=True, exist_ok=True)
            rng = _generator(seed, motif, n)
            size = tuple(rng.integers(SIDES[0], SIDES[1] + 1, 2).tolist())
            picture = draw(motif, int(rng.integers(2**32)), size)
            picture.save(folder / f"{n}.jpg", quality=int(rng.integers(35, 93)))
        (growing / MARKER).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
        try:
            growing.rename(root)
        except OSError:
            # another process may have been first; whose folder it is does not matter
            if not _finished(root, wanted):
                raise
    except OSError as error:
        raise NotWritten(
            f"{root} cannot be written ({error.strerror or error}): allow writing there, or set "
            f"BATIK_CACHE_DIR to another folder."
        ) from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return root


def _check(motif: str, seed: int) -> None:
    if motif not in CLOTHS:
        raise BatikError(f"No cloth of motif {motif!r} can be drawn: choose {', '.join(CLOTHS)}.")
    if seed < 0:
        raise BatikError(f"The seed {seed} is negative: choose 0 or more.")


def _generator(seed: int, motif: str, *more: int) -> Generator:
    # a motif's checksum rather than its place in a list: subsets draw the same pictures
    return np.random.default_rng([seed, zlib.crc32(motif.encode()), *more])


def _finished(root: Path, wanted: dict) -> bool:
    """Tell whether ``root`` holds the data set ``wanted``; raise if it holds anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    try:
        found = json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = "no finished synthetic data set"
    if found != wanted:
        raise BatikError(
            f"{root} holds {found}, not {wanted}: name another folder or delete this one first."
        )
    return True
