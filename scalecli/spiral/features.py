"""What a network is fed: the prior it starts from.

Each map is fitted on the training points x [S, N, D] of S seeds and returns a function from
points [S, Q, D] to features [S, Q, F]. All arrays are float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from scalecli.spiral.classifier import Context

Floats = NDArray[np.float32]
FeatureMap = Callable[[Floats], Floats]

FREQUENCIES = 64
FOURIER_SCALE = 2.5
"""Standard deviation of the random frequencies, in radians times 2π per outer radius."""
POLAR_R = 2.0
POLAR_T = 1 / math.pi


def plain(x_SND: Floats) -> Floats:
    """The points themselves."""
    return x_SND


def xy(x_SND: Floats, seeds: Sequence[int], context: Context) -> FeatureMap:
    """(x, y): no prior beyond smoothness in the plane."""
    return plain


def polar(x_SND: Floats, seeds: Sequence[int], context: Context) -> FeatureMap:
    """(r, θ) as in the article, scaled to comparable ranges; θ keeps its cut at ±π."""

    def features(x_SND: Floats) -> Floats:
        x, y = x_SND[..., 0], x_SND[..., 1]
        return np.stack([POLAR_R * np.hypot(x, y), POLAR_T * np.arctan2(y, x)], axis=2)

    return features


def spiral(x_SND: Floats, seeds: Sequence[int], context: Context) -> FeatureMap:
    """The true prior: r, and where in the turn the point lies once the spiral is unwound."""
    tip = math.radians(context.tip_degrees)

    def features(x_SND: Floats) -> Floats:
        x, y = x_SND[..., 0], x_SND[..., 1]
        r = np.hypot(x, y)
        # Zero along the leading edge r = aθ, which ends at the tip: r = 1 at the tip's angle.
        phase = 2 * math.pi * context.turns * (r - 1) - (np.arctan2(y, x) - tip)
        return np.stack([np.cos(phase), np.sin(phase), r], axis=2)

    return features


def fourier(x_SND: Floats, seeds: Sequence[int], context: Context) -> FeatureMap:
    """Random Fourier features (Rahimi & Recht 2007; Tancik et al. 2020), drawn per seed."""
    shape = (x_SND.shape[2], FREQUENCIES)
    # A stream of its own: these are not the numbers that initialise the first layer.
    drawn = [np.random.default_rng([seed, 1]).standard_normal(shape) for seed in seeds]
    b_SDF = (2 * math.pi * FOURIER_SCALE * np.stack(drawn)).astype(np.float32)

    def features(x_SND: Floats) -> Floats:
        angle_SNF = x_SND @ b_SDF
        return np.concatenate([np.cos(angle_SNF), np.sin(angle_SNF)], axis=2)

    return features


def raw(x_SND: Floats, seeds: Sequence[int], context: Context) -> FeatureMap:
    """Each column to mean 0 and deviation 1 over the seed's own sample."""
    mean_S1D = x_SND.mean(axis=1, keepdims=True)
    std_S1D = x_SND.std(axis=1, keepdims=True)
    # A constant column carries nothing; dividing by 1 leaves it at zero.
    std_S1D = np.where(std_S1D > 1e-12, std_S1D, np.float32(1))
    return lambda x_SND: (x_SND - mean_S1D) / std_S1D


FEATURES: dict[str, Callable[[Floats, Sequence[int], Context], FeatureMap]] = {
    "xy": xy,
    "polar": polar,
    "spiral": spiral,
    "fourier": fourier,
    "raw": raw,
}
"""Feature maps by name."""
