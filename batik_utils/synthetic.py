"""The embedded data set: procedural cloth of the three motifs, for people without photographs.

    >>> from batik_utils import synthetic
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
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from tqdm.auto import tqdm

from batik_utils.errors import BatikError
from batik_utils.motifs import MOTIFS

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

# Colour families: hue, saturation and value (low, high) of the contour, and of the fillings.
FAMILIES = {
    "sogan": (((0.0, 0.08), (0.4, 0.8), (0.1, 0.28)), ((0.02, 0.11), (0.5, 0.9), (0.3, 0.8))),
    "indigo": (((0.6, 0.68), (0.5, 0.9), (0.12, 0.32)), ((0.54, 0.67), (0.4, 0.9), (0.35, 0.9))),
    "bright": (((0.0, 1.0), (0.3, 0.9), (0.08, 0.35)), ((0.0, 1.0), (0.6, 1.0), (0.55, 1.0))),
    "mono": (((0.0, 1.0), (0.0, 0.3), (0.05, 0.2)), ((0.0, 1.0), (0.0, 0.15), (0.3, 0.8))),
}
# How often each motif wears each family: all occur everywhere, or colour would give motifs away.
WEARS = {
    "betawi": (0.16, 0.12, 0.66, 0.06),
    "sidoluhur": (0.56, 0.26, 0.10, 0.08),
    "tambal": (0.38, 0.24, 0.28, 0.10),
}

Ornament = list[tuple[np.ndarray, int]]  # polygons (N, 2) in the box -1..1, y down, with roles


def _palette(rng: Generator, family: str) -> np.ndarray:
    """Return six colours, ``uint8 (6, 3)``, in the order of the roles."""
    contour, filling = FAMILIES[family]
    wax = ((0.08, 0.16), (0.02, 0.32), (0.84, 1.0))
    drawn = [[rng.uniform(*ends) for ends in hsv] for hsv in (wax, contour, *[filling] * 4)]
    light, dark, *fills = [[255 * c for c in colorsys.hsv_to_rgb(*hsv)] for hsv in drawn]
    ground = (fills.pop(), dark, light)[rng.choice(3, p=(0.65, 0.2, 0.15))]
    return np.array([ground, light, dark, *fills[:3]]).astype(np.uint8)


def _fold(x: np.ndarray) -> np.ndarray:
    """Fold a coordinate into -1..1: cells two wide, centred on the even numbers."""
    return (x + 1) % 2 - 1


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


def _stamp(
    pen: ImageDraw.ImageDraw,
    ornament: Ornament,
    at: tuple,
    radius: float,
    colours: np.ndarray,
    line: int,
    angle: float = 0.0,
) -> None:
    """Draw an ornament of ``radius`` pixels at ``at``, turned by ``angle`` radians."""
    c, s = np.cos(angle), np.sin(angle)
    turn, width = radius * np.array([(c, s), (-s, c)]), max(1, round(radius / 22))
    for points, role in ornament:
        ring = (points @ turn + at).ravel().tolist()
        pen.polygon(ring, fill=tuple(colours[role].tolist()))
        # a polygon's own wide outline costs Pillow two whole-picture masks; a line is cheap
        pen.line(ring + ring[:2], fill=tuple(colours[line].tolist()), width=width)


# --- cloth --------------------------------------------------------------------------------------


def _line(colours: np.ndarray) -> int:
    """Return the role that shows on the ground: the wax line or the contour."""
    return LIGHT if colours[GROUND].mean() < 120 else DARK


def _paint(roles: np.ndarray, colours: np.ndarray) -> Image.Image:
    return Image.fromarray(colours[roles.astype(np.intp)])


def _border(cloth: Image.Image, rng: Generator, colours: np.ndarray) -> None:
    """Draw tumpal along one or two edges: nested triangles on a base of stripes."""
    n, line = int(rng.integers(5, 12)), _line(colours)
    width = SIDE / n
    height = int(width * rng.uniform(0.8, 1.9))
    strip = Image.new("RGB", (SIDE, height + 40), tuple(colours[GROUND].tolist()))
    pen = ImageDraw.Draw(strip)
    outer, inner, base = rng.permutation([*FILL, LIGHT])[:3].tolist()
    nested = [
        (np.array([(-1, 1), (1, 1), (0, -1)]) * k + (0, 1 - k), role)
        for k, role in ((1.0, outer), (0.72, line), (0.6, inner))
    ]
    nested = [(points * (width / height, 1), role) for points, role in nested]
    blossom = COURT[rng.integers(len(COURT))](rng)
    for k in range(n):
        _stamp(pen, nested, ((k + 0.5) * width, height / 2), height / 2, colours, line)
        _stamp(pen, blossom, ((k + 0.5) * width, height * 0.72), width * 0.16, colours, line)
    for y, role in ((height, base), (height + 14, line), (height + 20, outer)):
        pen.rectangle((0, y, SIDE, y + 40), fill=tuple(colours[role].tolist()))
    cloth.paste(strip, (0, SIDE - height - 40))
    if rng.random() < 0.4:
        cloth.paste(strip.transpose(Image.Transpose.FLIP_TOP_BOTTOM), (0, 0))


def _sidoluhur(rng: Generator, colours: np.ndarray) -> Image.Image:
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
    grounds = rng.permutation([GROUND, GROUND, DARK, FILL[0], FILL[1], LIGHT])[: rng.integers(1, 5)]
    # whole diagonals or columns of lozenges share a ground
    order = (column + row) / 2 if rng.random() < 0.5 else column
    roles = grounds[order.astype(int) % len(grounds)]
    if rng.random() < 0.35:  # some cloths fill every other lozenge with a pattern instead
        pattern = PATTERNS[rng.integers(len(PATTERNS))]
        roles = np.where(inside, roles, pattern(*_plane(roles.shape, half * 0.2)))
    band, line = rng.uniform(0.05, 0.12), _line(colours)
    isen = np.hypot(_fold(7 * u), _fold(7 * v * stretch)) < 0.55
    roles = np.where(isen & (far > 0.18) & (far < rng.uniform(0.2, 0.45)), LIGHT, roles)
    roles = np.select(
        [far < band * 0.4, far < band, far < band * 1.4],
        [FILL[2], line, DARK if line == LIGHT else LIGHT],
        roles,
    )
    cloth = _paint(roles, colours)
    pen = ImageDraw.Draw(cloth)
    ornaments = [COURT[k](rng) for k in rng.permutation(len(COURT))]
    if rng.random() < 0.2:  # a bird or a boat strays in from Betawi
        ornaments[0] = STREET[rng.integers(len(STREET))](rng)
    radius = half * min(stretch, 1) * rng.uniform(0.42, 0.6)
    for i in range(int(SIDE / half) + 2):
        for j in range(i % 2, int(SIDE / half / stretch) + 2, 2):
            at = (i * half, j * half * stretch)
            _stamp(pen, ornaments[i % 2], at, radius, colours, line)
    if rng.random() < 0.22:
        _border(cloth, rng, colours)
    return cloth


def _patches(rng: Generator) -> list[np.ndarray]:
    """Cut the cloth into patches: polygons ``(3 or 4, 2)`` in pixels."""
    columns, rows = rng.integers(3, 8, 2)
    share = rng.uniform(0.1, 0.95)  # how many rectangles are cut slantwise
    x, y = (np.linspace(0, SIDE, n + 1) for n in (columns, rows))
    if rng.random() < 0.4:  # a patchwork of remnants rather than a regular one
        x[1:-1] += rng.uniform(-0.3, 0.3, columns - 1) * x[1]
        y[1:-1] += rng.uniform(-0.3, 0.3, rows - 1) * y[1]
    patches = []
    for i in range(columns):
        for j in range(rows):
            a, b = (x[i], y[j]), (x[i + 1], y[j])
            c, d = (x[i + 1], y[j + 1]), (x[i], y[j + 1])
            m = ((x[i] + x[i + 1]) / 2, (y[j] + y[j + 1]) / 2)
            if rng.random() > share:
                cuts = [[a, b, c, d]]
            else:
                cuts = (
                    [[a, b, c], [a, c, d]],
                    [[a, b, d], [b, c, d]],
                    [[a, b, m], [b, c, m], [c, d, m], [d, a, m]],
                )[rng.choice(3, p=(0.4, 0.4, 0.2))]
            patches += [np.array(cut) for cut in cuts]
    return patches


def _tambal(rng: Generator, colours: np.ndarray) -> Image.Image:
    cloth = Image.new("RGB", (SIDE, SIDE))
    pen, cell = ImageDraw.Draw(cloth), SIDE / rng.uniform(28, 60)
    kinds = rng.permutation(len(PATTERNS))[: rng.integers(4, 8)]
    seam = (tuple(colours[int(rng.choice((LIGHT, DARK)))].tolist()), int(rng.integers(2, 7)))
    swap = rng.random() < 0.75  # each patch dyed on its own, or all from one bath
    for corners in _patches(rng):
        low, high = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int)
        w, h = (high - low).tolist()
        angle = rng.choice((0, np.pi / 4, np.pi / 2))
        plane = _plane((h, w), cell * rng.uniform(0.7, 1.5), angle, rng.uniform(0, 2, 2))
        own = rng.permutation(colours) if swap else colours
        patch = _paint(PATTERNS[rng.choice(kinds)](*plane), own)
        if rng.random() < 0.25:  # a single large ornament on a plain patch
            patch = Image.new("RGB", (w, h), tuple(own[GROUND].tolist()))
            at, ornament = corners.mean(0) - low, COURT[rng.integers(len(COURT))](rng)
            _stamp(ImageDraw.Draw(patch), ornament, at, min(w, h) * 0.3, own, _line(own))
        mask = Image.new("1", (w, h))
        ImageDraw.Draw(mask).polygon((corners - low).ravel().tolist(), fill=1)
        cloth.paste(patch, tuple(low.tolist()), mask)
        ring = corners.ravel().tolist()
        pen.line(ring + ring[:2], *seam)
    if rng.random() < 0.12:
        _border(cloth, rng, colours)
    return cloth


def _betawi(rng: Generator, colours: np.ndarray) -> Image.Image:
    roles = np.full((SIDE, SIDE), GROUND)
    line = _line(colours)
    if rng.random() < 0.5:  # isen-isen on the ground: dots, or the lines of another pattern
        pattern = PATTERNS[rng.integers(len(PATTERNS))] if rng.random() < 0.4 else _dots
        marks = pattern(*_plane(roles.shape, SIDE / rng.uniform(18, 40)))
        roles = np.where(marks == LIGHT, FILL[2] if pattern is not _dots else line, GROUND)
    cloth = _paint(roles, colours)
    pen = ImageDraw.Draw(cloth)
    kinds = [STREET[k](rng) for k in rng.choice(len(STREET), rng.integers(2, 5))]
    n = int(rng.integers(4, 9))
    pitch, loose = SIDE / n, rng.uniform(0, 0.22)
    for j in range(n + 1):
        for i in range(n + 1):
            # rows moved by half a step: at times the figures stand as in a lattice of lozenges
            place = np.array([i + 0.5 * (j % 2), j]) + rng.uniform(-loose, loose, 2)
            kind = kinds[(i + j) % len(kinds) if loose < 0.1 else rng.integers(len(kinds))]
            radius = pitch * rng.uniform(0.38, 0.52)
            _stamp(pen, kind, place * pitch, radius, colours, line, rng.normal(0, loose))
            for at in place * pitch + rng.uniform(-0.5, 0.5, (3, 2)) * pitch:
                _stamp(pen, [(_oval(0, 0, 1), FILL[1])], at, pitch * 0.05, colours, line)
    if rng.random() < 0.8:
        _border(cloth, rng, colours)
    return cloth


CLOTHS: dict[str, Callable[[Generator, np.ndarray], Image.Image]] = {
    "betawi": _betawi,
    "sidoluhur": _sidoluhur,
    "tambal": _tambal,
}


# --- photograph ---------------------------------------------------------------------------------


def _view(rng: Generator, cloth: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Look at a part of the cloth, askew and somewhat from the side; ``size`` in pixels."""
    w, h = size
    spread = np.array([w, h]) / max(w, h) * rng.uniform(0.8, 1.25, 2)
    # Image.QUAD's order: upper left, lower left, lower right, upper right
    quad = np.array([(-1, -1), (-1, 1), (1, 1), (1, -1)]) * spread
    quad = quad * (1 + rng.uniform(-0.14, 0.14, (4, 2)))
    angle = rng.normal(0, 0.2) if rng.random() < 0.8 else rng.uniform(-np.pi, np.pi)
    quad = quad @ np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    extent = np.ptp(quad, axis=0)
    quad = (quad - quad.min(0)) * rng.uniform(0.5, 1.0) * SIDE / extent.max()
    quad = quad + rng.uniform(0, 1, 2) * (SIDE - np.ptp(quad, axis=0))
    # corner to corner: the perspective that takes the picture's corners to the cloth's
    corners = [(0, 0), (0, h), (w, h), (w, 0)]
    rows, wanted = [], quad.ravel()
    for (x, y), (p, q) in zip(corners, quad, strict=True):
        rows += [(x, y, 1, 0, 0, 0, -p * x, -p * y), (0, 0, 0, x, y, 1, -q * x, -q * y)]
    how = np.linalg.solve(np.array(rows), wanted)
    return cloth.transform(
        size, Image.Transform.PERSPECTIVE, how.tolist(), Image.Resampling.BICUBIC
    )


