"""Manifold and density together: samples, regions, test points, kNN theory."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from scalecli.spiral.classifier import Labels, Points
from scalecli.spiral.config import ProblemConfig
from scalecli.spiral.density import Box, Density
from scalecli.spiral.manifold import Manifold

# Half the side of the two square regions: small enough for the tip's to miss the arm beside it.
HALF_SIDE = 0.12
# The tip box is centred on the arm, this far before the tip (radians): it holds arm, not void.
BEFORE_TIP = 0.08
FRAME: Box = (-1.15, 1.15, -1.15, 1.15)

# c_k of E[err] ≈ c_k N^(−1/2) ∮ sqrt(f) ds; noise-free, flat boundary, plane, Poisson limit.
KNN_CONSTANTS = {1: 1 / np.pi, 3: 0.3369, 5: 0.3428}


@dataclass(frozen=True)
class Problem:
    """One spiral problem; everything follows from its config."""

    config: ProblemConfig

    @cached_property
    def manifold(self) -> Manifold:
        """The spiral."""
        return Manifold(self.config.manifold)

    @cached_property
    def density(self) -> Density:
        """The sampling density."""
        return Density.draw(self.config.density, self.manifold.tip)

    def sample(self, n: int, seed: int) -> tuple[Points, Labels]:
        """Training set: points [n, 2] and labels [n] (1 inside), labels flipped by the noise."""
        rng = np.random.default_rng([seed, n])
        x = self.density.sample(n, rng)
        y = self.manifold.inside(x)
        if self.config.label_noise:
            y = y ^ (rng.random(n) < self.config.label_noise)
        return x, y.astype(np.int64)

    def boxes(self) -> dict[str, Box]:
        """The named square regions: ``tip`` and ``centre``."""
        places = {"tip": self.manifold.middle(BEFORE_TIP), "centre": np.zeros(2)}
        return {
            name: (x - HALF_SIDE, x + HALF_SIDE, y - HALF_SIDE, y + HALF_SIDE)
            for name, (x, y) in places.items()
        }

    def test_sets(
        self, kind: Literal["density", "grid"], n: int, seed: int
    ) -> dict[str, tuple[Points, Labels]]:
        """Noise-free test points and labels per region: all, tip, centre, rest.

        Tip and centre get points of their own (n/4 each, from the same density restricted to
        their box): the tip is so sparse that a plain sample would hardly see it.
        """
        rng = np.random.default_rng([seed, 7919])
        boxes = self.boxes()
        if kind == "grid":
            x = _grid(FRAME, n)
            points = {"all": x, **{name: _grid(box, n // 4) for name, box in boxes.items()}}
        else:
            x = self.density.sample(n, rng)
            points = {"all": x}
            for name, box in boxes.items():
                points[name] = self.density.sample_box(n // 4, box, rng)
        outside = ~np.any([_in_box(x, box) for box in boxes.values()], axis=0)
        points["rest"] = x[outside]
        return {k: (p, self.manifold.inside(p).astype(np.int64)) for k, p in points.items()}

    @cached_property
    def boundary_integrals(self) -> tuple[float, float]:
        """∮ sqrt(f) ds, and ∮ 1/sqrt(f) ds / area of the frame for evaluation on a grid."""
        curve = self.manifold.boundary(40_000)
        closed = np.concatenate([curve, curve[:1]])
        steps = np.hypot(*np.diff(closed, axis=0).T)
        root = np.sqrt(self.density.pdf((closed[1:] + closed[:-1]) / 2))
        area = (FRAME[1] - FRAME[0]) * (FRAME[3] - FRAME[2])
        return float((root * steps).sum()), float((steps / root).sum() / area)

    def knn_theory(self, k: int, n: int, kind: str = "density") -> float | None:
        """Predicted error of kNN on n noise-free points; None for k without a constant."""
        if k not in KNN_CONSTANTS:
            return None
        return KNN_CONSTANTS[k] * self.boundary_integrals[int(kind == "grid")] / float(np.sqrt(n))

    @cached_property
    def positive_share(self) -> float:
        """P(inside) under the density, by a fixed sample of 400,000 points."""
        x = self.density.sample(400_000, np.random.default_rng(1))
        return float(self.manifold.inside(x).mean())


def _grid(box: Box, n: int) -> Points:
    side = max(2, round(np.sqrt(n)))
    x, y = np.meshgrid(np.linspace(box[0], box[1], side), np.linspace(box[2], box[3], side))
    return np.stack([x.ravel(), y.ravel()], axis=1)


def _in_box(x_N2: Points, box: Box) -> NDArray[np.bool_]:
    x, y = x_N2[:, 0], x_N2[:, 1]
    return np.asarray((x >= box[0]) & (x <= box[1]) & (y >= box[2]) & (y <= box[3]))
