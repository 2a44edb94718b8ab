"""Two runs side by side: the same rung then and now, with the interval of their ratio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from scalecli.bench.analysis import Row, speedup
from scalecli.core.errors import UsageError

ALIKE = ("device", "model", "image_size", "num_classes", "depth", "data", "nnodes")
"""Settings of a run that must agree for its rungs to be comparable."""

Verdict = Literal["slower", "faster", "not significant", "not comparable"]


@dataclass(frozen=True)
class Comparison:
    """A rung of this run over the rung of the same name in an earlier one."""

    rung: str
    verdict: Verdict
    reason: str = ""
    """Why the two cannot be compared."""
    ratio: float | None = None
    """Samples/s now over samples/s then."""
    low: float | None = None
    high: float | None = None
    """95 % interval of the ratio; None with a single repeat on a side."""

    @property
    def slowdown_percent(self) -> float:
        """By how much a rung is slower beyond noise; 0 for any other verdict."""
        return 100 * (1 - self.ratio) if self.verdict == "slower" and self.ratio else 0.0


def check_alike(old: Mapping[str, Any], new: Mapping[str, Any], *, where: str) -> None:
    """Refuse a run that measured something else.

    Raises:
        UsageError: device, model or data differ; says which.
    """
    for key in ALIKE:
        if old.get(key) != new.get(key):
            flag = "--" + key.replace("_", "-")
            raise UsageError(
                f"--compare {where}: made with {flag} {old.get(key)}, this run has {new.get(key)}; "
                "compare runs of the same thing"
            )


def compare(
    new: Sequence[Row], old: Sequence[Row], *, rng: np.random.Generator
) -> tuple[Comparison, ...]:
    """One comparison per rung of ``new``, in its order."""
    before = {row.rung: row for row in old}
    return tuple(_compare(row, before.get(row.rung), rng) for row in new)


def _compare(row: Row, old: Row | None, rng: np.random.Generator) -> Comparison:
    if old is None:
        return Comparison(row.rung, "not comparable", "not in the earlier run")
    if row.config != old.config:
        return Comparison(row.rung, "not comparable", "its settings were different")
    for side, when in ((row, "now"), (old, "then")):
        if not side.samples_per_s or side.status != "ok":
            return Comparison(row.rung, "not comparable", f"{side.status} {when}: {side.reason}")
    now, then = _measured(row), _measured(old)
    interval = speedup(now, then, rng=rng)
    if interval is None:
        ratio = float(np.median(now) / np.median(then))
        return Comparison(row.rung, "not significant", "a single repeat proves nothing", ratio)
    verdict: Verdict = "not significant"
    if interval.high < 1:
        verdict = "slower"
    elif interval.low > 1:
        verdict = "faster"
    return Comparison(row.rung, verdict, "", interval.value, interval.low, interval.high)


def _measured(row: Row) -> list[float]:
    return [float(r["samples_per_s"]) for r in row.repeats if r.get("status") == "ok"]
