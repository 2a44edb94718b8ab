"""Scaling laws of the sweep: err = a·N^(−b) + c, judged by a held-out size and inverted.

The fit follows the practice reviewed by Alabdulmohsin et al. (arXiv 2209.06640): Huber loss on log
errors, L-BFGS-B from a grid of starts, a bootstrap over seeds, and extrapolation to the largest N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from scalecli.spiral.rows import SweepRow

DELTA = 1e-3
"""Where the Huber loss turns from squares to absolute values, in log error."""
RESAMPLES = 120
"""Bootstrap refits; enough for a 95 % interval, few enough for a second per model."""

_TAIL = 0.025
_MAX_B = 5.0
# c is fitted as a share of the smallest error: above it the law could not pass through the point.
_MAX_SHARE = 0.999
_MIN_SEEDS = 2
# Along a kink the steps shrink without end; what is left to gain is far below the seed noise.
_ITERATIONS = 60
_POLISHED = 2
_FREE_C = 4

Array = NDArray[np.float64]
Law = tuple[float, float, float]


@dataclass(frozen=True)
class Needed:
    """The training points a law asks for to reach an error; None means not reachable."""

    target: float
    """The error to reach."""
    n: float | None
    """Training points; None where the law's floor c lies at or above the target."""
    low: float | None
    """Lower end of the 95 % bootstrap interval; None as for ``n``, or without an interval."""
    high: float | None
    """Upper end; None where it is unbounded, or without an interval."""


@dataclass(frozen=True)
class LawFit:
    """One model's law err = a·N^(−b) + c, with 95 % intervals from resampled seeds.

    The interval ends are None with fewer than two seeds: there is nothing to resample.
    """

    model: str
    a: float
    b: float
    c: float
    b_low: float | None
    b_high: float | None
    c_low: float | None
    c_high: float | None
    c_fixed: bool
    """Whether c was held at 0, because there are fewer than four sizes."""
    holdout_n: int | None
    """The largest size, left out of a second fit; None with fewer than three sizes."""
    holdout_ratio: float | None
    """Predicted over measured error at ``holdout_n``; 1 is a perfect extrapolation."""
    needed: tuple[Needed, ...] = ()
    """Answers for the targets asked."""
    samples: tuple[Law, ...] = field(default=(), repr=False)
    """(a, b, c) of every bootstrap refit, so that other targets can be inverted later."""

    def predict(self, n: float) -> float:
        """The law's error with ``n`` training points."""
        return self.a * math.exp(-self.b * math.log(n)) + self.c


@dataclass(frozen=True)
class PriorWorth:
    """How many times the data the reference needs to match a model's error at one size."""

    model: str
    n: int
    factor: float | None
    """Reference points per point of the model; None where the reference never gets there."""
    low: float | None
    """Lower end of the 95 % interval; None where not reachable or with fewer than two seeds."""
    high: float | None
    """Upper end; None where unbounded or with fewer than two seeds."""
    extrapolated: bool = False
    """Whether the reference's law was used beyond its measured sizes."""


