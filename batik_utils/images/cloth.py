"""The embedded data set: procedural cloth of the three motifs, for people without photographs.

    >>> from pathlib import Path
    >>> from batik_utils.images import cloth as synthetic
    >>> synthetic.draw("tambal", seed=7).size
    (320, 320)
    >>> synthetic.write(Path("data/synthetic"))  # data/synthetic/batik-<motif>/1.jpg ... 50.jpg

A picture is made in two steps. First the cloth, seen straight on: *Sidoluhur* is a lattice of
curved lozenges with an ornament in each, *Tambal* a patchwork of patterns, *Betawi* figures on a
plain ground above a row of tumpal triangles. Then the photograph of it: crop, angle, folds, light,
background, watermark, blur, noise. Colour families overlap and motifs borrow from each other, so
that neither colour nor one single shape gives the motif away. It is stylised cloth, no substitute
for batik: whatever is measured on it must say "synthetic".
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
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm.auto import tqdm

from batik_utils.errors import BatikError, NotWritten
from batik_utils.images.motifs import MOTIFS

#: Raise it whenever the same arguments give other pixels, so that old folders are not reused.
VERSION = 1
#: The file in the data set's root that says with which arguments it was finished.
MARKER = ".synthetic.json"

SIDE = 720  # pixels along a cloth's edge
SIDES = (240, 420)  # range of a written picture's sides, pixels
WATERMARKS = ("contoh", "kain batik", "toko online", "Rp 85.000", "batik tulis", "foto: koleksi")

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
# How often a cloth borrows a thing (a figure, a border, a ground) from another motif.
STRAY = 0.3

Ornament = list[tuple[np.ndarray, int]]  # polygons (N, 2) in the box -1..1, y down, with roles


def _palette(rng: Generator, family: str) -> np.ndarray:
    """Return six colours, ``uint8 (6, 3)``, in the order of the roles."""
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


def _plane(shape: tuple, cell: float, angle: float = 0, shift: Sequence = (0, 0)) -> tuple:
    """Return the coordinates ``u, v`` (each ``(H, W)``, in cells) of a turned, moved grid."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / cell
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y + shift[0], c * y - s * x + shift[1]


# Patterns take the coordinates ``u, v`` of pixels, in cells, and return their roles, all (H, W).


