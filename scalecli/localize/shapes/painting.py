"""Pixels of scenes: outlines of shapes, textures, backgrounds, distractors.

Coordinates are pixels, x to the right and y down; images are [H, W, 3] float32 in 0…255 until
they are done.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Array = NDArray[np.float32]
Points = NDArray[np.float64]

FINE = 4
"""Outlines are drawn this many times finer, then averaged: smooth edges."""


@dataclass(frozen=True)
class Placed:
    """Where a thing stands."""

    x: float
    y: float
    """Centre, pixels."""
    radius: float
    """Of the circumcircle, pixels."""
    angle: float
    """Turn, radians."""


def paint(
    things: Sequence[tuple[Placed, str, str, str]],
    background: str,
    side: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Paint a scene.

    Args:
        things: (place, shape, colour, texture) from the furthest to the nearest.
        background: one of :data:`BACKGROUND_PAINTERS`.
        side: pixels of both sides.
        rng: all that has no name: noise, distractors, phases of textures.

    Returns:
        Image [side, side, 3], and the number of the visible thing [side, side], from 1; 0 is
        background.
    """
    image = _ground(background, side, rng)
    objects = np.zeros((side, side), np.uint8)
    for number, (placed, shape, colour, texture) in enumerate(things, 1):
        rows, columns, alpha = _coverage(placed, shape, side)
        inside = _fill(alpha.shape, colour, texture, rng)
        part = image[rows, columns]
        part += alpha[..., None] * (inside - part)
        objects[rows, columns][alpha >= 0.5] = number
    image += rng.standard_normal((side, side, 1), np.float32) * 3
    return image.clip(0, 255).astype(np.uint8), objects


# --- outlines -------------------------------------------------------------------------------


@functools.cache
def _outlines() -> dict[str, tuple[Points, Points | None]]:
    """Per shape its outline and that of its hole, [N, 2], within the unit circle."""
    circle = _regular(48)
    moon_hole = 0.8 * circle + (0.45, -0.1)
    return {
        "circle": (circle, None),
        "square": (_regular(4, turn=math.pi / 4), None),
        "triangle": (_regular(3, turn=-math.pi / 2), None),
        "star": (_star(5, inner=0.42), None),
        "cross": (_cross(0.33), None),
        "heart": (_heart(), None),
        "ring": (circle, 0.55 * circle),
        "moon": (circle, moon_hole),
    }


def _regular(corners: int, turn: float = 0.0) -> Points:
    angle = turn + np.arange(corners) * 2 * math.pi / corners
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _star(points: int, inner: float) -> Points:
    star = _regular(2 * points, turn=-math.pi / 2)
    star[1::2] *= inner
    return star


def _cross(half: float) -> Points:
    arm = math.sqrt(1 - half**2)
    quarter = np.array([(half, half), (arm, half), (arm, -half)])
    turns = [np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), k) for k in range(4)]
    return np.concatenate([quarter @ turn.T for turn in turns])


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    outline: Points = np.stack([x, y - 2.5], axis=1)
    return outline / 17.5


def _coverage(placed: Placed, shape: str, side: int) -> tuple[slice, slice, Array]:
    """The shape's bounding rows and columns, and the share of each pixel it covers."""
    left, top = (max(0, math.floor(c - placed.radius)) for c in (placed.x, placed.y))
    right, bottom = (min(side, math.ceil(c + placed.radius)) for c in (placed.x, placed.y))
    cos, sin = math.cos(placed.angle), math.sin(placed.angle)
    turn = placed.radius * np.array([[cos, sin], [-sin, cos]])
    shift = (placed.x - left, placed.y - top)
    canvas = Image.new("L", ((right - left) * FINE, (bottom - top) * FINE))
    draw = ImageDraw.Draw(canvas)
    for outline, ink in zip(_outlines()[shape], (255, 0), strict=True):
        if outline is not None:
            draw.polygon(((outline @ turn + shift) * FINE).ravel().tolist(), fill=ink)
    alpha = np.asarray(canvas.reduce(FINE), np.float32) / np.float32(255)
    return slice(top, bottom), slice(left, right), alpha


# --- what fills an outline ------------------------------------------------------------------

_INK: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red": ((220, 30, 35), (120, 5, 10)),
    "green": ((30, 170, 60), (5, 85, 25)),
    "blue": ((35, 75, 225), (10, 25, 120)),
    "yellow": ((250, 220, 30), (165, 135, 5)),
    "purple": ((155, 50, 190), (75, 15, 100)),
    "orange": ((250, 135, 20), (165, 75, 0)),
    "white": ((250, 250, 250), (185, 185, 185)),
    "black": ((15, 15, 15), (85, 85, 85)),
}
"""Main and second ink of each colour; a texture alternates between them."""


def _fill(shape: tuple[int, ...], colour: str, texture: str, rng: np.random.Generator) -> Array:
    """[h, w, 3] of a colour with a texture."""
    first, second = np.array(_INK[colour], np.float32) + rng.uniform(-12, 12, 3).astype(np.float32)
    pattern = _PATTERNS[texture](shape[0], shape[1], rng)
    filled: Array = first + pattern[..., None] * (second - first)
    return filled


