"""The sampling density: an isotropic Gaussian mixture that does not know the spiral's labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalecli.spiral.config import DensityConfig

Floats = NDArray[np.float64]
Box = tuple[float, float, float, float]
"""x0, x1, y0, y1."""


@dataclass(frozen=True)
class Density:
    """K Gaussians: means [K, 2], standard deviations [K], weights [K]."""

    means_K2: Floats
    sigmas_K: Floats
    weights_K: Floats

    @classmethod
    def draw(cls, config: DensityConfig, avoid: Floats) -> Density:
        """Draw a mixture: means U[−1, 1]², σ uniform, Dirichlet(2) weights.

        Args:
            config: its seed decides everything.
            avoid: point [2] (the tip) near which no component may be centred.
        """
        rng = np.random.default_rng(config.seed)
        means: list[Floats] = []
        while len(means) < config.components:
            mean = rng.uniform(-1, 1, 2)
            if np.hypot(*(mean - avoid)) >= config.tip_clearance:
                means.append(mean)
        sigmas = rng.uniform(config.sigma_low, config.sigma_high, config.components)
        weights = rng.dirichlet(np.full(config.components, 2.0))
        return cls(np.array(means), sigmas, weights)

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Points [n, 2]."""
        which = rng.choice(len(self.weights_K), n, p=self.weights_K)
        noise = rng.standard_normal((n, 2)) * self.sigmas_K[which, None]
        return np.asarray(self.means_K2[which] + noise)

    def pdf(self, x_N2: Floats) -> Floats:
        """Density at points [N, 2], shape [N]."""
        total = np.zeros(x_N2.shape[:-1])
        for mean, sigma, weight in zip(self.means_K2, self.sigmas_K, self.weights_K, strict=True):
            square = ((x_N2 - mean) ** 2).sum(-1)
            total += weight / (2 * np.pi * sigma**2) * np.exp(-square / (2 * sigma**2))
        return total

    def _masses(self, box: Box) -> tuple[Floats, Floats, Floats]:
        """Per component: mass in the box [K], and the normal CDF at its edges [K, 2] twice."""
        from scipy.special import ndtr

        edges = np.array(box).reshape(2, 2)
        z_K22 = (edges[None] - self.means_K2[:, :, None]) / self.sigmas_K[:, None, None]
        cdf_K22 = ndtr(z_K22)
        mass_K = np.diff(cdf_K22, axis=2).prod(axis=(1, 2))
        return mass_K, cdf_K22[:, :, 0], cdf_K22[:, :, 1]

    def box_mass(self, box: Box) -> float:
        """Probability of the box."""
        return float((self.weights_K * self._masses(box)[0]).sum())

    def sample_box(self, n: int, box: Box, rng: np.random.Generator) -> Floats:
        """Points [n, 2] from the density given that they lie in the box, exactly.

        Each component is isotropic, so its restriction to a box is a product of truncated
        normals, drawn by inverse CDF: a region of probability 1e-4 costs no more than any other.
        """
        from scipy.special import ndtri

        mass_K, low_K2, high_K2 = self._masses(box)
        share = self.weights_K * mass_K
        which = rng.choice(len(share), n, p=share / share.sum())
        u = rng.uniform(low_K2[which], high_K2[which])
        x = self.means_K2[which] + self.sigmas_K[which, None] * ndtri(u)
        edges = np.array(box).reshape(2, 2)
        # Far in a Gaussian's tail the inverse CDF loses its last digits; the box still holds.
        return np.asarray(np.clip(x, edges[:, 0], edges[:, 1]))
