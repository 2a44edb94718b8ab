from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from scalecli.core.memory import forget_peak, peak_mb

MB = 10**6


def test_the_peak_is_seen_after_the_memory_is_given_back() -> None:
    before = peak_mb()
    held = np.ones(300 * MB, dtype=np.uint8)
    held[0] = 0
    del held
    assert peak_mb() >= max(before, 300)
    if forget_peak():
        assert peak_mb() < before + 150


def test_a_child_does_not_count_its_parent() -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("told on Linux alone")
    held = np.ones(400 * MB, dtype=np.uint8)
    code = "from scalecli.core.memory import peak_mb; print(peak_mb())"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert float(answer.stdout) < 200
    assert held.size
