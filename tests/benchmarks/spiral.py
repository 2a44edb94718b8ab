"""Spiral: kNN, networks and the article's grid against scikit-learn."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
from pykdtree.kdtree import KDTree
from sklearn.metrics import f1_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, _multilayer_perceptron
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from scalecli.core.engine import EngineConfig, cpu_count
from scalecli.core.stats import mean_interval
from scalecli.spiral import networks
from scalecli.spiral.classifier import Context, Labels, Points
from scalecli.spiral.config import ProblemConfig
from scalecli.spiral.knn import KNearest, _order
from scalecli.spiral.problem import Problem
from scalecli.spiral.sweep import ARTICLE_MODELS, SweepConfig, plan, sweep
from tests.benchmarks.timing import Comparison, Target, compare, seconds

TEST_POINTS = 100_000


def knn(n: int = 1_000_000) -> list[Comparison]:
    """Fit and predict, N training points and N queries, exact."""
    problem = Problem(ProblemConfig())
    x, y = problem.sample(n, 0)
    queries = problem.density.sample(n, np.random.default_rng(1))
    lines = []
    for k in (1, 5):
        answers: dict[str, Labels] = {}

        def ours(k: int = k, answers: dict[str, Labels] = answers) -> None:
            model = KNearest(k)
            model.fit(x[None], y[None], [0])
            answers["ours"] = model.predict(queries[None])[0]

        def peer(k: int = k, answers: dict[str, Labels] = answers) -> None:
            model = KNeighborsClassifier(k, algorithm="kd_tree", n_jobs=-1).fit(x, y)
            answers["peer"] = model.predict(queries)

        line = compare(
            f"kNN k={k}, {n:,} × {n:,}",
            ours,
            "scikit-learn kd_tree, n_jobs=-1",
            peer,
            Target("faster", 4),
            turns=3,
            limit=_bound(x, queries, k),
        )
        line.notes.append(f"same answers: {np.mean(answers['ours'] == answers['peer']):.6f}")
        lines.append(line)
    return lines


def _bound(x: Points, queries: Points, k: int) -> str:
    """How long the engine alone takes when it is asked in our order."""
    in_order = queries[_order(queries)]

    def alone() -> None:
        KDTree(x).query(in_order, k=k)

    best = min(seconds(alone) for _ in range(3))
    return f"pykdtree alone, the fastest exact engine known to us: {best:.2f} s"


def network_training() -> list[Comparison]:
    """Ten seeds of a network, against the peer's at equal steps."""
    return [
        _training("polar", _polar, 100, 5.0),
        _training("polar", _polar, 1_000, 3.0),
        _training("polar", _polar, 10_000, 3.0),
        _training("xy", lambda x: x, 10_000, 3.0),
    ]


def _training(
    features: str, map_: Callable[[Points], Points], n: int, wanted: float, seeds: int = 10
) -> Comparison:
    """One thread each, since both spread seeds over cores alike."""
    problem, recipe = Problem(ProblemConfig()), networks.Recipe(features)
    samples = [problem.sample(n, seed) for seed in range(seeds)]
    x_SND, y_SN = np.stack([x for x, _ in samples]), np.stack([y for _, y in samples])
    tests = [problem.test_sets("density", 20_000, s)["all"] for s in range(seeds)]
    scores: dict[str, list[float]] = {}

    def ours() -> None:
        with threadpool_limits(1):
            model = networks.StackedNetwork(recipe, Context())
            model.fit(x_SND, y_SN, list(range(seeds)))
        guess = model.predict(np.stack([x for x, _ in tests]))
        scores["ours"] = [f1_score(y, g) for (_, y), g in zip(tests, guess, strict=True)]

    def peer() -> None:
        with threadpool_limits(1):
            models = [sklearn_network(map_(x), y, s) for s, (x, y) in enumerate(samples)]
        scores["peer"] = [
            f1_score(y, m.predict(map_(x))) for (x, y), m in zip(tests, models, strict=True)
        ]

    line = compare(
        f"{features} network, {seeds} seeds, N={n:,}",
        ours,
        "scikit-learn MLPClassifier",
        peer,
        Target("faster", wanted),
        turns=2,
        warm_up=False,
    )
    line.notes.append(_f1_note(scores))
    return line


class CosineAdam(_multilayer_perceptron.AdamOptimizer):  # type: ignore[misc]
    """scikit-learn's Adam with our schedule, which it lacks: without it the F1 differ."""

    def _get_updates(self, grads: list[Points]) -> list[Points]:
        turn = math.pi * min(1.0, self.t / networks.MINIBATCH_STEPS)
        self.learning_rate_init = networks.LEARNING_RATE * (1 + math.cos(turn)) / 2
        updates: list[Points] = super()._get_updates(grads)
        return updates


