"""Two ways of doing one thing, timed in turns, as a ratio with its spread."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Target:
    """What a comparison should reach."""

    sense: Literal["faster", "cost"]
    """``faster``: peer's time over ours, at least ``value``; ``cost``: ours over the peer's, at
    most ``value``."""
    value: float

    def met(self, ratio: float) -> bool:
        """Whether a ratio in this target's sense reaches it."""
        return ratio >= self.value if self.sense == "faster" else ratio <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.sense == 'faster' else '≤'}{self.value:g}×"


@dataclass(frozen=True)
class Comparison:
    """One line of the table."""

    what: str
    against: str
    ours_s: float
    """Median seconds."""
    peer_s: float
    """Median seconds."""
    ratio: float
    """Median over the turns, in the target's sense."""
    ratio_low: float
    """Least ratio of a turn."""
    ratio_high: float
    """Largest ratio of a turn."""
    target: str
    met: bool
    limit: str = ""
    """The bound of this work, and how far from it the measurement is."""
    notes: list[str] = field(default_factory=list)
    """What was checked to be equal, and what the figures leave out."""


def compare(
    what: str,
    ours: Callable[[], object],
    against: str,
    peer: Callable[[], object],
    target: Target,
    *,
    turns: int = 5,
    warm_up: bool = True,
    limit: str = "",
    notes: list[str] | None = None,
) -> Comparison:
    """Time both in turns, so that a slow spell of the machine meets both.

    Args:
        what: the work, for the table.
        ours: one run of ours.
        against: the peer, for the table.
        peer: one run of the peer.
        target: the ratio wanted.
        turns: timed runs of each.
        warm_up: run each once before the clock starts.
        limit: see :class:`Comparison`.
        notes: see :class:`Comparison`.
    """
    if warm_up:
        ours()
        peer()
    times: list[tuple[float, float]] = []
    for turn in range(turns):
        # The order alternates: whoever comes second finds warmer caches and a hotter core.
        if turn % 2:
            theirs = seconds(peer)
            times.append((seconds(ours), theirs))
        else:
            mine = seconds(ours)
            times.append((mine, seconds(peer)))
    ratios = [p / o if target.sense == "faster" else o / p for o, p in times]
    ratio = statistics.median(ratios)
    return Comparison(
        what,
        against,
        statistics.median(o for o, _ in times),
        statistics.median(p for _, p in times),
        ratio,
        min(ratios),
        max(ratios),
        str(target),
        target.met(ratio),
        limit,
        notes or [],
    )


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call."""
    gc.collect()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
