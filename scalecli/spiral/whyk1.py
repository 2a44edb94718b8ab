"""The article's challenge: why is k = 1 better than k = 5 here, and when is it not?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scalecli.core.config import option, section
from scalecli.core.table import Column, Table, count, number
from scalecli.spiral.config import ProblemConfig
from scalecli.spiral.knn import KNearest
from scalecli.spiral.problem import Problem


@dataclass(frozen=True)
class WhyK1Config:
    """What `scalecli spiral why-k1` measures."""

    sizes: tuple[int, ...] = option(
        (100, 1_000, 10_000, 100_000), "Training sizes.", low=16, high=10**7
    )
    neighbours: tuple[int, ...] = option((1, 3, 5, 15), "Values of k, odd.", low=1, high=15)
    noises: tuple[float, ...] = option(
        (0.0, 0.1, 0.2), "Shares of flipped labels.", low=0, high=0.5
    )
    seeds: int = option(5, "Samples per cell.", low=1, high=1000)
    test_points: int = option(50_000, "Test points per sample.", low=100, high=10**7)
    problem: ProblemConfig = section(ProblemConfig)


@dataclass(frozen=True)
class WhyK1Row:
    """Error of one k at one size and one noise, mean over seeds, on clean test labels."""

    k: int
    n: int
    noise: float
    error: float
    f1: float
    theory: float | None
    """Predicted error (noise-free, asymptotic); None with noise or without a constant."""


def measure(config: WhyK1Config, tick: Callable[[], None]) -> list[WhyK1Row]:
    """All cells; ``tick`` is called after each of noises × sizes × seeds."""
    rows = []
    for noise in config.noises:
        problem = Problem(replace(config.problem, label_noise=noise))
        for n in config.sizes:
            errors: dict[int, list[float]] = {k: [] for k in config.neighbours}
            scores: dict[int, list[float]] = {k: [] for k in config.neighbours}
            for seed in range(config.seeds):
                x, y = problem.sample(n, seed)
                x_test, truth = problem.test_sets("density", config.test_points, seed)["all"]
                for k in config.neighbours:
                    model = KNearest(k)
                    model.fit(x[None], y[None], [seed])
                    guess = model.predict(x_test[None])[0]
                    errors[k].append(float(np.mean(guess != truth)))
                    scores[k].append(
                        2 * float(np.sum(guess & truth)) / float(guess.sum() + truth.sum())
                    )
                tick()
            for k in config.neighbours:
                theory = problem.knn_theory(k, n) if noise == 0 else None
                rows.append(
                    WhyK1Row(
                        k, n, noise, float(np.mean(errors[k])), float(np.mean(scores[k])), theory
                    )
                )
    return rows


def strip_recall(
    neighbours: Sequence[int], widths: Sequence[float], *, rng: np.random.Generator, side: int = 120
) -> dict[str, Any]:
    """Recall of kNN on a strip of width t = w·sqrt(N f) in a unit-density Poisson plane.

    Simulated on a plane of side² unit cells cut by parallel strips, far enough apart not to
    feel each other. Returns ``{"t": [...], "recall": {k: [...]}}``.
    """
    recall: dict[int, list[float]] = {k: [] for k in neighbours}
    for t in widths:
        period = t + 8.0
        x = rng.uniform(0, side, (side * side, 2))
        y = (np.mod(x[:, 0], period) < t).astype(np.int64)
        strips = int(side // period)
        queries = rng.uniform(0, side, (20_000, 2))
        queries[:, 0] = rng.integers(0, strips, 20_000) * period + rng.uniform(0, t, 20_000)
        for k in neighbours:
            model = KNearest(k)
            model.fit(x[None], y[None], [0])
            recall[k].append(float(model.predict(queries[None])[0].mean()))
    return {"t": list(widths), "recall": {str(k): v for k, v in recall.items()}}


def tables(rows: Sequence[WhyK1Row], recall: dict[str, Any]) -> list[Table]:
    """F1 and error by k, N and noise; recall on a thin strip; the answer in words."""
    sizes = sorted({r.n for r in rows})
    ks = sorted({r.k for r in rows})
    scores, lines = [], []
    for noise in sorted({r.noise for r in rows}):
        for k in ks:
            mine = {r.n: r for r in rows if r.k == k and r.noise == noise}
            head = [f"{noise:.0%}", str(k)]
            scores.append([*head, *(number(mine[n].f1) for n in sizes)])
            lines.append([*head, *(number(mine[n].error, 4) for n in sizes)])
    for k in ks:
        mine = {r.n: r for r in rows if r.k == k and r.noise == 0}
        if mine and all(r.theory is not None for r in mine.values()):
            lines.append(["theory", str(k), *(number(mine[n].theory, 4) for n in sizes)])
    columns = [Column("noise", "left"), Column("k"), *(Column(count(n)) for n in sizes)]
    f1 = Table(
        "kNN F1 on clean labels by N",
        columns,
        scores,
        (
            "Without noise there is nothing to average away: more neighbours add only bias,",
            "7.7 % asymptotically, far more where the arm is thin. With noise the order reverses.",
        ),
    )
    error = Table(
        "kNN error on clean labels by N",
        columns,
        lines,
        (
            "At small N a large k finds nothing inside: an error of P(inside), an F1 of zero.",
            "theory: c_k·N^(−1/2)·∮√f ds, without noise; it holds once N is large.",
        ),
    )
    strip = Table(
        "Recall on a strip of width w, by w·sqrt(N f)",
        [Column("k"), *(Column(f"{t:g}") for t in recall["t"])],
        [[k, *(number(v, 2) for v in values)] for k, values in recall["recall"].items()],
        ("k = 5 needs three of five neighbours inside: thin stretches have none.",),
    )
    return [f1, error, strip]
