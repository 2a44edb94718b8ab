from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalecli.core.table import Column, Table, count, number


def test_plain_aligns_each_column() -> None:
    table = Table(
        "F1",
        (Column("model", "left"), Column("1k")),
        (("knn5", "0.38"), ("mlp-polar", "0.9")),
        notes=("by density",),
    )
    assert table.plain() == "\n".join(
        [
            "F1",
            "model        1k",
            "---------  ----",
            "knn5       0.38",
            "mlp-polar   0.9",
            "by density",
        ]
    )


def test_lines_inside_a_cell() -> None:
    table = Table("", (Column("a", "left"), Column("b", "left")), (("x", "1\n22"), ("y", "3")))
    assert table.plain().splitlines() == ["a  b", "-  --", "x  1", "   22", "y  3"]


def test_no_rows() -> None:
    assert Table("", (Column("a"),), ()).plain() == "a\n-"


def test_rows_must_fit() -> None:
    with pytest.raises(ValueError, match="row of 2 cells, 1 columns"):
        Table("t", (Column("a"),), (("1", "2"),))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (100, "100"),
        (999, "999"),
        (1000, "1k"),
        (1500, "1.5k"),
        (1234, "1,234"),
        (100_000, "100k"),
        (1_000_000, "1M"),
        (2.5e6, "2.5M"),
        (1e9, "1G"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert count(value) == text


@given(st.integers(0, 10**9))
def test_count_loses_nothing(n: int) -> None:
    text = count(n).replace(",", "")
    units = {"k": 10**3, "M": 10**6, "G": 10**9}
    unit = units.get(text[-1], 1)
    assert round(float(text.rstrip("kMG")) * unit) == n


def test_number() -> None:
    assert number(0.12345) == "0.123"
    assert number(2, 1) == "2.0"
    assert number(None) == number(float("nan")) == "–"
    assert number(float("inf")) == "inf"