def _plain(h: int, w: int, rng: np.random.Generator) -> Array:
    return np.zeros((h, w), np.float32)


def _striped(h: int, w: int, rng: np.random.Generator) -> Array:
    angle, phase = rng.uniform(0, math.pi), rng.uniform(0, 1)
    y, x = np.ogrid[:h, :w]
    wave = (x * math.cos(angle) + y * math.sin(angle)) / 6 + phase
    stripes: Array = (wave % 1 < 0.5).astype(np.float32)
    return stripes


def _dotted(h: int, w: int, rng: np.random.Generator) -> Array:
    dx, dy = rng.uniform(0, 6, size=2)
    y, x = np.ogrid[:h, :w]
    squared = ((x + dx) % 6 - 3) ** 2 + ((y + dy) % 6 - 3) ** 2
    dots: Array = (squared < 3.6).astype(np.float32)
    return dots


def _checkered(h: int, w: int, rng: np.random.Generator) -> Array:
    dx, dy = rng.integers(0, 10, size=2)
    y, x = np.ogrid[:h, :w]
    squares: Array = (((x + dx) // 5 + (y + dy) // 5) % 2).astype(np.float32)
    return squares


_PATTERNS: dict[str, Callable[[int, int, np.random.Generator], Array]] = {
    "plain": _plain,
    "striped": _striped,
    "dotted": _dotted,
    "checkered": _checkered,
}


# --- backgrounds ----------------------------------------------------------------------------


def _ground(background: str, side: int, rng: np.random.Generator) -> Array:
    """The background [side, side, 3] with its distractors: muted, so that things stand out."""
    tint, pattern = BACKGROUND_PAINTERS[background]
    relief = pattern(side, rng) + rng.uniform(-12, 12)
    image = np.array(tint, np.float32) + relief[..., None]
    canvas = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.integers(0, 5)):
        # Scratches and pebbles: nothing that a caption names.
        grey = int(rng.integers(70, 190))
        x, y = rng.uniform(0, side, size=2)
        if rng.random() < 0.5:
            dx, dy = rng.uniform(-25, 25, size=2)
            draw.line((x, y, x + dx, y + dy), fill=(grey, grey, grey), width=2)
        else:
            r = rng.uniform(1.5, 3.5)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=(grey, grey, grey))
    return np.asarray(canvas).astype(np.float32)


def _noise(side: int, rng: np.random.Generator, coarse: int) -> Array:
    """Noise of standard deviation 1 in cells of ``coarse`` pixels."""
    cells = -(-side // coarse)
    small = rng.standard_normal((cells, cells), np.float32)
    return small.repeat(coarse, 0).repeat(coarse, 1)[:side, :side]


def _flat(side: int, rng: np.random.Generator) -> Array:
    return _noise(side, rng, 16) * 2


def _wood(side: int, rng: np.random.Generator) -> Array:
    along = np.arange(side, dtype=np.float32)
    bend = rng.uniform(2, 5) * np.sin(along / rng.uniform(12, 25) + rng.uniform(0, 6))
    rings = np.sin((along[:, None] + bend[None, :].astype(np.float32)) * 0.9)
    boards = rng.normal(0, 10, size=side // 16 + 1).astype(np.float32).repeat(16)[:side]
    wood: Array = 10 * rings.astype(np.float32) + boards[:, None]
    return wood


def _brick(side: int, rng: np.random.Generator) -> Array:
    dx, dy = rng.integers(0, 20, size=2)
    y, x = np.ogrid[:side, :side]
    row = (y + dy) // 10
    mortar = ((y + dy) % 10 < 2) | ((x + dx + 10 * (row % 2)) % 20 < 2)
    return np.where(mortar, 35, 0).astype(np.float32) + _noise(side, rng, 4) * 4


def _grass(side: int, rng: np.random.Generator) -> Array:
    blades = rng.standard_normal((-(-side // 4), side), np.float32).repeat(4, 0)[:side]
    return blades * 14


def _sand(side: int, rng: np.random.Generator) -> Array:
    return _noise(side, rng, 1) * 9 + _noise(side, rng, 8) * 5


def _tiles(side: int, rng: np.random.Generator) -> Array:
    dx, dy = rng.integers(0, 24, size=2)
    y, x = np.ogrid[:side, :side]
    tiles: Array = (((x + dx) // 12 + (y + dy) // 12) % 2).astype(np.float32)
    return tiles * 36 - 18


BACKGROUND_PAINTERS: dict[
    str, tuple[tuple[int, int, int], Callable[[int, np.random.Generator], Array]]
] = {
    "grey": ((135, 135, 135), _flat),
    "wooden": ((140, 108, 80), _wood),
    "brick": ((140, 95, 85), _brick),
    "grassy": ((110, 130, 90), _grass),
    "sandy": ((180, 165, 130), _sand),
    "tiled": ((135, 145, 155), _tiles),
}
