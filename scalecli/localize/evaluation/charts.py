"""A finished evaluation as charts: quality against speed, and class by class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalecli.core import figures
from scalecli.localize.evaluation.rows import EvalRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CLASSES = 40
"""More do not fit on a page: the most frequent are shown."""
_MARKERS = "osD^vP"


def quality_speed(rows: Sequence[EvalRow], summary: Mapping[str, Any]) -> Figure:
    """The mIoU with its interval against images per second; the line joins what nothing beats."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    models = list(dict.fromkeys(row.model for row in rows))
    shown = [row for row in rows if row.miou[0] is not None]
    with figures.style():
        figure = Figure(figsize=(8.2, max(4.2, 0.24 * len(shown) + 1.6)))
        axes = figure.add_subplot()
        for row in shown:
            value, low, high = (100 * (v if v is not None else np.nan) for v in row.miou)
            number = models.index(row.model)
            axes.errorbar(
                row.images_per_second,
                value,
                yerr=None if np.isnan(low) else [[value - low], [high - value]],
                fmt=_MARKERS[number % len(_MARKERS)],
                color=figures.CYCLE[number % len(figures.CYCLE)],
                markersize=5,
                elinewidth=1,
                alpha=0.9,
                label=row.model if row.model not in axes.get_legend_handles_labels()[1] else None,
            )
        front = _front(shown)
        if len(front) > 1:
            axes.plot(
                [r.images_per_second for r in front],
                [100 * (r.miou[0] or 0) for r in front],
                color="0.6", linewidth=1, linestyle="--", zorder=1,
            )  # fmt: skip
        axes.set_xscale("log")
        speeds = [row.images_per_second for row in shown]
        if speeds and max(speeds) < 3 * min(speeds):  # a ratio of 1.02 is no difference to show
            axes.set_xlim(min(speeds) / 2, max(speeds) * 2)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.08, y=0.08)
        axes.set_xlabel("images per second (one worker)")
        axes.set_ylabel("mIoU, %")
        axes.set_title(f"Quality against speed: {_where(summary, rows)}", loc="left")
        if len(models) > 1:
            axes.legend(loc="best", fontsize=8)
        _names_beside(figure, axes, shown)
    return figure


def _front(rows: Sequence[EvalRow]) -> list[EvalRow]:
    """The rows that no other beats in both quality and speed, slowest first."""
    found: list[EvalRow] = []
    for row in sorted(rows, key=lambda r: (-r.images_per_second, -(r.miou[0] or 0))):
        if not found or (row.miou[0] or 0) > (found[-1].miou[0] or 0):
            found.append(row)
    return found[::-1]


def _names_beside(figure: Figure, axes: Axes, rows: Sequence[EvalRow]) -> None:
    """Names in one column right of the chart, each tied to its point, none over another."""
    low, high = axes.get_ylim()
    ordered = sorted(rows, key=lambda r: r.miou[0] or 0)
    heights = [(100 * (r.miou[0] or 0) - low) / (high - low) for r in ordered]
    height = axes.get_window_extent().height * 72 / figure.dpi
    for row, at in zip(ordered, apart(heights, 10.5 / height), strict=True):
        axes.annotate(
            row.method,
            xy=(row.images_per_second, 100 * (row.miou[0] or 0)),
            xytext=(1.03, at),
            textcoords="axes fraction",
            fontsize=8,
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": "0.75",
                "linewidth": 0.5,
                "shrinkB": 3,
                "relpos": (0, 0.5),
            },
        )


def apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending positions in 0…1 near those wanted (ascending), at least ``gap`` from each other.

    The gap shrinks where there is no room for all.
    """
    gap = min(gap, 1 / max(len(wanted) - 1, 1))
    up, down = list(wanted), list(wanted)
    for i in range(1, len(wanted)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-1 - i] = min(down[-1 - i], down[-i] - gap)
    # Both keep the gap, so their mean does, and it leans to neither side.
    found = [(a + b) / 2 for a, b in zip(up, down, strict=True)]
    for i in range(len(found)):
        found[i] = max(found[i], i * gap)
    for i in reversed(range(len(found))):
        found[i] = min(found[i], 1 - (len(found) - 1 - i) * gap)
    return found


def per_class(rows: Sequence[EvalRow], summary: Mapping[str, Any]) -> Figure:
    """IoU of every class under every method, the most frequent class first."""
    from matplotlib.figure import Figure

    pixels = np.asarray(summary["confusion"]).sum(axis=1)
    order = [c for c in np.argsort(-pixels, kind="stable").tolist() if pixels[c] > 0]
    shown = order[:MOST_CLASSES]
    values = np.array(
        [[100 * (v if (v := r.class_iou[c]) is not None else np.nan) for c in shown] for r in rows]
    )
    models = {row.model for row in rows}
    names = [f"{r.method} ({r.model})" if len(models) > 1 else r.method for r in rows]
    with figures.style():
        figure = Figure(figsize=(max(4.8, 2.4 + 0.36 * len(shown)), 1.9 + 0.26 * len(rows)))
        axes = figure.add_subplot()
        axes.grid(False)
        image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=0)
        for r, line in enumerate(values):
            for c, value in enumerate(line):
                dark = value < 0.6 * np.nanmax(values) or np.isnan(value)
                axes.text(
                    c, r, f"{value:.0f}", ha="center", va="center", fontsize=6.5,
                    color="white" if dark else "black",
                )  # fmt: skip
        axes.set_xticks(
            range(len(shown)),
            [_short(summary["classes"][c]) for c in shown],
            rotation=50,
            ha="right",
            rotation_mode="anchor",
        )
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        left_out = len(order) - len(shown)
        more = f"; {left_out} rarer classes left out" if left_out else ""
        axes.set_title(f"IoU by class, %: {_where(summary, rows)}{more}", loc="left", fontsize=9.5)
        figure.colorbar(image, ax=axes, pad=0.01, shrink=0.9)
    return figure


def _short(name: str) -> str:
    first = name.partition(",")[0].strip()
    return first if len(first) <= 20 else first[:19] + "…"


def _where(summary: Mapping[str, Any], rows: Sequence[EvalRow]) -> str:
    return f"{summary['dataset']}, {summary['protocol']}, {rows[0].images} images"
