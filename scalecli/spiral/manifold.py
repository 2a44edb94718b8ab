"""The closed spiral: exact inside test, boundary curve, arc length.

A band between the outer arm r = aθ and the inner arm r = a·max(0, θ − 2πβ(θ)), θ in [0, Θ],
a = 1/Θ. β is constant and falls to zero like a square root over the last ``taper`` turns: the
tip, at radius 1, rounded like a parabola's, so that there is an arm to find there. The polar
angle of θ is θ − Θ + tip, so that the tip points where the config says.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalecli.spiral.config import ManifoldConfig

Floats = NDArray[np.float64]
TAU = 2 * np.pi


@dataclass(frozen=True)
class Manifold:
    """The spiral of one config; lengths in units of its outer radius."""

    config: ManifoldConfig

    @property
    def theta_end(self) -> float:
        """Unwound angle of the tip, radians."""
        return TAU * self.config.turns

    @property
    def tip(self) -> Floats:
        """The tip, shape [2]."""
        angle = np.deg2rad(self.config.tip_degrees)
        return np.array([np.cos(angle), np.sin(angle)])

    def middle(self, before: float) -> Floats:
        """Point [2] on the arm's midline, an angle ``before`` the tip (radians)."""
        theta = np.array(self.theta_end - before)
        radius = (theta / self.theta_end + self._inner(theta)) / 2
        angle = np.deg2rad(self.config.tip_degrees) - before
        return np.asarray(radius * np.array([np.cos(angle), np.sin(angle)]))

    def _inner(self, theta: Floats) -> Floats:
        """Radius of the inner arm at unwound angles."""
        left = np.clip((self.theta_end - theta) / (TAU * self.config.taper), 0.0, 1.0)
        return np.maximum(theta - TAU * self.config.width * np.sqrt(left), 0.0) / self.theta_end

    def inside(self, x_N2: Floats) -> NDArray[np.bool_]:
        """Whether each point [N, 2] lies inside; O(1) per point.

        Only one turn of the band can hold a point: the first with outer radius ≥ r, since the
        band is narrower than the spacing of the turns.
        """
        x, y = x_N2[..., 0], x_N2[..., 1]
        unwound = np.hypot(x, y) * self.theta_end  # θ at which the outer arm has this radius
        angle = np.arctan2(y, x) - np.deg2rad(self.config.tip_degrees) + self.theta_end
        theta = unwound + np.mod(angle - unwound, TAU)
        held = (theta <= self.theta_end) & (unwound >= self._inner(theta) * self.theta_end)
        return np.asarray(held)

    def boundary(self, points: int = 20_000) -> Floats:
        """The closed curve, shape [points, 2]: out along the outer arm, back along the inner."""
        half = points // 2
        # The inner arm leaves the origin where its radius leaves zero; before that it is a point.
        out = np.linspace(0.0, self.theta_end, half)
        back = np.linspace(self.theta_end, TAU * self.config.width, points - half)
        theta = np.concatenate([out, back])
        radius = np.concatenate([out / self.theta_end, self._inner(back)])
        angle = theta - self.theta_end + np.deg2rad(self.config.tip_degrees)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    def arc_length(self, points: int = 20_000) -> float:
        """Length of the boundary curve."""
        curve = self.boundary(points)
        steps = np.diff(np.concatenate([curve, curve[:1]]), axis=0)
        return float(np.hypot(steps[:, 0], steps[:, 1]).sum())

    def local_width(self, points: int = 20_000) -> tuple[Floats, Floats]:
        """Midline points [points, 2] and the radial width [points] of the band there."""
        theta = np.linspace(TAU * self.config.width, self.theta_end, points)
        outer, inner = theta / self.theta_end, self._inner(theta)
        angle = theta - self.theta_end + np.deg2rad(self.config.tip_degrees)
        middle = (outer + inner) / 2
        return np.stack([middle * np.cos(angle), middle * np.sin(angle)], axis=1), outer - inner
