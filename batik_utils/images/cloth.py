"""The embedded data set: drawn cloth of the three motifs, for people without photographs.

*Sidoluhur* is a lattice of lozenges with an ornament in each, *Tambal* a patchwork of patterns,
*Betawi* figures above a row of tumpal triangles; each drawing is then photographed. It is no
substitute for batik: whatever is measured on it must say "synthetic".
"""

import colorsys
import shutil
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter
from tqdm.auto import tqdm

from batik_utils.errors import NotWritten
from batik_utils.images.changes import watermark
from batik_utils.images.motifs import MOTIFS

#: Raise it whenever the same arguments give other pixels, so that old folders are not reused.
VERSION = 3
SIDE = 720  # pixels along a cloth's edge
WORDS = ("contoh", "kain batik", "toko online", "Rp 85.000", "batik tulis", "foto: koleksi")

# A cloth is drawn in roles, numbers to which its palette gives colours: the ground, the wax line
# (light), the contour (dark) and three fillings.
GROUND, LIGHT, DARK, A, B, C = range(6)
FILLS = (A, B, C)
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
STRAY = 0.3  # how often a cloth borrows a figure or a border from another motif

Ornament = list[tuple[np.ndarray, int]]  # polygons (N, 2) in the box -1..1, y down, with roles


def _palette(rng: Generator, family: str) -> np.ndarray:
    """Return six colours, uint8 (6, 3), in the order of the roles."""
    contour, ground, filling = FAMILIES[family]
    wax, colours = (0.12, 0.04, 0.16, 1.2), []
    for hue, spread, saturation, value in (ground, wax, contour, *[filling] * 3):
        hsv = (hue + spread * rng.uniform(-1, 1)) % 1, saturation * rng.uniform(0.7, 1.3), value
        colours.append(np.array(colorsys.hsv_to_rgb(*hsv)) * rng.uniform(0.65, 1.35))
    colours[GROUND] = colours[rng.choice((GROUND, LIGHT, DARK), p=(0.8, 0.08, 0.12))]
    return (255 * np.array(colours)).clip(0, 255).astype(np.uint8)


def _fold(x: np.ndarray) -> np.ndarray:
    """Fold a coordinate into -1..1: cells two wide, centred on the even numbers."""
    return x - 2 * np.rint(x / 2)


