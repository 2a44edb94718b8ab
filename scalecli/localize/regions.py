"""From a map to regions: scaling, thresholds, boxes, peaks, labels, and agreement with a mask.

Legend: h×w pixels of a picture, gh×gw positions of an encoder's grid, P prompts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypeAlias

import numpy as np
from PIL import Image

Map: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float32]]
Maps: TypeAlias = np.ndarray[tuple[int, ...], np.dtype[np.float32]]
Mask: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.bool_]]
Labels: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.uint16]]

SMALLEST = 0.001
"""Components below this share of the picture get no box."""


@dataclass(frozen=True)
class Box:
    """One connected component: pixels [left, right) × [top, bottom), its area and its peak."""

    left: int
    top: int
    right: int
    bottom: int
    area: int
    peak: float
    """Highest scaled value in it, 0…1."""


def upsample(scores: Map, size: tuple[int, int]) -> Map:
    """A map [gh, gw] at (width, height), bilinear, grid positions being cells' centres."""
    image = Image.fromarray(np.ascontiguousarray(scores, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


def scaled(scores: Map, low: float, high: float) -> Map:
    """Scores as 0…1 of a range, cut off at its ends; nothing where the range is a point."""
    if not high > low:
        return np.zeros_like(scores)
    unit: Map = np.clip((scores - np.float32(low)) / np.float32(high - low), 0, 1)
    return unit


def otsu(values: Map) -> float:
    """Otsu's threshold of values in 0…1: the cut with the greatest variance between its sides.

    Otsu, "A Threshold Selection Method from Gray-Level Histograms" (1979), on 256 bins.
    """
    counts, edges = np.histogram(values, bins=256, range=(0.0, 1.0))
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = counts.sum() - below
    total = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = total[:-1] / below - (total[-1] - total[:-1]) / above
    between = np.where((below > 0) & (above > 0), below * above * gap**2, 0.0)
    # Empty bins between two groups cut equally well: the middle one is the fairest.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(edges[1:-1][best].mean()) if between.max() > 0 else 0.5


def boxes(values: Map, mask: Mask, *, smallest: float = SMALLEST) -> list[Box]:
    """Bounding boxes of the 8-connected components of a mask, highest peak first.

    Args:
        values: scaled map [h, w].
        mask: [h, w].
        smallest: components below this share of the picture are left out.
    """
    from scipy import ndimage

    labels, _count = ndimage.label(mask, structure=np.ones((3, 3)))
    found = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        inside = labels[place] == number
        area = int(inside.sum())
        if area < smallest * mask.size:
            continue
        rows, columns = place
        peak = float(values[place][inside].max())
        found.append(Box(columns.start, rows.start, columns.stop, rows.stop, area, peak))
    return sorted(found, key=lambda box: (-box.peak, box.top, box.left))


def peak(scores: Map, size: tuple[int, int]) -> tuple[int, int]:
    """Pixel (x, y) of a picture of ``size`` (width, height) at the middle of the highest cell."""
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    gh, gw = scores.shape
    x, y = int((column + 0.5) * size[0] / gw), int((row + 0.5) * size[1] / gh)
    return min(x, size[0] - 1), min(y, size[1] - 1)


def labels(scores: Iterable[Map], shown: Iterable[Map], *, threshold: float) -> Labels:
    """Which prompt each pixel belongs to: 0 background, else 1 + the prompt's index.

    The winner is the highest score, as in the model's own decision. It must be a prompt, not a
    negative text, and stand out in its own map. Maps are taken one by one: a hundred of them
    need the memory of one.

    Args:
        scores: maps [h, w] of prompts, then of negative texts.
        shown: the prompts' maps [h, w] scaled to 0…1.
        threshold: a pixel is background where the winner's scaled map is below it.
    """
    best: Map | None = None
    result: Labels | None = None
    for number, (score, unit) in enumerate(zip_longest(scores, shown), start=1):
        if best is None or result is None:
            best, result = np.full_like(score, -np.inf), np.zeros(score.shape, dtype=np.uint16)
        wins = score > best
        np.copyto(best, score, where=wins)
        taken = wins & (unit >= threshold) if unit is not None else np.zeros_like(wins)
        result[wins] = 0
        result[taken] = number
    assert result is not None
    return result


@dataclass(frozen=True)
class Agreement:
    """How a map agrees with a mask."""

    inside_minus_outside: float
    """Mean of the map scaled to 0…1 inside less outside; negative is "opposite visualization"."""
    hit: bool
    """Pointing game: whether the highest point is inside."""


def agreement(scores: Map, inside: Mask) -> Agreement:
    """Compare a map [gh, gw] with a mask [h, w] at the mask's resolution."""
    height, width = inside.shape
    whole = upsample(scores, (width, height))
    unit = scaled(whole, float(scores.min()), float(scores.max()))
    x, y = peak(scores, (width, height))
    gap = float(unit[inside].mean(dtype=np.float64) - unit[~inside].mean(dtype=np.float64))
    return Agreement(gap, bool(inside[y, x]))