def _parang(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Slanting rows of blades with a double line between two rows."""
    across = np.abs(_fold((u + v) / 2))
    blade = np.sin(np.pi * (2 * (u - v) + 1.2 * across)) > -0.2
    return np.select([across > 0.86, across > 0.74, blade], [LIGHT, GROUND, A], DARK)


def _kawung(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Four ovals around a cell's centre, each with two seeds."""
    a, b = np.abs(_fold(u)), np.abs(_fold(v))
    along, across = (a + b - 1) / 0.86, (a - b) / 0.5
    oval = along**2 + across**2
    seed = ((np.abs(along) - 0.4) / 0.25) ** 2 + (across / 0.2) ** 2 < 1
    return np.select([seed, oval < 0.72, oval < 1], [DARK, LIGHT, A], GROUND)


def _cecek(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Dots in rows, each row moved by half a dot."""
    r = np.hypot(_fold(2 * u + np.floor((2 * v + 1) / 2)), _fold(2 * v))
    return np.select([r < 0.5, r < 0.7], [LIGHT, B], GROUND)


def _checks(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A chequer of squares in two colours with a dot in each."""
    odd = (np.floor(u) + np.floor(v)) % 2 > 0
    dot = np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.22
    return np.select([dot & odd, odd != dot], [B, LIGHT], A)


def _blossoms(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A flower of six petals in each cell."""
    x, y = _fold(u), _fold(v)
    r, edge = np.hypot(x, y), 0.55 + 0.25 * np.cos(6 * np.arctan2(y, x))
    return np.select([r < 0.18, r < edge, r < edge + 0.12], [B, LIGHT, DARK], GROUND)


def _lozenges(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A lattice of straight lozenges, as a Sidoluhur has it in large."""
    d = np.abs(_fold(u)) + np.abs(_fold(v))
    return np.select([np.abs(d - 1) < 0.14, d < 0.35, d < 1], [LIGHT, B, A], GROUND)


def _sisik(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Rows of scales, each hiding the feet of the row above."""
    row = np.floor(v)
    ring = np.hypot(_fold(u + row), v - row)
    return np.select([ring > 1.06, ring > 0.94, (ring * 4) % 1 < 0.4], [A, DARK, LIGHT], A)


def _waves(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Waving stripes in three colours."""
    band = (2 * v + 0.5 * np.sin(np.pi * u)) % 3
    return np.select([band < 0.3, band < 1.3, band < 1.6], [DARK, LIGHT, DARK], A)


PATTERNS = (_parang, _kawung, _cecek, _checks, _blossoms, _lozenges, _sisik, _waves)


# Ornaments are polygons, the later ones on top.


def _oval(x: float, y: float, rx: float, ry: float) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def _leaf(x: float, y: float, angle: float, length: float, width: float) -> np.ndarray:
    """A pointed oval from ``x, y`` in the direction ``angle`` (radians, clockwise from right)."""
    t = np.linspace(0, 2 * np.pi, 16)
    along, side = length * (1 - np.cos(t)) / 2, width * np.sin(t)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([x + c * along - s * side, y + s * along + c * side], axis=1)


def _mirrored(shapes: Ornament) -> Ornament:
    return [*shapes, *((points * (-1, 1), role) for points, role in shapes)]


def _flower(rng: Generator) -> Ornament:
    n, width, petal = rng.integers(4, 9), rng.uniform(0.16, 0.3), int(rng.choice(FILLS))
    petals = [(_leaf(0, 0, 2 * np.pi * k / n, 0.95, width), petal) for k in range(n)]
    return [*petals, (_oval(0, 0, 0.25, 0.25), LIGHT), (_oval(0, 0, 0.12, 0.12), DARK)]


def _lar(rng: Generator) -> Ornament:
    """A pair of wings, feather by feather, around a body."""
    role, angles = int(rng.choice(FILLS)), np.linspace(-1.3, 0.5, rng.integers(3, 6))
    feathers = [
        (_leaf(0.05, 0.1, a, 0.95, 0.15), (role, LIGHT)[k % 2]) for k, a in enumerate(angles)
    ]
    return [*_mirrored(feathers), (_leaf(0, 0.7, -np.pi / 2, 1.2, 0.18), DARK)]


def _plant(rng: Generator) -> Ornament:
    (leaf, bud), rise = rng.choice(FILLS, 2).tolist(), rng.uniform(0.4, 0.9)
    heights = np.linspace(0.85, -0.15, rng.integers(2, 5))
    leaves = _mirrored([(_leaf(0, y, -rise, 0.75, 0.16), leaf) for y in heights])
    stem, tip = _leaf(0, 1, -np.pi / 2, 1.5, 0.07), _leaf(0, 0, -np.pi / 2, 0.95, 0.22)
    return [(stem, DARK), *leaves, (tip, bud)]


def _crown(rng: Generator) -> Ornament:
    role, feet = int(rng.choice(FILLS)), np.linspace(-1, 1, rng.integers(3, 6))
    spikes = [
        (_leaf(x / 2, 0.4, 0.6 * x - np.pi / 2, 1.2 - 0.4 * abs(x), 0.17), role) for x in feet
    ]
    base = np.array([(-0.7, 0.35), (0.7, 0.35), (0.5, 0.85), (-0.5, 0.85)])
    return [*spikes, (base, LIGHT), *((_oval(x, 0.6, 0.1, 0.1), DARK) for x in (-0.35, 0, 0.35))]


def _ondel(rng: Generator) -> Ornament:
    """An ondel-ondel: a giant puppet with a headdress of spikes, a sash and a long dress."""
    dress, sash, jacket = rng.permutation(FILLS).tolist()
    angles = np.linspace(-2.8, -0.35, 8)
    spikes = [(_leaf(0, -0.55, a, 0.48, 0.04), (LIGHT, sash)[k % 2]) for k, a in enumerate(angles)]
    body = np.array([(-0.25, -0.3), (0.25, -0.3), (0.42, 0.98), (-0.42, 0.98)])
    band = np.array([(-0.25, -0.28), (-0.08, -0.28), (0.38, 0.45), (0.33, 0.65)])
    arms = _mirrored([(_leaf(0.2, -0.2, 1.1, 0.65, 0.09), jacket)])
    face = [
        (_oval(0, -0.52, 0.21, 0.21), LIGHT),
        *_mirrored([(_oval(0.08, -0.6, 0.04, 0.04), DARK)]),
    ]
    return [*spikes, *arms, (body, dress), (band, sash), *face]


def _bird(rng: Generator) -> Ornament:
    body, wing, tail = rng.permutation(FILLS).tolist()
    tails = [(_leaf(-0.2, 0.1, np.pi + a, 0.8, 0.1), tail) for a in (-0.1, 0.25, 0.6)]
    head = [(_leaf(0.6, -0.25, 0.1, 0.38, 0.07), LIGHT), (_oval(0.45, -0.25, 0.2, 0.2), body)]
    breast, pinion = _oval(0, 0.05, 0.42, 0.26), _leaf(0.1, 0, -2.0, 0.9, 0.2)
    return [*tails, (breast, body), *head, (pinion, wing), (_oval(0.5, -0.29, 0.05, 0.05), DARK)]


def _boat(rng: Generator) -> Ornament:
    hull, sail, flag = rng.permutation(FILLS).tolist()
    jib, mainsail = (
        [(-0.05, 0.25), (-0.05, -0.6), (-0.6, 0.25)],
        [(0.05, 0.25), (0.05, -0.9), (0.75, 0.25)],
    )
    keel = [(-0.9, 0.35), (0.9, 0.35), (0.6, 0.8), (-0.55, 0.8)]
    sails = [(np.array(keel), hull), (np.array(mainsail), sail), (np.array(jib), LIGHT)]
    return [*sails, (_leaf(0.05, -0.88, np.pi, 0.4, 0.08), flag)]


COURT = (_lar, _plant, _crown, _flower)  # in the lozenges
STREET = (_ondel, _ondel, _bird, _boat, _flower, _plant)  # the scattered figures


class _Cloth:
    """A cloth and its palette: roles go in, colours come out.

    Args:
        roles: role of each pixel, integers ``(H, W)``.
        colours: the palette, ``uint8 (6, 3)``.
    """

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
        """Draw tumpal along one or two edges: rows of nested triangles on stripes."""
        n, ornament = int(rng.integers(5, 12)), COURT[rng.integers(len(COURT))](rng)
        width, height = SIDE / n, SIDE / n * rng.uniform(0.8, 1.9)
        outer, inner, base = rng.permutation([*FILLS, LIGHT])[:3].tolist()
        for top in (False, True)[: rng.choice((1, 2), p=(0.6, 0.4))]:
            flip = np.array((1, -1 if top else 1))
            foot = 30 if top else SIDE - 30
            for role, k in ((base, 30), (self.line, 18), (outer, 12)):
                y = (0, k) if top else (SIDE - k, SIDE)
                self.pen.rectangle((0, y[0], SIDE, y[1]), fill=self.inks[role])
            for x in width * (np.arange(n) + 0.5):
                for role, k in ((outer, 1.0), (self.line, 0.72), (inner, 0.6)):
                    triangle = k * np.array([(-width / 2, 0), (width / 2, 0), (0, -height)])
                    self.stamp([(triangle * flip, role)], (x, foot), 1)
                self.stamp(ornament, (x, foot - 0.22 * height * flip[1]), width * 0.15)


def _sidoluhur(rng: Generator, colours: np.ndarray) -> _Cloth:
    half = SIDE / rng.uniform(7, 18)  # half a lozenge's width, pixels
    stretch, bend = rng.uniform(0.8, 1.7), rng.uniform(-0.14, 0.14)
    u, v = _plane((SIDE, SIDE), half)
    v = v / stretch
    a, b = np.abs(_fold(u)), np.abs(_fold(v))
    # any edge f with f(a) + f(1 - a) = 1 tiles the plane: the lozenges between are the same shape
    edge = 1 - a + bend * np.sin(2 * np.pi * a)
    inside, far = b < edge, np.abs(b - edge)
    column = np.where(inside, np.floor((u + 1) / 2) * 2, np.floor(u / 2) * 2 + 1)
    row = np.where(inside, np.floor((v + 1) / 2) * 2, np.floor(v / 2) * 2 + 1)
    order = (column + row) / 2 if rng.random() < 0.5 else column  # by diagonals or by columns
    grounds = rng.permutation([GROUND, GROUND, DARK, A, B, LIGHT])[: rng.integers(1, 5)]
    roles = grounds[order.astype(int) % len(grounds)]
    if rng.random() < 0.35:  # every other lozenge holds a pattern
        pattern = PATTERNS[rng.integers(len(PATTERNS))]
        roles = np.where(inside, roles, pattern(*_plane(roles.shape, half * 0.2)))
    isen = np.hypot(_fold(7 * u), _fold(7 * v * stretch)) < 0.55
    roles = np.where(isen & (far > 0.18) & (far < rng.uniform(0.2, 0.45)), LIGHT, roles)
    bands, band = [C, *rng.permutation((LIGHT, DARK))], rng.uniform(0.05, 0.12)
    cloth = _Cloth(np.select([far < band * k for k in (0.4, 1.0, 1.4)], bands, roles), colours)
    ornaments = [COURT[k](rng) for k in rng.permutation(len(COURT))]
    if rng.random() < STRAY:
        ornaments[0] = STREET[rng.integers(len(STREET))](rng)
    radius = half * min(stretch, 1) * rng.uniform(0.42, 0.6)
    for i in range(int(SIDE / half) + 2):
        for j in range(i % 2, int(SIDE / half / stretch) + 2, 2):
            cloth.stamp(ornaments[i % 2], (i * half, j * half * stretch), radius)
    if rng.random() < STRAY:
        cloth.border(rng)
    return cloth


def _patches(rng: Generator) -> list[np.ndarray]:
    """Cut the cloth into patches: polygons ``(3 or 4, 2)`` in pixels."""
    n, slant = rng.integers(2, 8, 2), rng.uniform(0.1, 0.95)  # grid; share cut into triangles
    x, y = (np.linspace(0, SIDE, k + 1) for k in n)
    if rng.random() < 0.4:  # of remnants rather than of cut squares
        x[1:-1] += rng.uniform(-0.3, 0.3, n[0] - 1) * x[1]
        y[1:-1] += rng.uniform(-0.3, 0.3, n[1] - 1) * y[1]
    patches = []
    for i, j in np.ndindex(*n):
        a, b, c, d = ((x[i + p], y[j + q]) for p, q in ((0, 0), (1, 0), (1, 1), (0, 1)))
        m = ((x[i] + x[i + 1]) / 2, (y[j] + y[j + 1]) / 2)
        cuts = ([(a, b, c), (a, c, d)], [(a, b, d), (b, c, d)])[rng.integers(2)]
        if rng.random() < 0.2:
            cuts = [(a, b, m), (b, c, m), (c, d, m), (d, a, m)]
        patches += cuts if rng.random() < slant else [(a, b, c, d)]
    return [np.array(patch) for patch in patches]


def _tambal(rng: Generator, colours: np.ndarray) -> _Cloth:
    cloth = _Cloth(np.full((SIDE, SIDE), GROUND), colours)
    kinds = rng.permutation(len(PATTERNS))[: rng.integers(2, 8)]
    cell, seam = SIDE / rng.uniform(28, 60), cloth.inks[rng.choice((LIGHT, DARK))]
    width, one_bath, remnants = int(rng.integers(2, 7)), rng.random() < 0.25, [colours]
    if rng.random() < 0.5:  # patches from cloths of other colours
        remnants += [_palette(rng, family) for family in rng.choice([*FAMILIES], 2)]
    for corners in _patches(rng):
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
        w, h = (high - low).tolist()
        dyes = remnants[rng.integers(len(remnants))]
        dyes = dyes if one_bath else rng.permutation(dyes)
        angle = rng.choice((0, np.pi / 4, np.pi / 2))
        plane = _plane((h, w), cell * rng.uniform(0.7, 1.5), angle, rng.uniform(0, 2, 2))
        plain = rng.random() < 0.25  # but for a single large ornament
        pattern = PATTERNS[rng.choice(kinds)](*plane)
        patch = _Cloth(np.full((h, w), GROUND) if plain else pattern, dyes)
        if plain:
            ornament = COURT[rng.integers(len(COURT))](rng)
            patch.stamp(ornament, corners.mean(0) - low, min(w, h) * 0.3)
        mask, ring = Image.new("1", (w, h)), corners.ravel().tolist()
        ImageDraw.Draw(mask).polygon((corners - low).ravel().tolist(), fill=1)
        cloth.image.paste(patch.image, tuple(low.tolist()), mask)
        cloth.pen.line(ring + ring[:2], fill=seam, width=width)
    if rng.random() < STRAY:
        cloth.border(rng)
    return cloth


def _betawi(rng: Generator, colours: np.ndarray) -> _Cloth:
    roles = np.full((SIDE, SIDE), GROUND)
    if rng.random() < 0.5:  # isen-isen on the ground: dots, at times the lines of another pattern
        pattern = PATTERNS[rng.integers(len(PATTERNS))] if rng.random() < STRAY else _cecek
        roles[pattern(*_plane(roles.shape, SIDE / rng.uniform(10, 40))) == LIGHT] = C
    cloth = _Cloth(roles, colours)
    kinds = [STREET[k](rng) for k in rng.choice(len(STREET), rng.integers(2, 5))]
    n, loose, berry = int(rng.integers(4, 9)), rng.uniform(0, 0.22), [(_oval(0, 0, 1, 1), B)]
    pitch = SIDE / n
    for i, j in np.ndindex(n + 1, n + 1):
        # rows are moved by half a step: the figures may stand as in a lattice of lozenges
        at = pitch * (np.array([i + 0.5 * (j % 2), j]) + rng.uniform(-loose, loose, 2))
        for place in at + pitch * rng.uniform(-0.6, 0.6, (3, 2)):
            cloth.stamp(berry, place, pitch * 0.05)
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


def _shop(rng: Generator, cloth: Image.Image) -> Image.Image:
    """Cut a folded cloth or a skirt out of ``cloth`` and lay it on a background, with a shadow."""
    w, h = cloth.size
    colour = _palette(rng, rng.choice(("mono", "sogan")))[rng.integers(3)]
    slope = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.8, 1.1), h)[:, None, None]
    wall = np.broadcast_to(colour * slope, (h, w, 3)).clip(0, 255).astype(np.uint8)
    waist = 0.1 if rng.random() < 0.7 else 0.32
    outline = np.array([(waist, 0.08), (1 - waist, 0.08), (0.9, 0.92), (0.1, 0.92)])
    scale, place = rng.uniform(0.6, 1), rng.uniform(0, 1, 2)
    outline = (outline + rng.uniform(-0.07, 0.07, (4, 2))) * scale + place * (1 - scale)
    outline = outline * (w, h)
    mask, scene = Image.new("L", (w, h)), Image.fromarray(wall)
    ImageDraw.Draw(mask).polygon(outline.ravel().tolist(), fill=255)
    # the shadow is soft: a small mask blurred and enlarged looks the same and is quicker
    shadow = mask.resize((w // 8, h // 8)).filter(ImageFilter.GaussianBlur(2)).resize((w, h))
    scene.paste((20, 20, 20), (6, 8), shadow.point(lambda value: value // 2))
    scene.paste(cloth, (0, 0), mask)
    return scene


def _watermark(rng: Generator, picture: Image.Image) -> None:
    """Write a shop's text over the picture, at times on a dark band; the text names no motif."""
    w, h = picture.size
    pen, font = ImageDraw.Draw(picture, "RGBA"), ImageFont.load_default(h * rng.uniform(0.04, 0.09))
    y, alpha = int(rng.uniform(0.02, 0.88) * h), int(rng.integers(110, 255))
    if rng.random() < 0.3:
        pen.rectangle((0, y, w, y + h // 12), fill=(20, 20, 20, alpha))
    ink = (255, 255, 255, alpha) if rng.random() < 0.7 else (250, 220, 60, alpha)
    pen.text((rng.uniform(0, 0.5) * w, y), str(rng.choice(WATERMARKS)), fill=ink, font=font)


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
    """Draw one picture of a motif.

    Args:
        motif: one of ``motifs.MOTIFS``.
        seed: 0 or more; the same seed and size give the same pixels (of one Pillow and NumPy).
        size: width and height, pixels, each at least 32.

    Returns:
        An RGB picture of ``size``.

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
    if rng.random() < 0.2:
        picture = _shop(rng, picture)
    picture = picture.reduce(2)  # drawn twice as large, so that edges come out smooth
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2)))
    if rng.random() < 0.25:
        _watermark(rng, picture)
    return _light(rng, picture)


def write(
    root: Path,
    motifs: Sequence[str] = MOTIFS,
    per_motif: int = 50,
    seed: int = 0,
) -> Path:
    """Write the data set as an ``ImageFolder`` tree, or find it written already.

    The tree grows in a hidden folder beside ``root`` and is renamed at the end: an interrupted
    call leaves nothing at ``root``, and of two processes at once one is first and the other uses
    its folder. A picture depends on ``seed``, its motif and its number alone.

    Args:
        root: the data set's folder; it is made, with its parents.
        motifs: some of ``motifs.MOTIFS``.
        per_motif: pictures per motif, ``root/batik-<motif>/1.jpg`` and so on.
        seed: 0 or more.

    Returns:
        ``root``, absolute.

    Raises:
        BatikError: for an unknown motif, a negative seed, fewer than one picture per motif, or a
            ``root`` that holds anything else than this very data set.
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
