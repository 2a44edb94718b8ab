"""The sweep as tables of at most 80 columns; each is a pure function of rows and fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from scalecli.core.stats import Interval, mean_interval
from scalecli.core.table import Column, Table, count, number
from scalecli.spiral.laws import LawFit, PriorWorth
from scalecli.spiral.rows import REGIONS, SweepRow

__all__ = [
    "ARTICLE",
    "cell",
    "error_table",
    "f1_table",
    "law_table",
    "models_of",
    "region_table",
    "sizes_of",
    "worth_table",
]

ARTICLE: Mapping[str, Mapping[int, float]] = {
    "knn5": {100: 0.0, 1_000: 0.38, 10_000: 0.82, 100_000: 0.94, 1_000_000: 0.98},
    "mlp-polar": {100: 0.42, 1_000: 0.85, 10_000: 0.95, 100_000: 0.94, 1_000_000: 0.94},
}
"""The article's F1 by model and N (its last column is printed as 100 and means 1,000,000)."""

WIDTH = 80
_GAP = 2


def models_of(rows: Sequence[SweepRow]) -> list[str]:
    """The models, in the order of the rows."""
    return list(dict.fromkeys(r.model for r in rows))


def sizes_of(rows: Sequence[SweepRow]) -> list[int]:
    """The training sizes, ascending."""
    return sorted({r.n for r in rows})


def cell(
    rows: Sequence[SweepRow], model: str, n: int, *, region: str = "all", value: str = "f1"
) -> Interval | None:
    """Mean and 95 % t interval over the seeds of one cell; None where nothing was measured."""
    found = [
        float(v)
        for r in rows
        if (r.model, r.n, r.region) == (model, n, region)
        and (v := getattr(r, value)) is not None
        and math.isfinite(v)
    ]
    return mean_interval(found) if found else None


def f1_table(rows: Sequence[SweepRow], config: Mapping[str, Any]) -> Table:
    """F1 of every model at every N, over the article's own figures where it gives them."""
    sizes = sizes_of(rows)
    body: list[list[str]] = []
    reference: list[int] = []
    compared = not config.get("data")
    for model in models_of(rows):
        cells = [cell(rows, model, n) for n in sizes]
        body.append([model, *(_with_half(c, 3) for c in cells)])
        article = ARTICLE.get(model, {}) if compared else {}
        if any(n in article for n in sizes):
            reference.append(len(body))
            body.append(["  article", *(_cell(article.get(n), 2) for n in sizes)])
            differences = [
                f"{c.value - article[n]:+.3f}".replace("-", "−") if c and n in article else ""
                for c, n in zip(cells, sizes, strict=True)
            ]
            body.append(["  difference", *differences])
    notes = _notes(rows, config)
    if reference:
        notes.append("article: Dzekman (2024); geometry calibrated to it, not recovered.")
    return _fit_width("F1 by training points N", sizes, body, notes, _best(body, reference))


def error_table(rows: Sequence[SweepRow], config: Mapping[str, Any]) -> Table:
    """The share of test points misclassified, by model and N."""
    sizes = sizes_of(rows)
    body = [
        [model, *(_with_half(cell(rows, model, n, value="error"), 4) for n in sizes)]
        for model in models_of(rows)
    ]
    return _fit_width("Test error by training points N", sizes, body, _notes(rows, config))


def region_table(rows: Sequence[SweepRow], config: Mapping[str, Any]) -> Table:
    """F1 per region: one row per model and region, so that a model's weak spot stands out."""
    sizes = sizes_of(rows)
    body: list[list[str]] = []
    for model in models_of(rows):
        present = {r.region for r in rows if r.model == model}
        for region in (r for r in REGIONS if r in present):
            means = [cell(rows, model, n, region=region) for n in sizes]
            # The model once, then its regions below: a repeated name hides the structure.
            name = f"{model}\n  {region}" if region == "all" else f"  {region}"
            lead = "\n" if region == "all" else ""
            body.append([name, *(lead + number(m.value if m else None, 2) for m in means)])
    notes = [*_notes(rows, config, half=False), "–: the region holds no positive test points."]
    return _fit_width("F1 by region and training points N", sizes, body, notes)


