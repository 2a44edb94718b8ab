"""How cost grows: time and memory against size, and the exponent fitted to them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scalecli.core.engine import cpu_count
from scalecli.core.memory import peak_mb

CHILD = """
import json, sys, time
from tests.benchmarks import growth
work, size = sys.argv[1], int(sys.argv[2])
run = getattr(growth, work)(size)
start = time.perf_counter()
run()
seconds = time.perf_counter() - start
print(json.dumps([seconds, growth.peak_with_workers(work)]))
"""


@dataclass(frozen=True)
class Growth:
    """Cost of one work at several sizes, each in a fresh process."""

    what: str
    sizes: list[int]
    seconds: list[float]
    peak_mb: list[float]
    """Peak resident memory, MB; with workers, as if all had been as large as the largest."""
    exponent: float
    """b of seconds = a·size^b, least squares on logarithms over the upper half of the sizes."""


def measure(what: str, work: str, sizes: Sequence[int]) -> Growth:
    """Run ``work`` of this module at every size."""
    seconds, peaks = [], []
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            answer = subprocess.run(
                [sys.executable, "-c", CHILD, work, str(size)],
                capture_output=True,
                text=True,
                check=True,
                env={**os.environ, "TMPDIR": place},
            )
        s, mb = json.loads(answer.stdout.splitlines()[-1])
        seconds.append(s)
        peaks.append(mb)
    upper = slice(len(sizes) // 2 - (len(sizes) < 4), None)
    slope = np.polyfit(np.log(sizes[upper]), np.log(seconds[upper]), 1)[0]
    return Growth(what, list(sizes), seconds, peaks, float(slope))


def peak_with_workers(work: str) -> float:
    """Peak memory of this process, and of the workers of a sweep; see :class:`Growth`."""
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
    # Others start no workers; what they fork for a moment looks as large as they are.
    return peak_mb() + (cpu_count() * worker if work == knn_sweep.__name__ else 0)


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


def knn_sweep(n: int) -> Callable[[], None]:
    """``scalecli spiral sweep`` of knn1 and knn5 at one size."""
    words = ["spiral", "sweep", "--models", "knn1,knn5", "--sizes", str(n), "--seeds", "2"]
    return _command(*words, "--out", tempfile.mkdtemp())


def folder(images: int) -> Callable[[], None]:
    """``scalecli localize`` over a folder of JPEGs, embedded model."""
    from pathlib import Path

    from sklearn.datasets import load_sample_images

    from tests.benchmarks.localize import write_jpegs

    place = Path(tempfile.mkdtemp())
    write_jpegs(place / "pictures", images, load_sample_images().images)
    words = ["localize", str(place / "pictures"), "flower", "--model", "embedded"]
    return _command(*words, "--method", "cam", "--out", str(place / "out"))


def _command(*words: str) -> Callable[[], None]:
    """A command line in this process."""

    def run() -> None:
        from scalecli.cli.main import main

        sys.argv = ["scalecli", *words, "--quiet"]
        try:
            main()
        except SystemExit as ended:
            if ended.code:
                raise

    return run
