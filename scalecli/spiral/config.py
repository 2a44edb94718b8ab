"""What defines the spiral problem. Defaults equal ``configs/spiral/default.yaml`` (tested)."""

from __future__ import annotations

from dataclasses import dataclass

from scalecli.core.config import option, section


@dataclass(frozen=True)
class ManifoldConfig:
    """The closed spiral: a band that leaves the origin, turns, narrows to a tip, and returns."""

    turns: float = option(4.0, "Turns around the origin.", above=0.5, high=64)
    width: float = option(
        0.15, "Width of the band as a share of the turn spacing, in (0, 1).", above=0, high=0.95
    )
    taper: float = option(0.35, "Turns over which the band narrows to the tip.", above=0, high=8)
    tip_degrees: float = option(
        135.0, "Direction of the tip from the origin, degrees counter-clockwise from +x."
    )


@dataclass(frozen=True)
class DensityConfig:
    """The sampling density: a Gaussian mixture drawn without looking at the spiral."""

    seed: int = option(27, "Seed of the mixture.", low=0)
    components: int = option(20, "Number of Gaussians.", low=1, high=1000)
    sigma_low: float = option(0.10, "Least standard deviation (outer radius = 1).", above=0)
    sigma_high: float = option(0.25, "Largest standard deviation.", above=0)
    tip_clearance: float = option(
        0.3,
        "Components centred nearer than this to the tip are drawn again: the tip stays sparse.",
        low=0,
        high=1.5,
    )

    def __post_init__(self) -> None:
        if self.sigma_high < self.sigma_low:
            raise ValueError("density.sigma_high must be at least density.sigma_low")


@dataclass(frozen=True)
class ProblemConfig:
    """Manifold, density and label noise together."""

    manifold: ManifoldConfig = section(ManifoldConfig)
    density: DensityConfig = section(DensityConfig)
    label_noise: float = option(0.0, "Share of training labels flipped, 0 to 0.5.", low=0, high=0.5)