def law_table(fits: Sequence[LawFit]) -> Table:
    """The fitted laws, their extrapolation and the training points they ask for."""
    targets = list(dict.fromkeys(q.target for fit in fits for q in fit.needed))
    columns = [
        Column("model", "left"),
        Column("a"),
        Column("b"),
        Column("floor c"),
        Column("held-out N\npred./meas."),
        *(Column(f"N for error\n{t:g}") for t in targets),
    ]
    body = []
    for fit in fits:
        row = [
            fit.model,
            f"{fit.a:.3g}",
            f"{fit.b:.2f}\n{_range(fit.b_low, fit.b_high, '.2f')}",
            "0 (fixed)" if fit.c_fixed else f"{fit.c:.2g}\n{_range(fit.c_low, fit.c_high, '.2g')}",
            "–"
            if fit.holdout_n is None
            else f"{_cell(fit.holdout_ratio, 2)}×\n{_points(fit.holdout_n)}",
        ]
        answers = {q.target: q for q in fit.needed}
        for target in targets:
            q = answers.get(target)
            if q is None:
                row.append("–")
            elif q.n is None:
                row.append("not\nreachable" if q.low is None else f"none\n[{_points(q.low)}, ∞)")
            elif q.low is None:
                row.append(_points(q.n))
            else:
                high = "∞)" if q.high is None else f"{_points(q.high)}]"
                row.append(f"{_points(q.n)}\n[{_points(q.low)}, {high}")
        body.append(row)
    notes = [
        "Law: error = a·N^(−b) + c, Huber loss on log error; [ ]: 95 % over seeds.",
        "pred./meas.: a law fitted without the largest N, against the measurement there.",
        "not reachable: the floor c lies at or above that error.",
    ]
    return _narrow("Scaling laws", columns, body, notes if targets else notes[:-1])


def worth_table(worths: Sequence[PriorWorth], *, reference: str = "knn1") -> Table:
    """How many times more data the reference needs to match each model at each N."""
    sizes = sorted({w.n for w in worths})
    by = {(w.model, w.n): w for w in worths}
    body: list[list[str]] = []
    hopeless: list[str] = []
    for model in dict.fromkeys(w.model for w in worths):
        row = [model]
        for n in sizes:
            w = by.get((model, n))
            if w is None:
                row.append("")
            elif w.factor is None:
                row.append("never")
            else:
                text = f"{_times(w.factor)}×{'*' if w.extrapolated else ''}"
                if w.low is not None:
                    high = "∞" if w.high is None else _times(w.high)
                    text += f"\n{_times(w.low)}–{high}"
                row.append(text)
        if all(text in ("", "never") for text in row[1:]):
            hopeless.append(model)
        else:
            body.append(row)
    notes = [
        f"×: {reference} needs that many times the points for the same error.",
        "Second line: 95 % over seeds. *: by its law, beyond its measured sizes.",
    ]
    if hopeless:
        names = ", ".join(hopeless)
        notes.append(f"never at any N, its law levels off above them: {names}")
    return _fit_width(f"What a prior is worth in data (against {reference})", sizes, body, notes)


def _notes(rows: Sequence[SweepRow], config: Mapping[str, Any], *, half: bool = True) -> list[str]:
    points = config.get("test_points")
    test = f"{count(points)} test points" if isinstance(points, int | float) else "test points"
    where = {
        "density": "drawn from the sampling density",
        "grid": "on a uniform grid over the square",
    }.get(str(config.get("eval")), "of the evaluation set")
    if config.get("data"):
        test, where = "a quarter of your rows held out", "per seed, stratified"
    seeds = len({r.seed for r in rows})
    what = f"{seeds} seed{'s' if seeds != 1 else ''}"
    if not half:
        return [f"Mean of {what};", f"{test} {where}."]
    spread = "no interval" if seeds < 2 else "± half the 95 % t interval"
    return [f"Mean of {what}, {spread};", f"{test} {where}."]


