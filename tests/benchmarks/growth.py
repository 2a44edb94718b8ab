"""How cost grows: time and memory against size, and the exponent fitted to them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

CHILD = """
import json, resource, sys, time
from tests.benchmarks import growth
work, size = sys.argv[1], int(sys.argv[2])
run = getattr(growth, work)(size)
start = time.perf_counter()
run()
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([seconds, peak]))
"""


@dataclass(frozen=True)
class Growth:
    """Cost of one work at several sizes, each in a fresh process."""

    what: str
    sizes: list[int]
    seconds: list[float]
    peak_mb: list[float]
    """Peak resident memory of the process, MiB."""
    exponent: float
    """b of seconds = a·size^b, least squares on logarithms over the upper half of the sizes."""


def measure(what: str, work: str, sizes: list[int]) -> Growth:
    """Run ``work`` of this module at every size."""
    seconds, peaks = [], []
    for size in sizes:
        answer = subprocess.run(
            [sys.executable, "-c", CHILD, work, str(size)],
            capture_output=True,
            text=True,
            check=True,
        )
        s, mb = json.loads(answer.stdout.splitlines()[-1])
        seconds.append(s)
        peaks.append(mb)
    upper = slice(len(sizes) // 2 - (len(sizes) < 4), None)
    slope = np.polyfit(np.log(sizes[upper]), np.log(seconds[upper]), 1)[0]
    return Growth(what, sizes, seconds, peaks, float(slope))


def knn(n: int) -> Callable[[], None]:
    """Fit on n points and answer n queries, k = 1."""
    from scalecli.spiral.config import ProblemConfig
    from scalecli.spiral.knn import KNearest
    from scalecli.spiral.problem import Problem

    problem = Problem(ProblemConfig())
    x, y = problem.sample(n, 0)
    queries = problem.density.sample(n, np.random.default_rng(1))

    def run() -> None:
        model = KNearest(1)
        model.fit(x[None], y[None], [0])
        model.predict(queries[None])

    return run


def network(n: int) -> Callable[[], None]:
    """Train the polar network on n points (a fixed number of steps) and answer n queries."""
    from scalecli.spiral.classifier import Context
    from scalecli.spiral.config import ProblemConfig
    from scalecli.spiral.models import resolve
    from scalecli.spiral.problem import Problem

    problem = Problem(ProblemConfig())
    x, y = problem.sample(n, 0)

    def run() -> None:
        model = resolve("mlp-polar").build(Context())
        model.fit(x[None], y[None], [0])
        model.predict(x[None])

    return run
