"""The largest batch that fits: halve until one fits, then close in."""

from __future__ import annotations

from collections.abc import Callable

CLOSE = 1 / 16
"""Stop when the smallest failing batch is within this share of the largest that fits."""


def largest_batch(too_large: int, fits: Callable[[int], bool]) -> int | None:
    """The largest batch below ``too_large`` that fits, within 1/16; None when not even 1 does.

    Args:
        too_large: a batch known not to fit.
        fits: tries a batch; assumed monotone.
    """
    low, high = 0, too_large
    while high - low > max(1, int(CLOSE * low)):
        # From above: small batches are cheap, but one that fits halves what is left at once.
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low or None
