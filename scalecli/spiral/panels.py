"""Decision regions: one model trained on one sample, its decisions on a grid of the plane."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scalecli.spiral.classifier import Context, Labels
from scalecli.spiral.config import ProblemConfig
from scalecli.spiral.models import resolve
from scalecli.spiral.pictures import plane_grid, regions_figure
from scalecli.spiral.problem import Problem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE = 240
WANTED = (
    ("knn5", 1_000), ("knn5", 10_000), ("knn1", 1_000),
    ("mlp-xy", 1_000), ("mlp-polar", 1_000), ("mlp-polar-fl-ln-wd", 1_000),
)  # fmt: skip
"""The article's panels: both kNN side by side, then the networks at N = 1,000."""


@dataclass(frozen=True)
class Panel:
    """Decisions of one model on :func:`plane_grid`, packed eight to a byte, base64."""

    model: str
    n: int
    seed: int
    f1: float
    bits: str

    def decided(self) -> Labels:
        """Decisions [SIDE·SIDE], 0 or 1."""
        packed = np.frombuffer(base64.b64decode(self.bits), dtype=np.uint8)
        return np.unpackbits(packed)[: SIDE * SIDE].astype(np.int64)


def wanted(models: Sequence[str], sizes: Sequence[int]) -> list[tuple[str, int]]:
    """The article's panels among the models and sizes of a sweep."""
    return [(m, n) for m, n in WANTED if m in models and n in sizes]


def compute(task: tuple[ProblemConfig, str, int, int]) -> Panel:
    """Train one model on one sample and decide the whole plane."""
    from scalecli.spiral.sweep import f1_score

    config, name, n, seed = task
    problem = Problem(config)
    x, y = problem.sample(n, seed)
    manifold = config.manifold
    model = resolve(name).build(Context(manifold.turns, manifold.tip_degrees))
    model.fit(x[None], y[None], [seed])
    decided = model.predict(plane_grid(SIDE)[None])[0]
    x_test, truth = problem.test_sets("density", 50_000, seed)["all"]
    f1 = f1_score(truth, model.predict(x_test[None])[0], 2, macro=False) or 0.0
    bits = base64.b64encode(np.packbits(decided.astype(np.uint8)).tobytes()).decode()
    return Panel(name, n, seed, f1, bits)


def figure(problem: ProblemConfig, panels: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw saved panels over their (recreated) samples."""
    world = Problem(replace(problem))
    drawn = []
    for data in panels:
        panel = Panel(**data)
        x, y = world.sample(panel.n, panel.seed)
        title = f"{resolve(panel.model).label}\nN = {panel.n:,}, F1 {panel.f1:.2f}"
        drawn.append((title, panel.decided(), x, y))
    return regions_figure(world, drawn, SIDE)