def _cell(value: float | None, digits: int) -> str:
    return "" if value is None else number(value, digits)


def _with_half(interval: Interval | None, digits: int) -> str:
    if interval is None:
        return "–"
    text = number(interval.value, digits)
    half = interval.high - interval.value
    return f"{text} ±{half:.{digits}f}".replace("±0.", "±.") if math.isfinite(half) else text


def _best(body: Sequence[Sequence[str]], article: Sequence[int]) -> frozenset[tuple[int, int]]:
    """The highest mean of each column, the article's own lines aside."""
    skip = {i for row in article for i in (row, row + 1)}
    found = set()
    for column in range(1, len(body[0]) if body else 0):
        means = {
            i: float(row[column].split()[0])
            for i, row in enumerate(body)
            if i not in skip and row[column] not in ("", "–")
        }
        if len(means) > 1:
            top = max(means.values())
            found |= {(i, column) for i, mean in means.items() if mean == top}
    return frozenset(found)


def _range(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def _points(value: float) -> str:
    """Training points to two figures, e.g. 31k; a law says nothing exact beyond a trillion."""
    if value >= 1e12:
        return ">1T"
    rounded = float(f"{value:.2g}")
    return count(rounded) if rounded >= 1 else "<1"


def _times(value: float) -> str:
    if value >= 1e4:
        return _points(value)
    return f"{float(f'{value:.2g}'):g}"


def _fit_width(
    title: str,
    sizes: Sequence[int],
    body: Sequence[Sequence[str]],
    notes: Sequence[str],
    emphasis: frozenset[tuple[int, int]] = frozenset(),
) -> Table:
    columns = [Column("model", "left"), *(Column(count(n)) for n in sizes)]
    return _narrow(title, columns, body, notes, emphasis)


def _narrow(
    title: str,
    columns: Sequence[Column],
    body: Sequence[Sequence[str]],
    notes: Sequence[str],
    emphasis: frozenset[tuple[int, int]] = frozenset(),
) -> Table:
    """The table in 80 columns: ± moves to a second line, then columns wrap into blocks below."""
    grid = [[c.header for c in columns], *[list(row) for row in body]]
    if _width(grid) > WIDTH:
        grid = [[text.replace(" ±", "\n±") for text in row] for row in grid]
    if _width(grid) <= WIDTH:
        return Table(title, columns, grid[1:], notes, emphasis)
    # The blocks share columns: as many as fit, each block headed by a row of its own.
    per = len(columns) - 1
    while per > 1:
        per -= 1
        blocks = _blocks(grid, per)
        if (
            max(_width(b) for b in blocks) <= WIDTH
            and _width([row for block in blocks for row in block]) <= WIDTH
        ):
            break
    blocks = _blocks(grid, per)
    rows = blocks[0][1:]
    marks = set()
    height = len(grid)
    for i, j in emphasis:
        marks.add((i + ((j - 1) // per) * (height + 1), (j - 1) % per + 1))
    for block in blocks[1:]:
        rows += [[""] * (per + 1), *block]
    head = [Column(columns[0].header, columns[0].align)]
    head += [Column(text, "right") for text in blocks[0][0][1:]]
    return Table(title, head, rows, notes, frozenset(marks))


def _blocks(grid: Sequence[Sequence[str]], per: int) -> list[list[list[str]]]:
    total = len(grid[0]) - 1
    blocks = []
    for first in range(1, total + 1, per):
        pad = [""] * max(0, first + per - 1 - total)
        blocks.append([[row[0], *row[first : first + per], *pad] for row in grid])
    return blocks


def _width(grid: Sequence[Sequence[str]]) -> int:
    columns = zip(*grid, strict=True)
    widths = [max(len(line) for text in c for line in text.split("\n")) for c in columns]
    return sum(widths) + _GAP * (len(widths) - 1)