def _plane(shape: tuple, cell: float, angle: float = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates (each (H, W), in cells) of a turned grid."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / cell
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


# Patterns take the coordinates of pixels, in cells, and return their roles, all (H, W).


def _parang(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    across = np.abs(_fold((u + v) / 2))
    blade = np.sin(np.pi * (2 * (u - v) + 1.2 * across)) > -0.2
    return np.select([across > 0.86, across > 0.74, blade], [LIGHT, GROUND, A], DARK)


def _kawung(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    a, b = np.abs(_fold(u)), np.abs(_fold(v))
    oval = ((a + b - 1) / 0.86) ** 2 + ((a - b) / 0.5) ** 2
    return np.select([oval < 0.1, oval < 0.72, oval < 1], [DARK, LIGHT, A], GROUND)


def _cecek(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    r = np.hypot(_fold(2 * u + np.floor((2 * v + 1) / 2)), _fold(2 * v))
    return np.select([r < 0.5, r < 0.7], [LIGHT, B], GROUND)


def _lozenges(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    d = np.abs(_fold(u)) + np.abs(_fold(v))
    return np.select([np.abs(d - 1) < 0.14, d < 0.35, d < 1], [LIGHT, B, A], GROUND)


PATTERNS = (_parang, _kawung, _cecek, _lozenges)


def _leaf(x: float, y: float, angle: float, length: float, width: float) -> np.ndarray:
    # a pointed oval from x, y; the angle is clockwise from right
    t = np.linspace(0, 2 * np.pi, 16)
    along, side = length * (1 - np.cos(t)) / 2, width * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([x + c * along - s * side, y + s * along + c * side], axis=1)


def _flower(rng: Generator) -> Ornament:
    n, width, petal = rng.integers(4, 9), rng.uniform(0.16, 0.3), int(rng.choice(FILLS))
    petals = [(_leaf(0, 0, 2 * np.pi * k / n, 0.95, width), petal) for k in range(n)]
    return [*petals, (_leaf(-0.25, 0, 0, 0.5, 0.25), LIGHT)]


def _wings(rng: Generator) -> Ornament:
    role, angles = int(rng.choice(FILLS)), np.linspace(-1.3, 0.5, rng.integers(3, 6))
    leaves = (_leaf(0.05, 0.1, angle, 0.95, 0.15) for angle in angles)
    feathers = [(leaf, (role, LIGHT)[k % 2]) for k, leaf in enumerate(leaves)]
    mirrored = [(points * (-1, 1), role) for points, role in feathers]
    return [*feathers, *mirrored, (_leaf(0, 0.7, -np.pi / 2, 1.2, 0.18), DARK)]


def _ondel(rng: Generator) -> Ornament:
    """Return a giant puppet with a headdress of spikes, a sash and a long dress."""
    dress, sash, _ = rng.permutation(FILLS).tolist()
    angles = np.linspace(-2.8, -0.35, 8)
    spikes = [(_leaf(0, -0.55, a, 0.48, 0.04), (LIGHT, sash)[k % 2]) for k, a in enumerate(angles)]
    body = np.array([(-0.25, -0.3), (0.25, -0.3), (0.42, 0.98), (-0.42, 0.98)])
    band = np.array([(-0.25, -0.28), (-0.08, -0.28), (0.38, 0.45), (0.33, 0.65)])
    return [*spikes, (body, dress), (band, sash), (_leaf(-0.21, -0.52, 0, 0.42, 0.21), LIGHT)]


COURT = (_wings, _flower)  # in the lozenges
STREET = (_ondel, _ondel, _flower)  # the scattered figures


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
            self.pen.line(ring + ring[:2], fill=self.inks[self.line], width=width)

    def border(self, rng: Generator) -> None:
        """Draw tumpal along the lower edge: a row of nested triangles."""
        n = int(rng.integers(5, 12))
        width, height = SIDE / n, SIDE / n * rng.uniform(0.8, 1.9)
        for x in width * (np.arange(n) + 0.5):
            for role, k in ((A, 1.0), (self.line, 0.72), (B, 0.6)):
                triangle = k * np.array([(-width / 2, 0), (width / 2, 0), (0, -height)])
                self.stamp([(triangle, role)], (x, SIDE), 1)


def _sidoluhur(rng: Generator, colours: np.ndarray) -> _Cloth:
    half, stretch = SIDE / rng.uniform(7, 18), rng.uniform(0.8, 1.7)  # half a lozenge's width, px
    u, v = _plane((SIDE, SIDE), half)
    away = np.abs(np.abs(_fold(u)) + np.abs(_fold(v / stretch)) - 1)
    grounds = rng.permutation([GROUND, GROUND, DARK, A, B, LIGHT])[: rng.integers(1, 5)]
    roles = grounds[np.floor((u + v / stretch + 1) / 2).astype(int) % len(grounds)]
    dots = np.hypot(_fold(7 * u), _fold(7 * v)) < 0.55
    roles = np.where(dots & (away > 0.18) & (away < rng.uniform(0.2, 0.45)), LIGHT, roles)
    bands, band = [C, *rng.permutation((LIGHT, DARK))], rng.uniform(0.05, 0.12)
    cloth = _Cloth(np.select([away < band * k for k in (0.4, 1.0, 1.4)], bands, roles), colours)
    figures = STREET if rng.random() < STRAY else COURT
    ornaments = [figures[rng.integers(len(figures))](rng), COURT[rng.integers(2)](rng)]
    radius = half * min(stretch, 1) * rng.uniform(0.42, 0.6)
    for i in range(int(SIDE / half) + 2):
        for j in range(i % 2, int(SIDE / half / stretch) + 2, 2):
            cloth.stamp(ornaments[i % 2], (i * half, j * half * stretch), radius)
    return cloth


def _tambal(rng: Generator, colours: np.ndarray) -> _Cloth:
    cloth = _Cloth(np.full((SIDE, SIDE), GROUND), colours)
    n, cell, seam = rng.integers(2, 8), SIDE / rng.uniform(28, 60), rng.choice((LIGHT, DARK))
    slant, width, step = rng.uniform(0.1, 0.95), int(rng.integers(2, 7)), SIDE // n
    remnants = [colours, *(_palette(rng, family) for family in rng.choice([*FAMILIES], 2))]
    square = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * step
    for at in np.ndindex(n + 1, n + 1):
        for corners in (square, square[:3])[: 1 + (rng.random() < slant)]:
            angle = rng.choice((0, np.pi / 4, np.pi / 2))
            plane = _plane((step, step), cell * rng.uniform(0.7, 1.5), angle)
            roles = PATTERNS[rng.integers(len(PATTERNS))](*plane)
            patch = _Cloth(roles, rng.permutation(remnants[rng.integers(len(remnants))]))
            mask, ring = Image.new("1", (step, step)), (corners + np.array(at) * step)
            ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=1)
            cloth.image.paste(patch.image, tuple(step * k for k in at), mask)
            ring = ring.ravel().tolist()
            cloth.pen.line(ring + ring[:2], fill=cloth.inks[seam], width=width)
    return cloth


def _betawi(rng: Generator, colours: np.ndarray) -> _Cloth:
    roles = np.full((SIDE, SIDE), GROUND)
    if rng.random() < 0.5:  # dots on the ground
        roles[_cecek(*_plane(roles.shape, SIDE / rng.uniform(10, 40))) == LIGHT] = C
    cloth = _Cloth(roles, colours)
    kinds = [STREET[k](rng) for k in rng.choice(len(STREET), rng.integers(2, 5))]
    pitch, loose = SIDE / rng.integers(4, 9), rng.uniform(0, 0.22)
    for i, j in np.ndindex(9, 9):
        # rows are moved by half a step: the figures may stand as in a lattice of lozenges
        at = pitch * (np.array([i + 0.5 * (j % 2), j]) + rng.uniform(-loose, loose, 2))
        radius = pitch * rng.uniform(0.38, 0.52)
        cloth.stamp(kinds[rng.integers(len(kinds))], at, radius, rng.normal(0, loose))
    if rng.random() < 1 - STRAY:
        cloth.border(rng)
    return cloth


CLOTHS = {"betawi": _betawi, "sidoluhur": _sidoluhur, "tambal": _tambal}


def _view(rng: Generator, cloth: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Look at a part of the cloth, askew and somewhat from the side; ``size`` in pixels."""
    w, h = size
    corners = np.array([(0, 0), (0, h), (w, h), (w, 0)])
    seen = (corners / max(w, h) - 0.5) * rng.uniform(0.86, 1.14, (4, 2))
    angle = rng.normal(0, 0.25) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
    seen = seen @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    seen = (seen - seen.min(0)) * rng.uniform(0.45, 1.0) * SIDE / np.ptp(seen, axis=0).max()
    seen = seen + rng.uniform(0, 1, 2) * (SIDE - np.ptp(seen, axis=0))
    rows = []  # the perspective that takes the picture's corners to those seen of the cloth
    for (x, y), (p, q) in zip(corners, seen, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -p * x, -p * y), (0, 0, 0, x, y, 1, -q * x, -q * y)]
    how = np.linalg.solve(np.array(rows), seen.ravel()).tolist()
    return cloth.transform(size, Image.Transform.PERSPECTIVE, how, Image.Resampling.BILINEAR)


def _light(rng: Generator, picture: Image.Image) -> Image.Image:
    """Fold, light and tint the cloth as a room and a telephone do, then add sensor noise."""
    w, h = picture.size
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(1, 9)
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    light = 1 + rng.uniform(0, 0.2) * across + rng.uniform(0, 0.15) * np.sin(waves * along)
    light = light[..., None] * rng.uniform(0.9, 1.08) * rng.normal(1, 0.04, 3)
    pixels = np.asarray(picture, np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * (0 if rng.random() < 0.04 else rng.uniform(0.75, 1.15))
    noise = rng.standard_normal((h, w, 1), np.float32) * rng.uniform(2, 12)
    pixels = (128 + (pixels - 128) * rng.uniform(0.8, 1.1)) * light + noise
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw(motif: str, seed: int, size: tuple[int, int] = (320, 320)) -> Image.Image:
    """Draw one RGB picture of one of `MOTIFS`; a seed and size (px) always give the same pixels."""
    w, h = size
    rng = _generator(seed, motif)
    colours = _palette(rng, rng.choice([*FAMILIES], p=WEARS[motif]))
    # drawn twice as large, so that edges come out smooth
    picture = _view(rng, CLOTHS[motif](rng, colours).image, (2 * w, 2 * h)).reduce(2)
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    if rng.random() < 0.25:
        at, size = rng.uniform((0, 0), (w / 2, 0.88 * h)), h * rng.uniform(0.05, 0.1)
        ink = (255, 255, 255, int(rng.integers(110, 255)))
        watermark(picture, str(rng.choice(WORDS)), tuple(at), size, ink)
    return _light(rng, picture)


def write(root: Path, per_motif: int = 50) -> Path:
    """Write the data set, ``root/batik-<motif>/1.jpg`` and so on, unless it is there already.

    It appears whole or not at all; a picture depends on its motif and number alone.
    """
    growing = root.with_name(f".{root.name}-{uuid.uuid4().hex}")
    pictures = [(motif, n) for motif in MOTIFS for n in range(1, per_motif + 1)]
    try:
        if root.is_dir() and any(root.iterdir()):
            return root
        for motif, n in tqdm(pictures, desc="Drawing cloth", unit="picture"):
            folder = growing / f"batik-{motif}"
            folder.mkdir(parents=True, exist_ok=True)
            rng = _generator(0, motif, n)
            size = tuple(rng.integers(240, 421, 2).tolist())
            picture = draw(motif, int(rng.integers(2**32)), size)
            picture.save(folder / f"{n}.jpg", quality=int(rng.integers(35, 93)))
        try:
            growing.rename(root)
        except OSError:
            if not any(root.iterdir()):  # another process may have been first
                raise
    except OSError as error:
        raise NotWritten(
            f"{root} cannot be written ({error.strerror or error}): allow writing there, or set "
            f"BATIK_CACHE_DIR to another folder."
        ) from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)
    return root


def _generator(seed: int, motif: str, *more: int) -> Generator:
    # a motif's checksum rather than its place in a list: subsets draw the same pictures
    return np.random.default_rng([seed, zlib.crc32(motif.encode()), *more])