def fit_law(
    rows: Sequence[SweepRow],
    model: str,
    *,
    test_points: int,
    targets: Sequence[float] = (),
    resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> LawFit | None:
    """Fit a model's error law over the whole plane.

    Args:
        rows: the sweep's rows, all models and regions.
        model: whose law to fit.
        test_points: size of the test set; an error of 0 counts as half a point.
        targets: errors to invert for.
        resamples: bootstrap refits over seeds.
        rng: source of the resampling; by default seeded, so that a report repeats exactly.

    Returns:
        The fit, or None with fewer than two sizes.
    """
    sizes, errors = _matrix(rows, model)
    if sizes.size < 2:
        return None
    floor = 0.5 / test_points
    mean = _mean(errors, floor)
    with _one_thread():
        law = _fit(sizes, mean)
    holdout_n = holdout_ratio = None
    if sizes.size >= 3:
        with _one_thread():
            a, b, c = _fit(sizes[:-1], mean[:-1])
        holdout_n = int(sizes[-1])
        holdout_ratio = float((a * sizes[-1] ** (-b) + c) / mean[-1])
    with _one_thread():
        samples = tuple(
            _fit(sizes, _mean(errors[pick], floor), start=law)
            for pick in _picks(len(errors), resamples, rng)
            if not np.isnan(errors[pick]).all(axis=0).any()
        )
    b_low, b_high = _ends([s[1] for s in samples])
    c_low, c_high = _ends([s[2] for s in samples])
    return LawFit(
        model,
        *law,
        b_low,
        b_high,
        c_low,
        c_high,
        sizes.size < _FREE_C,
        holdout_n,
        holdout_ratio,
        tuple(_needed(law, samples, target) for target in targets),
        samples,
    )


def fit_laws(
    rows: Sequence[SweepRow],
    *,
    test_points: int,
    targets: Sequence[float] = (),
    resamples: int = RESAMPLES,
) -> tuple[LawFit, ...]:
    """Fit every model's law, in the order of the rows; models of a single size are left out."""
    fits = (
        fit_law(rows, model, test_points=test_points, targets=targets, resamples=resamples)
        for model in dict.fromkeys(r.model for r in rows)
    )
    return tuple(fit for fit in fits if fit is not None)


def needed_n(fit: LawFit, target: float) -> Needed:
    """Invert a law: the training points needed for an error of ``target``."""
    return _needed((fit.a, fit.b, fit.c), fit.samples, target)


def prior_worth(
    rows: Sequence[SweepRow],
    model: str,
    *,
    reference: str = "knn1",
    test_points: int,
    resamples: int = RESAMPLES,
    rng: np.random.Generator | None = None,
) -> tuple[PriorWorth, ...]:
    """What a model's prior is worth in data: reference points per point, at every size.

    The reference's curve is inverted by log–log interpolation between its sizes, and by its fitted
    law outside them. The interval resamples seeds, jointly for both models: they share data sets.

    Returns:
        One entry per size of the model; empty where the reference has fewer than two sizes.
    """
    seeds = sorted({r.seed for r in rows if r.model in (model, reference)})
    sizes, errors = _matrix(rows, model, seeds)
    grid, curve = _matrix(rows, reference, seeds)
    if grid.size < 2 or sizes.size == 0:
        return ()
    floor = 0.5 / test_points
    mean, base = _mean(errors, floor), _mean(curve, floor)
    with _one_thread():
        law = _fit(grid, base)
    factors = _match(mean, grid, base, law) / sizes
    spread = []
    with _one_thread():
        for pick in _picks(len(seeds), resamples, rng):
            if np.isnan(errors[pick]).all(axis=0).any() or np.isnan(curve[pick]).all(axis=0).any():
                continue
            e, r = _mean(errors[pick], floor), _mean(curve[pick], floor)
            # A refit is the slow part and only matters where the law is used.
            outside = e.min() < r.min() or e.max() > r[0]
            spread.append(_match(e, grid, r, _fit(grid, r, start=law) if outside else law) / sizes)
    found = []
    for i, n in enumerate(sizes):
        low, high = _ends([s[i] for s in spread])
        factor = _finite(float(factors[i]))
        outside = bool(mean[i] < base.min() or mean[i] > base[0])
        found.append(PriorWorth(model, int(n), factor, low, high, outside))
    return tuple(found)


def prior_worths(
    rows: Sequence[SweepRow],
    *,
    reference: str = "knn1",
    test_points: int,
    resamples: int = RESAMPLES,
) -> tuple[PriorWorth, ...]:
    """:func:`prior_worth` of every model but the reference, in the order of the rows."""
    return tuple(
        worth
        for model in dict.fromkeys(r.model for r in rows)
        if model != reference
        for worth in prior_worth(
            rows, model, reference=reference, test_points=test_points, resamples=resamples
        )
    )


def _matrix(
    rows: Sequence[SweepRow], model: str, seeds: Sequence[int] | None = None
) -> tuple[Array, Array]:
    """Sizes, ascending, and errors [seeds, sizes] with NaN where a cell is missing."""
    cells: Mapping[tuple[int, int], float] = {
        (r.seed, r.n): r.error
        for r in rows
        if r.model == model and r.region == "all" and r.error is not None
    }
    sizes = sorted({n for _, n in cells})
    if seeds is None:
        seeds = sorted({seed for seed, _ in cells})
    errors = [[cells.get((seed, n), math.nan) for n in sizes] for seed in seeds]
    return np.array(sizes, dtype=float), np.array(errors, dtype=float).reshape(-1, len(sizes))


def _mean(errors: Array, floor: float) -> Array:
    present = ~np.isnan(errors)
    total = np.where(present, errors, 0.0).sum(axis=0)
    mean: Array = np.maximum(total / present.sum(axis=0), floor)
    return mean


def _picks(seeds: int, resamples: int, rng: np.random.Generator | None) -> NDArray[np.int64]:
    if seeds < _MIN_SEEDS:
        return np.empty((0, 0), dtype=np.int64)
    rng = np.random.default_rng(0) if rng is None else rng
    return rng.integers(0, seeds, size=(resamples, seeds))


def _one_thread() -> AbstractContextManager[object]:
    # Three-parameter fits gain nothing from BLAS threads, whose spinning costs tenfold on a busy
    # machine.
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[object] = threadpool_limits(1)
    return limits


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ends(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Percentile interval; an end that is infinite, or without values, is None."""
    if len(values) < 2:
        return None, None
    # Order statistics, because interpolating between infinities gives NaN.
    low = np.quantile(values, _TAIL, method="lower")
    high = np.quantile(values, 1 - _TAIL, method="higher")
    return _finite(float(low)), _finite(float(high))


def _invert(law: Law, target: float) -> float:
    a, b, c = law
    if target <= c:
        return math.inf
    log_n = (math.log(a) - math.log(target - c)) / b
    return math.exp(log_n) if log_n < 700 else math.inf


def _needed(law: Law, samples: Sequence[Law], target: float) -> Needed:
    if target <= 0:
        raise ValueError(f"target error {target}: must be above 0")
    low, high = _ends([_invert(sample, target) for sample in samples])
    return Needed(target, _finite(_invert(law, target)), low, high)


def _match(errors: Array, grid: Array, curve: Array, law: Law) -> Array:
    """The reference's sizes at which it reaches ``errors``; inf where it never does."""
    # More data never hurts in the mean; seed noise that says so would make the inverse ambiguous.
    best = np.minimum.accumulate(curve)
    fresh = np.concatenate([[True], best[1:] < best[:-1]])
    ease, log_n = -np.log(best[fresh]), np.log(grid[fresh])
    found: Array = np.exp(np.interp(-np.log(errors), ease, log_n))
    for i, error in enumerate(errors):
        if error < best[-1]:
            # The law may cross the last point early; the measured curve says "not yet".
            found[i] = max(_invert(law, float(error)), float(grid[fresh][-1]))
        elif error > best[0]:
            found[i] = min(_invert(law, float(error)), float(grid[0]))
    return found


def _fit(sizes: Array, errors: Array, start: Law | None = None) -> Law:
    """Minimise the Huber loss of log errors over (a, b, c), from ``start`` or a grid."""
    from scipy import optimize

    log_n, log_e = np.log(sizes), np.log(errors)
    # Centring N decorrelates a from b, which is worth a factor of several in iterations.
    centre, smallest = float(log_n.mean()), float(errors.min())
    x = log_n - centre
    free = sizes.size >= _FREE_C

    def loss(p: Array, delta: float) -> tuple[float, Array]:
        power = np.exp(np.clip(p[0] - p[1] * x, -200, 200))
        model = power + (p[2] * smallest if free else 0.0)
        r = np.log(model) - log_e
        size = np.abs(r)
        small = size <= delta
        value = np.where(small, 0.5 * r * r / delta, size - 0.5 * delta).sum()
        slope = np.clip(r / delta, -1, 1) / model
        gradient = [(slope * power).sum(), (-slope * power * x).sum()]
        if free:
            gradient.append(slope.sum() * smallest)
        return float(value), np.array(gradient)

    starts = []
    if start is not None:
        a, b, c = start
        starts.append([math.log(a) - b * centre, b, min(c / smallest, _MAX_SHARE)])
    shares: tuple[float, ...] = (0.0,)
    if free:
        shares = (0.0, 0.5, 0.9) if start is None else (0.5,)
    for share in shares:
        for b in (0.25, 0.5, 1.0) if start is None else (0.5,):
            rest = np.log(np.maximum(errors - share * smallest, 1e-3 * errors))
            starts.append([float((rest + b * x).mean()), b, share])
    bounds = [(-100.0, 100.0), (1e-4, _MAX_B), (0.0, _MAX_SHARE)][: 3 if free else 2]

    def descend(p: Array, delta: float) -> Array:
        found: Array = optimize.minimize(
            loss,
            p,
            args=(delta,),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": _ITERATIONS, "maxfun": 2 * _ITERATIONS},
        ).x
        return found

    # The loss is nearly |r|, whose kinks stall a quasi-Newton step: approach it by stages, and
    # take only the most promising starts through the costly last ones.
    points = [descend(np.array(first[: 3 if free else 2]), 1.0) for first in starts]
    points = sorted(points, key=lambda p: loss(p, DELTA)[0])[:_POLISHED]
    points = [descend(descend(p, 3e-2), DELTA) for p in points]
    best = min(points, key=lambda p: loss(p, DELTA)[0])
    b = float(best[1])
    c = float(best[2]) * smallest if free else 0.0
    return math.exp(float(best[0]) + b * centre), b, c
