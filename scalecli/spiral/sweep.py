"""The sweep: every model at every size on every seed, scored per region.

One cell is one model at one size on a fixed group of seeds: networks train a whole group at
once, the rest one seed at a time. Groups depend on the config only, so a resumed or reordered
run computes the same rows.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scalecli.core.config import from_mapping, option, section, to_dict
from scalecli.core.engine import EngineConfig, run_tasks
from scalecli.core.errors import UsageError
from scalecli.core.results import cell_key
from scalecli.spiral.classifier import Context, Labels, Points
from scalecli.spiral.config import ProblemConfig
from scalecli.spiral.models import resolve
from scalecli.spiral.problem import Problem
from scalecli.spiral.rows import SweepRow

ARTICLE_MODELS = ("knn1", "knn5", "mlp-xy", "mlp-polar", "mlp-polar-fl-ln-wd")
STACK = 5
"""Seeds trained together by a stacked model."""


@dataclass(frozen=True)
class SweepConfig(EngineConfig):
    """What `scalecli spiral sweep` measures."""

    sizes: tuple[int, ...] = option(
        (100, 1_000, 10_000, 100_000), "Training-set sizes N, e.g. 100,1k,1e4.", low=1, high=10**8
    )
    models: tuple[str, ...] = option(
        ARTICLE_MODELS, "Models by name; `scalecli spiral models` lists them."
    )
    seeds: int = option(
        3, "Independent training sets (or splits) per size, at least 1.", low=1, high=10_000
    )
    seed: int = option(0, "First seed; the others follow it.", low=0)
    eval: Literal["density", "grid"] = option(
        "density", "Where test points come from: the sampling density or a uniform grid."
    )
    test_points: int = option(100_000, "Test points per seed.", low=100, high=10**8)
    label_noise: float | None = option(
        None,
        "Share of training labels flipped, 0 to 0.5, in place of problem.label_noise; "
        "test labels stay clean.",
        low=0,
        high=0.5,
    )
    target_error: float | None = option(
        None,
        "Error for which the needed N is worked out, in (0, 1); by default 0.01 on the spiral, "
        "half the best error measured on an own table.",
        above=0,
        high=0.999,
    )
    device: str = option(
        "cpu",
        "Only cpu: networks this small would leave a GPU waiting for work.",
        choices=lambda: ("cpu",),
    )
    data: Path | None = option(
        None, "Own table (CSV or Parquet) instead of the spiral.", panel="Own data"
    )
    target: str | None = option(None, "Column to predict.", panel="Own data")
    missing: Literal["error", "drop"] = option(
        "error", "Rows with missing values: refuse or drop.", panel="Own data"
    )
    problem: ProblemConfig = section(ProblemConfig, "Manifold and density.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, items in (("--sizes", self.sizes), ("--models", self.models)):
            if not items:
                raise ValueError(f"{name}: the list is empty")
            if len(set(items)) < len(items):
                raise ValueError(f"{name}: an entry stands twice")
        if self.data is not None and self.target is None:
            raise ValueError("--data needs --target COLUMN, the column to predict")
        if self.target is not None and self.data is None:
            raise ValueError("--target needs --data FILE")
        if self.data is not None and self.label_noise:
            raise ValueError("--label-noise is for the spiral; an own table is taken as it is")

    @property
    def noisy_problem(self) -> ProblemConfig:
        """The problem with the label noise that was asked for."""
        if self.label_noise is None:
            return self.problem
        return replace(self.problem, label_noise=self.label_noise)


@dataclass(frozen=True)
class Cell:
    """One unit of work and everything its rows depend on."""

    model: str
    n: int
    seeds: tuple[int, ...]
    eval: Literal["density", "grid"]
    test_points: int
    problem: ProblemConfig
    data: Path | None = None
    target: str | None = None
    missing: Literal["error", "drop"] = "error"
    fingerprint: str = ""
    """Content hash of the own table, so that an edited file is computed anew."""

    @property
    def key(self) -> str:
        """Identity on disk; an own table counts by its content, wherever it lies."""
        return cell_key("spiral sweep 1", {**to_dict(self), "data": None})


def plan(config: SweepConfig) -> tuple[list[Cell], list[str]]:
    """The cells of a config, in its order, and notes about what is left out.

    Raises:
        UsageError: an unknown model, k greater than a size, or an unsuitable own table.
    """
    problem = config.noisy_problem
    fingerprint, most = "", None
    if config.data is not None and config.target is not None:
        from scalecli.spiral.owndata import load_table

        table = load_table(config.data, config.target, missing=config.missing)
        fingerprint, most = table.fingerprint, table.largest_n
    cells, notes = [], []
    for name in config.models:
        spec = resolve(name)
        if config.data is not None and spec.plane_only:
            raise UsageError(
                f"--models {name}: works on the plane only; for an own table take for example "
                "knn1,knn5,mlp,forest,boosting,logistic"
            )
        group = STACK if spec.stacked else 1
        for n in config.sizes:
            if name.startswith("knn") and int(name[3:]) > n:
                raise UsageError(f"--models {name}: needs N ≥ {name[3:]}, --sizes has {n}")
            if most is not None and n > most:
                raise UsageError(f"--sizes {n}: {config.data} has {most} rows to train on at most")
            if n > spec.max_n:
                notes.append(f"{name} left out at N = {n:,}: sensible up to {spec.max_n:,}")
                continue
            seeds = range(config.seed, config.seed + config.seeds)
            for start in range(0, config.seeds, group):
                cells.append(
                    Cell(
                        name,
                        n,
                        tuple(seeds[start : start + group]),
                        config.eval,
                        config.test_points,
                        problem,
                        config.data.resolve() if config.data else None,
                        config.target,
                        config.missing,
                        fingerprint,
                    )
                )
    return cells, notes


def sweep(cells: Sequence[Cell], *, engine: EngineConfig) -> Iterator[tuple[Cell, list[SweepRow]]]:
    """Compute cells on the engine and yield them as they finish, costly ones first."""
    ordered = sorted(cells, key=_cost, reverse=True)
    return run_tasks(run_cell, ordered, engine=engine)


def _cost(cell: Cell) -> float:
    """Rough seconds, only to start long cells first."""
    network = cell.model.startswith(("mlp", "rff"))
    return (8.0 if network and cell.n > 1000 else 1.0 if network else 0.1) + cell.n * 3e-6


def run_cell(cell: Cell) -> list[SweepRow]:
    """Train and score one cell."""
    if cell.data is not None:
        from scalecli.spiral.owndata import cell_problem

        x_SND, y_SN, tests, classes = cell_problem(cell)
        context = Context(classes=classes)
    else:
        problem = Problem(cell.problem)
        samples = [problem.sample(cell.n, seed) for seed in cell.seeds]
        x_SND, y_SN = np.stack([x for x, _ in samples]), np.stack([y for _, y in samples])
        tests = [problem.test_sets(cell.eval, cell.test_points, seed) for seed in cell.seeds]
        manifold = cell.problem.manifold
        context = Context(manifold.turns, manifold.tip_degrees)
    return score(cell, x_SND, y_SN, tests, context)


def score(
    cell: Cell,
    x_SND: Points,
    y_SN: Labels,
    tests: Sequence[dict[str, tuple[Points, Labels]]],
    context: Context,
) -> list[SweepRow]:
    """Fit the cell's model on the S training sets and score each on its own test sets."""
    model = resolve(cell.model).build(context)
    begin = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's convergence advice is not for this user
        model.fit(x_SND, y_SN, cell.seeds)
    fitted = time.perf_counter()
    # One call for all regions: their points are laid end to end, cut to the shortest seed so
    # that the seeds stack, and taken apart again.
    regions = list(tests[0])
    counts = {r: min(len(t[r][1]) for t in tests) for r in regions}
    x_SQD = np.stack([np.concatenate([t[r][0][: counts[r]] for r in regions]) for t in tests])
    predicted_SQ = model.predict(x_SQD)
    predict_seconds = (time.perf_counter() - fitted) / len(cell.seeds)
    fit_seconds = (fitted - begin) / len(cell.seeds)
    rows, start = [], 0
    for region in regions:
        stop = start + counts[region]
        for s, seed in enumerate(cell.seeds):
            truth = tests[s][region][1][: counts[region]]
            guess = predicted_SQ[s, start:stop]
            wrong = float(np.mean(truth != guess)) if len(truth) else None
            rows.append(
                SweepRow(
                    cell.model,
                    cell.n,
                    seed,
                    region,
                    f1_score(truth, guess, context.classes, macro=cell.data is not None),
                    wrong,
                    None if wrong is None else 1 - wrong,
                    fit_seconds,
                    predict_seconds,
                    int(y_SN[s].sum()) if context.classes == 2 else cell.n,
                )
            )
        start = stop
    return rows


def f1_score(truth: Labels, guess: Labels, classes: int, *, macro: bool) -> float | None:
    """F1 of class 1, or the mean over classes; 0 where nothing is found, None without positives.

    The spiral has one positive class; an own table has as many as its target has values.
    """
    scores = []
    for c in range(classes) if macro else (1,):
        hits = int(np.sum((truth == c) & (guess == c)))
        total = int(np.sum(truth == c) + np.sum(guess == c))
        if total:
            scores.append(2 * hits / total)
    return float(np.mean(scores)) if scores and (macro or bool(np.any(truth == 1))) else None


def in_order(cells: Sequence[Cell], done: dict[str, list[dict[str, Any]]]) -> list[SweepRow]:
    """All rows of the cells in the config's order, from the row log."""
    return [
        from_mapping(SweepRow, row, where="rows.jsonl") for cell in cells for row in done[cell.key]
    ]
