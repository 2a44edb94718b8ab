"""How long a method takes and how much memory it needs, apart from everything around it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from scalecli.core import memory
from scalecli.core.engine import limit_threads
from scalecli.localize.evaluation.config import Variant
from scalecli.localize.evaluation.contenders import Contender
from scalecli.localize.evaluation.runner import compute_maps
from scalecli.localize.evaluation.views import Views

ENOUGH = 0.5
"""Seconds after which a method is not run again."""
MOST_REPEATS = 5


@dataclass(frozen=True)
class Cost:
    """What one image costs."""

    seconds: float
    """Median over repeats, of one thread on a CPU."""
    peak_mb: float | None
    """Highest memory: the GPU's own, or the whole process's where Linux tells it."""


def measure(contender: Contender, variant: Variant, views: Views, batch: int) -> Cost:
    """Cost of a method for one image, nothing shared with other methods."""
    on_gpu = contender.encoder.device.type == "cuda"
    if contender.encoder.device.type == "cpu":
        limit_threads()
    known = _reset_peak(on_gpu=on_gpu)
    first = _once(contender, variant, views, batch)
    peak = _peak(on_gpu=on_gpu) if known else None
    # The first call pays for caches and lazy set-up, unless it is so long that they do not count.
    repeats = [] if first < ENOUGH else [first]
    while len(repeats) < MOST_REPEATS and sum(repeats) < ENOUGH:
        repeats.append(_once(contender, variant, views, batch))
    return Cost(statistics.median(repeats), peak)


def _once(contender: Contender, variant: Variant, views: Views, batch: int) -> float:
    began = time.perf_counter()
    compute_maps(contender, [variant], views, batch)
    return time.perf_counter() - began


def _reset_peak(*, on_gpu: bool) -> bool:
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        return True
    return memory.forget_peak()


def _peak(*, on_gpu: bool) -> float:
    return torch.cuda.max_memory_allocated() / 1e6 if on_gpu else memory.peak_mb()
