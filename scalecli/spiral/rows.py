"""The row type the spiral sweep writes and the laws, tables and charts read."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["REGIONS", "SweepRow"]

REGIONS = ("all", "tip", "centre", "rest")
"""The parts of the plane a row may score; ``all`` is the whole plane."""


@dataclass(frozen=True)
class SweepRow:
    """One model's scores, at one size and seed, in one region.

    Attributes:
        model: The model's short name, e.g. ``knn5``.
        n: The number of training points.
        seed: The seed of the training set.
        region: ``all``, ``tip``, ``centre`` or ``rest``.
        f1: F1 of the positive class; None where the region has no positives.
        error: The share of test points misclassified; None where the region
            holds no test points.
        accuracy: The share classified correctly; None as for ``error``.
        fit_seconds: The time spent fitting, in seconds.
        predict_seconds: The time spent predicting, in seconds.
        positives: The number of positive training labels.
    """

    model: str
    n: int
    seed: int
    region: str
    f1: float | None
    error: float | None
    accuracy: float | None
    fit_seconds: float
    predict_seconds: float
    positives: int
