"""Then and now: noise is not a regression, a planted slowdown is."""

import numpy as np
import pytest

from scalecli.bench.analysis import Row
from scalecli.bench.compare import ALIKE, check_alike, compare
from scalecli.bench.fit import largest_batch
from scalecli.core.errors import UsageError


def row(values: list[float], name: str = "a", batch: int = 16, status: str = "ok") -> Row:
    repeats = tuple({"status": "ok", "samples_per_s": v} for v in values)
    return Row(
        name,
        status,  # type: ignore[arg-type]
        "",
        {"batch_size": batch},
        samples_per_s=float(np.median(values)) if values else None,
        repeats=repeats,
    )


def noisy(rng: np.random.Generator, rate: float) -> Row:
    return row(list(rate * np.exp(0.03 * rng.standard_normal(5))))


def test_the_same_run_twice_is_no_regression() -> None:
    rng = np.random.default_rng(0)
    found = [compare([noisy(rng, 100)], [noisy(rng, 100)], rng=rng)[0] for _ in range(20)]
    assert sum(c.verdict == "not significant" for c in found) >= 19


def test_a_planted_slowdown_is_a_regression() -> None:
    rng = np.random.default_rng(0)
    (slow,) = compare([noisy(rng, 80)], [noisy(rng, 100)], rng=rng)
    assert slow.verdict == "slower"
    assert slow.slowdown_percent == pytest.approx(20, abs=4)
    assert slow.low is not None
    assert slow.high is not None
    assert slow.low < 0.8 < slow.high < 1
    (fast,) = compare([noisy(rng, 100)], [noisy(rng, 80)], rng=rng)
    assert (fast.verdict, fast.slowdown_percent) == ("faster", 0.0)


def test_only_the_same_is_compared() -> None:
    rng = np.random.default_rng(0)
    then = [row([1, 1]), row([1, 1], "b", batch=8), row([], "c", status="failed"), row([1], "e")]
    now = [row([1, 1], "d"), row([1, 1], "b"), row([1, 1], "c"), row([0.5], "e")]
    reasons = [(c.verdict, c.reason) for c in compare(now, then, rng=rng)]
    assert reasons == [
        ("not comparable", "not in the earlier run"),
        ("not comparable", "its settings were different"),
        ("not comparable", "failed then: "),
        ("not significant", "a single repeat proves nothing"),
    ]


@pytest.mark.parametrize("key", ALIKE)
def test_runs_of_something_else_are_refused(key: str) -> None:
    check_alike({key: 1}, {key: 1}, where="x")
    with pytest.raises(UsageError, match=f"--{key.replace('_', '-')}"):
        check_alike({key: 1}, {key: 2}, where="x")


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 100, 1000, 4095])
def test_the_largest_batch_is_found(limit: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = largest_batch(4096, fits)
    assert len(tried) <= 12
    if limit == 0:
        assert found is None
    else:
        assert found is not None
        assert 15 / 16 * limit - 1 <= found <= limit
