"""Intervals: how far a mean of seeds, a median of repeats or a share of trials can be trusted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Interval(NamedTuple):
    """A point estimate with its confidence interval; ``low <= value <= high``."""

    value: float
    low: float
    high: float


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Mean with Student's t interval. One value gives an infinite interval, not a zero one."""
    x = np.asarray(values, dtype=float)
    mean = float(x.mean())
    if x.size < 2:
        return Interval(mean, -np.inf, np.inf)
    from scipy import stats

    half = float(stats.t.ppf(0.5 + confidence / 2, x.size - 1) * x.std(ddof=1) / np.sqrt(x.size))
    return Interval(mean, mean - half, mean + half)


def bootstrap_interval(
    values: Sequence[float] | NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap over the first axis of ``values``.

    Args:
        values: observations, shape [n, ...].
        statistic: maps resampled observations [resamples, n, ...] to [resamples].
        rng: source of the resampling.
        resamples: number of bootstrap samples.
        confidence: coverage of the interval, in (0, 1).
    """
    x = np.asarray(values, dtype=float)
    picks = rng.integers(0, len(x), size=(resamples, len(x)))
    spread = statistic(x[picks])
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(spread, [tail, 1 - tail])
    return Interval(float(statistic(x[None])[0]), float(low), float(high))


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share (Wilson 1927); sound for shares near 0 and 1.

    No trials give NaN within [0, 1].
    """
    if trials == 0:
        return Interval(float("nan"), 0.0, 1.0)
    from scipy import stats

    z = float(stats.norm.ppf(0.5 + confidence / 2))
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = (z / (1 + z * z / trials)) * math.sqrt(
        share * (1 - share) / trials + z * z / (4 * trials * trials)
    )
    # Rounding must not put an end beyond 0, 1 or the share itself.
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))
