"""What drawn cloth is made of: patterns that fill a plane, and ornaments of polygons."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

# A cloth is drawn in roles, numbers to which its palette gives colours: the ground, the wax line
# (light), the contour (dark) and three fillings.
GROUND, LIGHT, DARK, A, B, C = range(6)
FILLS = (A, B, C)

Ornament = list[tuple[np.ndarray, int]]  # polygons (N, 2) in the box -1..1, y down, with roles


def fold(x: np.ndarray) -> np.ndarray:
    """Fold a coordinate into -1..1: cells two wide, centred on the even numbers."""
    return x - 2 * np.rint(x / 2)


def plane(shape: tuple, cell: float, angle: float = 0, shift: Sequence = (0, 0)) -> tuple:
    """Return the coordinates ``u, v`` (each ``(H, W)``, in cells) of a turned, moved grid."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) / cell
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y + shift[0], c * y - s * x + shift[1]


# Patterns take the coordinates ``u, v`` of pixels, in cells, and return their roles, all (H, W).


def _parang(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Slanting rows of blades with a double line between two rows."""
    across = np.abs(fold((u + v) / 2))
    blade = np.sin(np.pi * (2 * (u - v) + 1.2 * across)) > -0.2
    return np.select([across > 0.86, across > 0.74, blade], [LIGHT, GROUND, A], DARK)


def _kawung(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Four ovals around a cell's centre."""
    a, b = np.abs(fold(u)), np.abs(fold(v))
    oval = ((a + b - 1) / 0.86) ** 2 + ((a - b) / 0.5) ** 2
    return np.select([oval < 0.1, oval < 0.72, oval < 1], [DARK, LIGHT, A], GROUND)


def cecek(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Dots in rows, each row moved by half a dot."""
    r = np.hypot(fold(2 * u + np.floor((2 * v + 1) / 2)), fold(2 * v))
    return np.select([r < 0.5, r < 0.7], [LIGHT, B], GROUND)


def _blossoms(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A flower of six petals in each cell."""
    x, y = fold(u), fold(v)
    r, edge = np.hypot(x, y), 0.55 + 0.25 * np.cos(6 * np.arctan2(y, x))
    return np.select([r < 0.18, r < edge, r < edge + 0.12], [B, LIGHT, DARK], GROUND)


def _lozenges(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A lattice of straight lozenges, as a Sidoluhur has it in large."""
    d = np.abs(fold(u)) + np.abs(fold(v))
    return np.select([np.abs(d - 1) < 0.14, d < 0.35, d < 1], [LIGHT, B, A], GROUND)


PATTERNS = (_parang, _kawung, cecek, _blossoms, _lozenges)


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


COURT = (_lar, _flower)  # in the lozenges
STREET = (_ondel, _ondel, _bird, _flower)  # the scattered figures
