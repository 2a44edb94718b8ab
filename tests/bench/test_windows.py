"""Where executions end under batches per execution."""

import pytest

from scalecli.bench.windows import windows


def test_the_law_of_ten_over_thirty() -> None:
    assert windows(30, 10) == [9, 10, 10, 1]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
@pytest.mark.parametrize("batches", [0, 1, 9, 30])
def test_windows_cover_the_epoch(batches: int, n: int) -> None:
    found = windows(batches, n)
    assert sum(found) == batches
    assert max(found, default=0) <= n
