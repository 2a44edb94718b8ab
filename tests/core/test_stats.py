from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from scalecli.core.stats import bootstrap_interval, mean_interval, wilson_interval


def test_t_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    trials = 2000
    hits = 0
    for sample in rng.normal(3.0, 2.0, size=(trials, 5)):
        interval = mean_interval(list(sample))
        hits += interval.low <= 3.0 <= interval.high
    # Four standard errors of a share of 0.95 over 2,000 trials.
    assert abs(hits / trials - 0.95) < 4 * math.sqrt(0.95 * 0.05 / trials)


def test_t_interval_equals_scipy() -> None:
    x = [0.1, 0.4, 0.35, 0.8]
    low, high = stats.ttest_1samp(x, 0).confidence_interval(0.9)
    assert mean_interval(x, confidence=0.9) == pytest.approx((np.mean(x), low, high))


def test_one_value_says_nothing_about_its_spread() -> None:
    assert mean_interval([0.7]) == (0.7, -math.inf, math.inf)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(pair: tuple[int, int]) -> None:
    successes, trials = pair
    value, low, high = wilson_interval(successes, trials)
    assert 0 <= low <= value <= high <= 1
    reference = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_wilson_of_no_trials() -> None:
    value, low, high = wilson_interval(0, 0)
    assert math.isnan(value)
    assert (low, high) == (0, 1)


def test_bootstrap_of_a_mean_agrees_with_normal_theory() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=400)
    found = bootstrap_interval(x, lambda s: s.mean(axis=1), rng=rng)
    half = 1.96 * x.std() / math.sqrt(len(x))
    assert found.value == pytest.approx(x.mean())
    assert found.low == pytest.approx(x.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.15 * half)


def test_bootstrap_repeats_with_its_seed_and_takes_rows_together() -> None:
    pairs = np.arange(20.0).reshape(10, 2)

    def run(seed: int) -> tuple[float, float, float]:
        return bootstrap_interval(
            pairs,
            lambda s: (s[..., 1] - s[..., 0]).mean(axis=1),
            rng=np.random.default_rng(seed),
            resamples=50,
        )

    assert run(3) == run(3) == (1, 1, 1)