def sklearn_network(x: Points, y: Labels, seed: int, alpha: float = 0.0) -> MLPClassifier:
    """The same layers, activation, batch, optimiser, learning rate and number of steps."""
    n = len(x)
    full = n <= networks.FULL_BATCH_MAX_N
    batch = n if full else min(n, networks.MINIBATCH)
    steps = networks.FULL_BATCH_STEPS if full else networks.MINIBATCH_STEPS
    model = MLPClassifier(
        (networks.HIDDEN, networks.HIDDEN),
        activation="tanh",
        alpha=alpha,
        batch_size=batch,
        learning_rate_init=networks.LEARNING_RATE,
        max_iter=max(1, round(steps * batch / n)),
        tol=0.0,
        n_iter_no_change=10**9,
        random_state=seed,
    )
    adam = _multilayer_perceptron.AdamOptimizer if full else CosineAdam
    with warnings.catch_warnings(), patch.object(_multilayer_perceptron, "AdamOptimizer", adam):
        warnings.simplefilter("ignore")  # it says that it has not converged: steps are fixed
        return model.fit(x, y)


def article_grid(seeds: int = 2) -> list[Comparison]:
    """The article's five sizes and five models, as the sweep does them and written plainly."""
    sizes = (100, 1_000, 10_000, 100_000, 1_000_000)
    config = SweepConfig(sizes=sizes, models=ARTICLE_MODELS, seeds=seeds, test_points=TEST_POINTS)
    problem = Problem(config.problem)
    scores: dict[tuple[str, int], dict[str, list[float]]] = {
        (model, n): {"ours": [0.0] * seeds, "peer": [0.0] * seeds}
        for model in ARTICLE_MODELS
        for n in sizes
    }

    def ours() -> None:
        cells, _ = plan(config)
        for cell, rows in sweep(cells, engine=EngineConfig()):
            for row in rows:
                if row.region == "all" and row.f1 is not None:
                    scores[cell.model, cell.n]["ours"][row.seed] = row.f1

    def peer() -> None:
        fits: dict[str, Callable[[Points, Labels, int], Callable[[Points], Labels]]] = {
            "knn1": lambda x, y, s: KNeighborsClassifier(1, n_jobs=-1).fit(x, y).predict,
            "knn5": lambda x, y, s: KNeighborsClassifier(5, n_jobs=-1).fit(x, y).predict,
            "mlp-xy": lambda x, y, s: sklearn_network(x, y, s).predict,
            "mlp-polar": lambda x, y, s: _on_polar(sklearn_network(_polar(x), y, s)),
            # Without focal loss and layer norm, which it does not have: less work for the peer.
            "mlp-polar-fl-ln-wd": lambda x, y, s: _on_polar(
                sklearn_network(_polar(x), y, s, alpha=1e-3)
            ),
        }
        for n in sizes:
            for seed in range(seeds):
                x, y = problem.sample(n, seed)
                tests = problem.test_sets("density", TEST_POINTS, seed)
                for name, fit in fits.items():
                    predict = fit(x, y, seed)
                    for region, (points, truth) in tests.items():
                        f1 = float(f1_score(truth, predict(points), zero_division=0))
                        if region == "all":
                            scores[name, n]["peer"][seed] = f1

    line = compare(
        f"the article's grid, {seeds} seeds",
        ours,
        "the same grid written plainly with scikit-learn",
        peer,
        Target("faster", 4),
        turns=1,
        warm_up=False,
        limit=f"{cpu_count()} cores; cells are independent",
    )
    line.notes.extend(f"{model}, N={n:,}: {_f1_note(f1)}" for (model, n), f1 in scores.items())
    return [line]


def _polar(x: Points) -> Points:
    return np.stack([2 * np.hypot(x[:, 0], x[:, 1]), np.arctan2(x[:, 1], x[:, 0]) / np.pi], axis=1)


def _on_polar(model: MLPClassifier) -> Callable[[Points], Labels]:
    def predict(x: Points) -> Labels:
        guess: Labels = model.predict(_polar(x))
        return guess

    return predict


def _f1_note(scores: dict[str, list[float]]) -> str:
    """Mean F1 of both, and whether the 95 % interval of the difference by seed holds 0."""
    gap = mean_interval([a - b for a, b in zip(scores["ours"], scores["peer"], strict=True)])
    means = ", ".join(f"{who} {statistics.mean(values):.3f}" for who, values in scores.items())
    verdict = "equal within intervals" if gap.low <= 0 <= gap.high else "different"
    return f"F1 {means}; difference {gap.value:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}): {verdict}"
