"""A table as data: what it says, apart from how a terminal, a pipe or a file shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Column:
    """One column: its header and on which side its cells align."""

    header: str
    align: Literal["left", "right"] = "right"


@dataclass(frozen=True)
class Table:
    """A titled table of text cells with notes below.

    A cell may carry rich markup-free text only; ``emphasis`` names (row, column) pairs to
    highlight.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    emphasis: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"{self.title}: row of {len(row)} cells, {len(self.columns)} columns"
                )

    def plain(self) -> str:
        """The table as aligned plain text, as wide as it needs to be."""
        cells = [[c.header for c in self.columns], *[list(row) for row in self.rows]]
        widths = [
            max(len(line) for row in cells for line in row[i].split("\n"))
            for i in range(len(self.columns))
        ]
        lines = [self.title] if self.title else []
        for number, row in enumerate(cells):
            split = [cell.split("\n") for cell in row]
            for depth in range(max(len(s) for s in split)):
                parts = [s[depth] if depth < len(s) else "" for s in split]
                lines.append(
                    "  ".join(
                        part.ljust(w) if c.align == "left" else part.rjust(w)
                        for part, w, c in zip(parts, widths, self.columns, strict=True)
                    ).rstrip()
                )
            if number == 0:
                lines.append("  ".join("-" * w for w in widths))
        return "\n".join([*lines, *self.notes])


def number(value: float | None, digits: int = 3) -> str:
    """A figure for a cell: fixed digits, `–` for nothing, `inf` spelled out."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.{digits}f}"


def count(value: float) -> str:
    """A sample size the way people say it: 1000 → 1k, 2.5e6 → 2.5M, 1234 → 1,234.

    >>> count(100), count(1000), count(2_500_000), count(1234)
    ('100', '1k', '2.5M', '1,234')
    """
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        scaled = value / unit
        if scaled >= 1 and abs(scaled * 10 - round(scaled * 10)) < 1e-9:
            return f"{scaled:.10g}{suffix}"
    return f"{value:,.0f}"
