"""Tables of `scalecli localize`: a row per prompt and method, or sums over many pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scalecli.core.table import Column, Table, number
from scalecli.localize.localizer import option_kinds
from scalecli.localize.prompts import shorten
from scalecli.localize.rows import LocalizeRow

if TYPE_CHECKING:
    from scalecli.localize.methods import Method

MOST_ROWS = 60
"""More rows than this are summed up per prompt and method."""
VERDICT = {True: "present", False: "probably not present", None: "unclear"}


@dataclass(frozen=True)
class Mean:
    """One prompt and method over pictures."""

    prompt: str
    method: str
    pictures: int = 0
    score: float = 0.0
    contrast: float = 0.0
    present: float = 0.0
    """Share of pictures."""
    absent: float = 0.0
    """Share of pictures: probably not present."""
    area: float = 0.0
    seconds: float = 0.0

    def plus(self, row: LocalizeRow) -> Mean:
        """With one more picture."""
        count = self.pictures + 1

        def step(mean: float, value: float) -> float:
            return mean + (value - mean) / count

        return Mean(
            self.prompt,
            self.method,
            count,
            step(self.score, row.score),
            step(self.contrast, row.contrast or 0.0),
            step(self.present, row.present is True),
            step(self.absent, row.present is False),
            step(self.area, row.area),
            step(self.seconds, row.seconds),
        )


class Summing:
    """A run's rows summed up as they pass, so that a million need no memory."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[LocalizeRow] = []
        self.means: dict[tuple[str, str], Mean] = {}

    def add(self, row: LocalizeRow) -> None:
        """Take one row."""
        self.count += 1
        if len(self.first) <= MOST_ROWS:
            self.first.append(row)
        key = (row.prompt, row.method)
        self.means[key] = self.means.get(key, Mean(*key)).plus(row)

    def tables(self, *, model: str, threshold: str) -> list[Table]:
        """Every row while they are few, means otherwise."""
        if not self.count:
            return []
        if self.count > MOST_ROWS:
            return [means_table(list(self.means.values()), model=model)]
        images = list(dict.fromkeys(row.image for row in self.first))
        several = len({row.method for row in self.first}) > 1
        # With a column for pictures and one for methods a line would be too long.
        groups = (
            [[row for row in self.first if row.image == image] for image in images]
            if several
            else [self.first]
        )
        return [rows_table(rows, model=model, threshold=threshold) for rows in groups]


def rows_table(rows: Sequence[LocalizeRow], *, model: str, threshold: str) -> Table:
    """What was found, a row per picture, prompt and method; constant columns are left out."""
    images = list(dict.fromkeys(row.image for row in rows))
    methods = list(dict.fromkeys(row.method for row in rows))
    masked = any(row.hit is not None for row in rows)
    columns = [
        *([Column("image", "left")] if len(images) > 1 else []),
        Column("prompt", "left"),
        *([Column("method", "left")] if len(methods) > 1 else []),
        Column("score"),
        Column("contrast"),
        Column("verdict", "left"),
        Column("peak x,y"),
        Column("area"),
        *([Column("in−out"), Column("hit", "left")] if masked else []),
        Column("s"),
    ]
    lines = [
        [
            *([shorten(os.path.basename(row.image), 18)] if len(images) > 1 else []),
            shorten(row.prompt, 20),
            *([row.method] if len(methods) > 1 else []),
            f"{row.score:.3g}",
            "–" if row.contrast is None else f"{row.contrast:+.1f}",
            VERDICT[row.present],
            f"{row.peak_x},{row.peak_y}",
            f"{row.area:.0%}",
            *([_signed(row.inside_minus_outside), _hit(row.hit)] if masked else []),
            number(row.seconds, 2),
        ]
        for row in rows
    ]
    title = f"{model}: {methods[0]}" if len(methods) == 1 else model
    where = f" in {shorten(os.path.basename(images[0]), 30)}" if len(images) == 1 else ""
    cut = "Otsu's threshold" if threshold == "otsu" else threshold
    notes = [
        "score: image level. contrast: standard deviations above common words.",
        f"area: of the map above {cut}. s: seconds for all prompts together.",
        *(["A pass that methods share counts as the first one's."] if len(methods) > 1 else []),
    ]
    if masked:
        notes.append(
            "in−out: scaled map inside the mask less outside (negative: opposite visualization)."
        )
    return Table(title + where, columns, lines, notes)


def means_table(means: Sequence[Mean], *, model: str) -> Table:
    """Means per prompt and method over all pictures."""
    columns = [
        Column("prompt", "left"), Column("method", "left"), Column("images"), Column("score"),
        Column("contrast"), Column("present"), Column("probably not"), Column("area"), Column("s"),
    ]  # fmt: skip
    lines = [
        [
            shorten(t.prompt, 20),
            t.method,
            f"{t.pictures:,}",
            f"{t.score:.3g}",
            f"{t.contrast:+.1f}",
            f"{t.present:.0%}",
            f"{t.absent:.0%}",
            f"{t.area:.0%}",
            number(t.seconds, 2),
        ]
        for t in means
    ]
    return Table(f"{model}: means over pictures", columns, lines)


def methods_table(kinds: Mapping[str, Mapping[str, Method]]) -> Table:
    """Every method: name, which kinds of encoder it serves, its options, what it shows."""
    serves: dict[str, list[str]] = {}
    facts: dict[str, Method] = {}
    options: dict[str, dict[str, None]] = {}
    for kind, methods in kinds.items():
        for name, method in methods.items():
            serves.setdefault(name, []).append(kind)
            facts.setdefault(name, method)
            options.setdefault(name, {}).update(dict.fromkeys(option_kinds(method)))
    columns = [
        Column("method", "left"), Column("encoders", "left"), Column("what it shows", "left"),
        Column("options", "left"),
    ]  # fmt: skip
    lines = [
        [name, " ".join(serves[name]), method.about, ", ".join(options[name]) or "–"]
        for name, method in facts.items()
    ]
    return Table("Methods", columns, lines)


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.2f}"


def _hit(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "no"
