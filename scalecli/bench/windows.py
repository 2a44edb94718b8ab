"""Where executions end: the law of ``MpDeviceLoader(batches_per_execution=N)``."""

from __future__ import annotations

import itertools


def ends_window(call: int, n: int) -> bool:
    """Whether the loader's ``call``-th ``next`` (from 0) ends an execution.

    The loader counts the call itself, so the first window holds N - 1 steps, all others N.
    """
    return call >= n - 1 and (call - (n - 1)) % n == 0


def windows(batches: int, n: int) -> list[int]:
    """Steps of each execution over an epoch of ``batches``; its end is an end as well.

    >>> windows(30, 10)
    [9, 10, 10, 1]
    """
    ends = [call for call in range(batches) if ends_window(call, n)]
    cuts = [0, *ends, batches]
    return [b - a for a, b in itertools.pairwise(cuts) if b > a]
