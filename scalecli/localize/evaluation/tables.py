"""A finished evaluation as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from scalecli.core.table import Column, Table, number
from scalecli.localize.evaluation.rows import EvalRow, Figure

LEFT: Literal["left"] = "left"


def tables(rows: Sequence[EvalRow], summary: Mapping[str, Any]) -> list[Table]:
    """Quality, then cost, then what authors published where that can be compared."""
    found = [quality(rows, summary), cost(rows)]
    if any(row.deletion[0] is not None for row in rows):
        found.append(faithfulness(rows))
    if any(row.published is not None for row in rows):
        found.append(published(rows))
    return found


def quality(rows: Sequence[EvalRow], summary: Mapping[str, Any]) -> Table:
    """Every figure of every method, best mIoU first."""
    models = _models(rows)
    gains = any(row.gain[0] is not None for row in rows)
    columns = [
        *([Column("model", LEFT)] if len(models) > 1 else []),
        Column("method", LEFT),
        Column("mIoU"),
        Column("95 %"),
        *([Column("− base")] if gains else []),
        Column("acc."),
        Column("p-mIoU"),
        Column("point."),
        Column("in−out"),
    ]
    lines = [
        [
            *([row.model] if len(models) > 1 else []),
            row.method + (" †" if row.weighted else ""),
            percent(row.miou[0]),
            span(row.miou),
            *([gain(row.gain)] if gains else []),
            percent(row.accuracy[0]),
            percent(row.point_miou[0]),
            percent(row.pointing[0]),
            signed(row.contrast[0]),
        ]
        for row in rows
    ]
    with_pixels = sum(iou is not None for iou in rows[0].class_iou)
    notes = [
        f"{summary['dataset']}, protocol {summary['protocol']}, {rows[0].images} images; "
        f"{with_pixels} of {len(rows[0].class_iou)} classes occur",
        "in %; acc.: pixels; in−out: mean of the min–max map inside minus outside the mask",
        "(negative: it shows the opposite)",
    ]
    if any(row.weighted for row in rows):
        notes += [
            "†: its scores do not compare over prompts, so each map is weighed by the model's",
            "probability of the prompt for the whole image: mIoU and acc. rest on that too",
        ]
    if gains:
        notes += [
            f"− base: mIoU less that of {' or '.join(summary['baselines'])} on the same images",
            "(*: the 95 % interval of the difference leaves out 0)",
        ]
    title = "Localization" + (f": {models[0]}" if len(models) == 1 else "")
    return Table(title, columns, lines, notes, frozenset({(0, columns.index(Column("mIoU")))}))


def cost(rows: Sequence[EvalRow]) -> Table:
    """Images per second and memory, fastest first."""
    several = len(_models(rows)) > 1
    ordered = sorted(rows, key=lambda row: -row.images_per_second)
    lines = [
        [
            *([row.model] if several else []),
            row.method,
            f"{row.images_per_second:.3g}",
            "–" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
        ]
        for row in ordered
    ]
    columns = [
        *([Column("model", LEFT)] if several else []),
        Column("method", LEFT),
        Column("images/s"),
        Column("peak MB"),
    ]
    note = "one worker, one image at a time, decoding and scoring left out"
    return Table("Cost", columns, lines, (note,))


def faithfulness(rows: Sequence[EvalRow]) -> Table:
    """Deletion and insertion, best insertion less deletion first."""

    def margin(row: EvalRow) -> float:
        return (row.insertion[0] or 0.0) - (row.deletion[0] or 0.0)

    several = len(_models(rows)) > 1
    lines = [
        [
            *([row.model] if several else []),
            row.method,
            number(row.deletion[0]),
            number(row.insertion[0]),
            number(margin(row)),
        ]
        for row in sorted(rows, key=margin, reverse=True)
    ]
    columns = [
        *([Column("model", LEFT)] if several else []),
        Column("method", LEFT),
        Column("deletion"),
        Column("insertion"),
        Column("difference"),
    ]
    note = "area under the class's probability as pixels go (low is good) and come (high is good)"
    return Table("Deletion and insertion", columns, lines, (note,))


def published(rows: Sequence[EvalRow]) -> Table:
    """Measured beside published mIoU where protocol, data and backbone are the same."""
    lines = [
        [row.model, row.method, percent(row.miou[0]), span(row.miou), percent(row.published),
         row.source]
        for row in rows
        if row.published is not None
    ]  # fmt: skip
    columns = [
        Column("model", LEFT), Column("method", LEFT), Column("mIoU"), Column("95 %"),
        Column("published"), Column("source", LEFT),
    ]  # fmt: skip
    return Table("Beside published figures", columns, lines)


def percent(value: float | None) -> str:
    """A share in per cent."""
    return number(None if value is None else 100 * value, 1)


def span(figure: Figure) -> str:
    """An interval in per cent."""
    low, high = figure[1:]
    return "–" if low is None or high is None else f"{100 * low:.1f}…{100 * high:.1f}"


def gain(figure: Figure) -> str:
    """A difference in points, starred when its interval leaves out zero."""
    value, low, high = figure
    if value is None or low is None or high is None:
        return "–"
    star = "*" if low > 0 or high < 0 else " "
    return f"{100 * value:+.1f}{star}"


def signed(value: float | None) -> str:
    """A signed share in per cent."""
    return "–" if value is None else f"{100 * value:+.1f}"


def _models(rows: Sequence[EvalRow]) -> list[str]:
    return list(dict.fromkeys(row.model for row in rows))
