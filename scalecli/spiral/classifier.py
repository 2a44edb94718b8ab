"""The door between the sweep and every model: many seeds in, decisions out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Labels = NDArray[np.int64]


class Classifier(Protocol):
    """Learns S independent problems of one size; row s sees only the data and seed of row s."""

    def fit(self, x_SND: Points, y_SN: Labels, seeds: Sequence[int]) -> None:
        """Train on x [S, N, D] with class indices y [S, N] in [0, classes)."""
        ...

    def predict(self, x_SQD: Points) -> Labels:
        """Class indices [S, Q] for the queries [S, Q, D]."""
        ...


@dataclass(frozen=True)
class Context:
    """What a model may know before it sees data."""

    turns: float = 4.0
    """Turns of the spiral; only the network with the true prior reads the geometry."""
    tip_degrees: float = 135.0
    """Direction of the tip, degrees."""
    classes: int = 2
    """Number of classes."""


@dataclass(frozen=True)
class ModelSpec:
    """One line of the model table."""

    name: str
    label: str
    """For legends and tables."""
    about: str
    """What prior it brings, in a few words."""
    build: Callable[[Context], Classifier]
    max_n: int
    """Largest training size it is sensible at."""
    plane_only: bool = False
    """Whether it needs (x, y) in the plane, so that own tables cannot use it."""
    stacked: bool = False
    """Whether training all seeds together is faster than one by one."""
