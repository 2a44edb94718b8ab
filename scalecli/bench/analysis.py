"""From the outcomes of all processes to the rows of ``results.json``; pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalecli.bench.ladder import Ladder, Rung
from scalecli.bench.launch import Outcome
from scalecli.bench.peaks import peak_tflops
from scalecli.bench.records import Answer, Status
from scalecli.core.config import to_dict
from scalecli.core.results import jsonable
from scalecli.core.stats import Interval, bootstrap_interval

MFU_WARNING = 0.6
"""Above this share of the dense peak a figure deserves doubt."""


@dataclass(frozen=True)
class Row:
    """One rung of the table."""

    rung: str
    status: Status
    reason: str
    config: dict[str, Any]
    after: str = ""
    """The rung this one builds on; empty is the baseline."""
    samples_per_s: float | None = None
    """Median over repeats."""
    samples_per_s_low: float | None = None
    """Bootstrap 95 % interval; None for a single repeat."""
    samples_per_s_high: float | None = None
    speedup: float | None = None
    """Factor over the baseline."""
    speedup_low: float | None = None
    speedup_high: float | None = None
    significant: bool | None = None
    """Whether the interval of the speed-up excludes 1; None without an interval."""
    step_ms: float | None = None
    """Median step time, ms."""
    step_ms_p99: float | None = None
    compile_s: float | None = None
    """Median over repeats that began with an empty compile cache."""
    compile_cached_s: float | None = None
    """Median over repeats that found their graphs in it; None where nothing can be cached."""
    compilations: int | None = None
    """Graphs compiled until the end of the timed block."""
    executions: int | None = None
    """Graphs executed within the timed block."""
    input_wait_share: float | None = None
    """Share of the timed block spent waiting for input."""
    transfer_ms: float | None = None
    """Host-to-device transfer per step, ms."""
    tflops: float | None = None
    """Achieved TFLOP/s of all processes."""
    mfu: float | None = None
    """Share of the dense peak, None for an unknown device."""
    peak_memory_mb: float | None = None
    usd_per_million: float | None = None
    """USD per million samples."""
    final_loss: float | None = None
    world_size: int = 1
    """Processes that really took part."""
    scaling_efficiency: float | None = None
    """Samples/s per process over those of the same setting on fewer processes."""
    largest_batch: int | None = None
    """After running out of memory: the largest batch that fits, if it was looked for."""
    precision: str = ""
    warning: str = ""
    outliers: tuple[int, ...] = ()
    """Repeats far from the others; flagged, never dropped."""
    article_samples_per_s: float | None = None
    article_speedup: float | None = None
    article_says: str = ""
    footnote: str = ""
    repeats: tuple[dict[str, Any], ...] = ()


def throughput(values: Sequence[float], *, rng: np.random.Generator) -> Interval:
    """Median with its bootstrap 95 % interval."""
    return bootstrap_interval(values, lambda x: np.median(x, axis=1), rng=rng)


def speedup(
    values: Sequence[float], base: Sequence[float], *, rng: np.random.Generator
) -> Interval | None:
    """Ratio of medians with a 95 % interval, None with fewer than two repeats on a side.

    The interval holds both the bootstrap's and Welch's t on the logarithms: over three repeats
    the bootstrap alone would call one pair in ten of equal settings different.
    """
    x, y = np.asarray(values, dtype=float), np.asarray(base, dtype=float)
    if len(x) < 2 or len(y) < 2:
        return None
    from scipy import stats

    picks_x = x[rng.integers(0, len(x), (2000, len(x)))]
    picks_y = y[rng.integers(0, len(y), (2000, len(y)))]
    ratios = np.median(picks_x, axis=1) / np.median(picks_y, axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    value = float(np.median(x) / np.median(y))
    share_x, share_y = np.log(x).var(ddof=1) / len(x), np.log(y).var(ddof=1) / len(y)
    if share_x + share_y > 0:
        freedom = (share_x + share_y) ** 2 / (share_x**2 / (len(x) - 1) + share_y**2 / (len(y) - 1))
        half = float(stats.t.ppf(0.975, freedom)) * np.sqrt(share_x + share_y)
        centre = np.log(x).mean() - np.log(y).mean()
        low, high = min(low, np.exp(centre - half)), max(high, np.exp(centre + half))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def outliers(values: Sequence[float]) -> tuple[int, ...]:
    """Positions more than 3.5 robust deviations from the median (Iglewicz and Hoaglin 1993)."""
    middle = statistics.median(values)
    spread = statistics.median(abs(v - middle) for v in values)
    if not spread:
        return ()
    return tuple(i for i, v in enumerate(values) if 0.6745 * abs(v - middle) / spread > 3.5)


def usd_per_million(samples_per_s: float, usd_per_hour: float | None) -> float | None:
    """Cost of a million samples, USD."""
    return None if usd_per_hour is None else usd_per_hour / 3600 / samples_per_s * 1e6


def analyse(
    ladder: Ladder,
    outcomes: Sequence[Outcome],
    *,
    flops_per_sample: float | None,
    usd_per_hour: float | None,
    rng: np.random.Generator,
) -> tuple[Row, ...]:
    """One row per rung, in the ladder's order.

    Args:
        ladder: its first rung is what the others are compared with.
        outcomes: in any order.
        flops_per_sample: forward and backward, from :func:`scalecli.bench.flops.train_flops`.
        usd_per_hour: price of the machine, if known.
        rng: source of the bootstrap.
    """
    base = _measured(ladder.baseline, outcomes)
    rows = []
    for rung in ladder.rungs:
        own = sorted((o for o in outcomes if o.rung == rung.name), key=lambda o: o.repeat)
        row = _row(rung, own, usd_per_hour, rng)
        good = [o.answer for o in own if o.answer.status == "ok"]
        if row.status == "ok":
            row = _with_speedup(row, _measured(rung, outcomes), base, rung is ladder.baseline, rng)
            row = _with_mfu(row, good, flops_per_sample)
        rows.append(row)
    return tuple(_with_efficiency(row, rows) for row in rows)


def _with_efficiency(row: Row, rows: Sequence[Row]) -> Row:
    """Compare with the same setting on the fewest processes."""
    alike = [
        other
        for other in rows
        if other.samples_per_s and {**other.config, "nproc": 0} == {**row.config, "nproc": 0}
    ]
    fewest = min(alike, key=lambda other: other.world_size, default=row)
    if not row.samples_per_s or not fewest.samples_per_s or fewest.world_size == row.world_size:
        return row
    own, reference = row.samples_per_s / row.world_size, fewest.samples_per_s / fewest.world_size
    return replace(row, scaling_efficiency=own / reference)


def _steps(answer: Answer, rung: Rung) -> int:
    return len(answer.step_ms) * rung.config.batches_per_execution


def _measured(rung: Rung, outcomes: Sequence[Outcome]) -> list[float]:
    return [
        o.answer.samples_per_s
        for o in sorted(outcomes, key=lambda o: o.repeat)
        if o.rung == rung.name and o.answer.status == "ok" and o.answer.samples_per_s is not None
    ]


def _row(
    rung: Rung, own: Sequence[Outcome], usd_per_hour: float | None, rng: np.random.Generator
) -> Row:
    row = Row(
        rung=rung.name,
        status="skipped",
        reason="not run",
        config=to_dict(rung.config),
        after=rung.after or "",
        article_samples_per_s=rung.article_samples_per_s,
        article_speedup=rung.article_speedup,
        article_says=rung.article_says,
        footnote=rung.footnote,
        repeats=tuple({"repeat": o.repeat, **jsonable(o.answer)} for o in own),
    )
    good = [o.answer for o in own if o.answer.status == "ok"]
    bad = [o.answer for o in own if o.answer.status != "ok"]
    values = [a.samples_per_s for a in good if a.samples_per_s is not None]
    if not values:
        return replace(row, status=bad[0].status, reason=bad[0].reason) if bad else row
    interval = throughput(values, rng=rng)
    several = len(values) > 1
    steps = [ms for a in good for ms in a.step_ms]
    return replace(
        row,
        status="ok",
        reason=f"{len(bad)} of {len(own)} repeats did not finish: {bad[0].reason}" if bad else "",
        samples_per_s=interval.value,
        samples_per_s_low=interval.low if several else None,
        samples_per_s_high=interval.high if several else None,
        step_ms=float(np.median(steps)) if steps else None,
        step_ms_p99=float(np.quantile(steps, 0.99)) if steps else None,
        compile_s=_median(_known(a.compile_s for a in good if a.cold)),
        compile_cached_s=_median(_known(a.compile_s for a in good if not a.cold)),
        compilations=good[0].compilations,
        executions=good[0].executions,
        input_wait_share=_median(_known(a.input_wait_share for a in good)),
        transfer_ms=_median([1e3 * a.transfer_s / _steps(a, rung) for a in good if a.transfer_s]),
        world_size=good[0].world_size,
        peak_memory_mb=max(_known(a.peak_memory_mb for a in good), default=None),
        usd_per_million=usd_per_million(interval.value, usd_per_hour),
        final_loss=good[0].final_loss,
        precision=good[0].precision,
        outliers=outliers(values),
    )


def _with_speedup(
    row: Row,
    values: Sequence[float],
    base: Sequence[float],
    is_base: bool,
    rng: np.random.Generator,
) -> Row:
    if is_base:
        return replace(row, speedup=1.0)
    if not base:
        return row
    interval = speedup(values, base, rng=rng)
    if interval is None:
        return replace(row, speedup=statistics.median(values) / statistics.median(base))
    return replace(
        row,
        speedup=interval.value,
        speedup_low=interval.low,
        speedup_high=interval.high,
        significant=not interval.low <= 1 <= interval.high,
    )


def _with_mfu(row: Row, good: Sequence[Answer], flops: float | None) -> Row:
    if flops is None or row.samples_per_s is None:
        return row
    tflops = row.samples_per_s * flops / 1e12
    row = replace(row, tflops=tflops)
    peak = peak_tflops(good[0].device_name, good[0].precision)
    if peak is None:
        return row
    mfu = tflops / (peak * good[0].world_size)
    if mfu > 1:
        reason = f"impossible: {mfu:.0%} of the device's dense peak; the timing is wrong"
        return replace(
            row,
            status="failed",
            reason=reason,
            speedup=None,
            speedup_low=None,
            speedup_high=None,
            significant=None,
        )
    if mfu > MFU_WARNING:
        return replace(row, mfu=mfu, warning=f"{mfu:.0%} MFU is higher than ViT training reaches")
    return replace(row, mfu=mfu)


def _known(values: Any) -> list[float]:
    return [v for v in values if v is not None]


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None