def _shop(rng: Generator, cloth: Image.Image) -> Image.Image:
    """Lay the cloth on a table or wall: a cut shape of it, with a shadow, on a background."""
    w, h = cloth.size
    colour = np.array(_palette(rng, rng.choice(FAMILIES))[rng.choice((LIGHT, DARK, GROUND))])
    slope = np.linspace(rng.uniform(0.6, 1), rng.uniform(0.8, 1.1), h)[:, None, None]
    wall = np.broadcast_to(colour * slope, (h, w, 3)).clip(0, 255).astype(np.uint8)
    outlines = (
        [(0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)],  # a folded cloth
        [(0.32, 0.05), (0.68, 0.05), (0.88, 0.96), (0.12, 0.96)],  # a skirt
        [
            (0.36, 0.04),
            (0.64, 0.04),
            (0.97, 0.3),
            (0.86, 0.48),
            (0.75, 0.38),
            (0.75, 0.97),
            (0.25, 0.97),
            (0.25, 0.38),
            (0.14, 0.48),
            (0.03, 0.3),
        ],  # a shirt
    )
    outline = np.array(outlines[rng.choice(3, p=(0.6, 0.2, 0.2))])
    outline = (outline + rng.uniform(-0.07, 0.07, outline.shape)) * (w, h)
    mask = Image.new("L", (w, h))
    ImageDraw.Draw(mask).polygon(outline.ravel().tolist(), fill=255)
    scene = Image.fromarray(wall)
    # the shadow is soft: a small mask blurred and enlarged looks the same and is quicker
    shadow = mask.resize((w // 8, h // 8)).filter(ImageFilter.GaussianBlur(2)).resize((w, h))
    scene.paste((20, 20, 20), (6, 8), shadow.point(lambda value: value // 2))
    scene.paste(cloth, (0, 0), mask)
    return scene


def _watermark(rng: Generator, picture: Image.Image) -> None:
    """Write a shop's text over the picture, at times on a dark band; the text names no motif."""
    w, h = picture.size
    pen = ImageDraw.Draw(picture, "RGBA")
    y, alpha = int(rng.uniform(0.02, 0.88) * h), int(rng.integers(110, 255))
    if rng.random() < 0.3:
        pen.rectangle((0, y, w, y + h // 12), fill=(20, 20, 20, alpha))
    font = ImageFont.load_default(float(h * rng.uniform(0.04, 0.09)))
    ink = (255, 255, 255, alpha) if rng.random() < 0.7 else (250, 220, 60, alpha)
    pen.text((rng.uniform(0, 0.5) * w, y), str(rng.choice(WATERMARKS)), fill=ink, font=font)


def _light(rng: Generator, picture: Image.Image) -> Image.Image:
    """Fold, light and tint the cloth as a room and a telephone do, then add sensor noise."""
    w, h = picture.size
    y, x = np.mgrid[-1 : 1 : h * 1j, -1 : 1 : w * 1j].astype(np.float32)
    angle, waves = rng.uniform(0, 2 * np.pi), rng.uniform(1, 9)
    along = np.cos(angle) * x + np.sin(angle) * y
    across = np.cos(angle) * y - np.sin(angle) * x
    folds = np.sin(waves * along + rng.uniform(0, 6) + rng.uniform(0, 1.5) * across)
    light = 1 + rng.uniform(0, 0.35) * across + rng.uniform(0, 0.22) * folds
    light = light * rng.uniform(0.65, 1.2)
    tint = rng.normal(1, 0.09, 3)
    pixels = np.asarray(picture, np.float32)
    grey = pixels.mean(axis=2, keepdims=True)
    pixels = grey + (pixels - grey) * (0.0 if rng.random() < 0.06 else rng.uniform(0.4, 1.15))
    pixels = 128 + (pixels - 128) * rng.uniform(0.55, 1.1)
    pixels = pixels * light[..., None] * tint
    noise = rng.standard_normal((h, w, 1), np.float32) * rng.uniform(2, 14)
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
    colours = _palette(rng, str(rng.choice(FAMILIES, p=WEARS[motif])))
    picture = _view(rng, CLOTHS[motif](rng, colours), (2 * w, 2 * h))
    if rng.random() < 0.3:
        picture = _shop(rng, picture)
    picture = picture.reduce(2)  # drawn twice as large, so that edges come out smooth
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.6)))
    if rng.random() < 0.3:
        _watermark(rng, picture)
    return _light(rng, picture)


# --- files --------------------------------------------------------------------------------------


def write(
    root: Path,
    motifs: Sequence[str] = MOTIFS,
    per_motif: int = 50,
    seed: int = 0,
    progress: bool = True,
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
        progress: show a progress bar.

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
        for motif, n in tqdm(pictures, desc="Drawing cloth", unit="picture", disable=not progress):
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
