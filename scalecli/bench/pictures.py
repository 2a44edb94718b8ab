"""The ladder as bars, as a waterfall of factors, and as traces of step times."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from scalecli.bench.analysis import Row
from scalecli.bench.tables import figure as digits
from scalecli.core.figures import CYCLE, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MEASURED, ARTICLE, GAIN, LOSS, COMPILED = CYCLE[0], "#b8b8b8", CYCLE[2], CYCLE[1], CYCLE[1]
MOST_TRACES = 8


def figures(rows: Sequence[Row], title: str) -> dict[str, Figure]:
    """Every picture of a run by file name; none of them for a run that measured nothing."""
    if not any(row.status == "ok" for row in rows):
        return {}
    return {
        "ladder.png": ladder_figure(rows, title),
        "waterfall.png": waterfall_figure(rows, title),
        "trace.png": trace_figure(rows, title),
    }


def ladder_figure(rows: Sequence[Row], title: str) -> Figure:
    """A bar per rung with its 95 % interval, the article's bar beside."""
    compared = any(row.article_speedup for row in rows)
    with style():
        chart = Figure(figsize=(8, 1.2 + 0.52 * len(rows)))
        axes = chart.add_subplot()
        half = 0.38 if compared else 0.6
        values = [v for row in rows for v in (row.speedup, row.article_speedup) if v]
        # An interval that reaches far beyond every bar is cut: the bars are the subject.
        most = 1.6 * max([1.0, *values])
        for y, row in enumerate(rows):
            _ladder_bars(axes, y, row, half if compared else -half, most)
        axes.set_yticks(range(len(rows)), [_wrap(row.rung) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.axvline(1, color="black", lw=0.8)
        axes.set(xlabel="× over the baseline (label: samples/s)", title=title)
        axes.grid(axis="y", visible=False)
        highs = [min(most, row.speedup_high or 0) for row in rows]
        axes.set_xlim(0, 1.14 * max([1.0, *values, *highs]))
        axes.bar(0, 0, color=MEASURED, label="measured, 95 % interval")
        if compared:
            axes.bar(0, 0, color=ARTICLE, label="article (ViT-B/16, inf2.xlarge)")
        chart.legend(loc="outside lower center", ncols=2)
    return chart


def _ladder_bars(axes: Axes, y: int, row: Row, half: float, most: float) -> None:
    """The bars of one rung; a negative ``half`` leaves no place for the article's."""
    top = y - max(half, 0) / 2
    if row.status == "ok" and row.speedup is not None:
        axes.barh(top, row.speedup, abs(half), color=MEASURED, zorder=2)
        end = row.speedup
        if row.speedup_low is not None and row.speedup_high is not None:
            end = min(most, row.speedup_high)
            axes.plot([row.speedup_low, end], [top, top], color="black", lw=1.2, zorder=3)
        _beside(axes, end, top, digits(row.samples_per_s), "black")
    else:
        _beside(axes, 0, top, row.status, "#777777")
    if half > 0 and row.article_speedup is not None:
        below = y + half / 2
        axes.barh(below, row.article_speedup, half, color=ARTICLE, zorder=2)
        _beside(axes, row.article_speedup, below, digits(row.article_samples_per_s), "#777777")


def _beside(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(
        text, (x, y), (4, 0), textcoords="offset points", va="center", fontsize=8, color=colour
    )


def waterfall_figure(rows: Sequence[Row], title: str) -> Figure:
    """What each rung multiplies the one it builds on by."""
    shown = [row for row in rows if row.status == "ok" and row.speedup is not None]
    reached = {row.rung: row.speedup or 1.0 for row in shown}
    place = {row.rung: x for x, row in enumerate(shown)}
    with style():
        chart = Figure(figsize=(max(5.0, 1.1 * len(shown) + 1), 4.2))
        axes = chart.add_subplot()
        for x, row in enumerate(shown):
            end = reached[row.rung]
            under = row.after if row.after in reached else shown[0].rung
            start = 0.0 if x == 0 else reached[under]
            colour = MEASURED if x == 0 else GAIN if end >= start else LOSS
            faded = 0.45 if row.significant is False else 1.0
            axes.bar(x, end - start, 0.62, start, color=colour, alpha=faded, zorder=2)
            axes.plot([x - 0.31, x + 0.31], [end, end], color=colour, lw=2, zorder=3)
            if x:
                axes.plot([place[under], x], [start, start], color="#888888", lw=0.8, ls=":")
            factor = f"×{end / start:.2f}" if x else "×1"
            axes.annotate(
                factor, (x, max(start, end)), (0, 3), textcoords="offset points", ha="center"
            )
        axes.set_xticks(range(len(shown)), [_wrap(row.rung, 13) for row in shown], fontsize=8)
        axes.grid(axis="x", visible=False)
        axes.set_ylim(0, 1.15 * max(reached.values()))
        axes.set(ylabel="× over the baseline", title=f"{title}: what each rung adds")
        if any(row.significant is False for row in shown):
            axes.set_xlabel("pale: not significant against the baseline", fontsize=8)
    return chart


def trace_figure(rows: Sequence[Row], title: str) -> Figure:
    """Step times of each rung's first finished process, compilations marked."""
    shown = [(row, run) for row in rows if (run := _first(row)) is not None][:MOST_TRACES]
    with style():
        chart = Figure(figsize=(8, 1.0 + 1.15 * len(shown)))
        panels = chart.subplots(len(shown), squeeze=False)[:, 0]
        for axes, (row, run) in zip(panels, shown, strict=True):
            _trace(axes, run, int(row.config.get("batches_per_execution", 1)))
            axes.set_title(row.rung, loc="left", fontsize=9)
            axes.set_yscale("log")
            low, high = axes.get_ylim()
            low, high = low / 1.2, high * 2.5
            axes.set_ylim(low, high)
            axes.set_yticks(log_ticks(low, high))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.set_ylabel("ms / step", fontsize=8)
        panels[-1].set_xlabel("step")
        if any(e["compilations"] for _, run in shown for e in run["warmup"]):
            panels[0].plot([], [], "v", color=COMPILED, label="graphs compiled")
        panels[0].fill_between([], [], [], color="#eeeeee", label="warm-up, not counted")
        chart.legend(loc="outside lower center", ncols=2)
        chart.suptitle(f"{title}: step time by execution", fontweight="bold", fontsize=10.5)
    return chart


def _trace(axes: Axes, run: Mapping[str, Any], n: int) -> None:
    """One process: every execution as a level over its steps."""
    spans = [(e["steps"], e["ms"], e["compilations"]) for e in run["warmup"]]
    warm = sum(steps for steps, _, _ in spans)
    spans += [(n, ms, 0) for ms in run["step_ms"]]
    edges, levels = [0], []
    for steps, ms, compiled in spans:
        if compiled:
            middle = edges[-1] + steps / 2
            axes.plot(middle, ms, "v", color=COMPILED, ms=6, zorder=4)
            axes.annotate(str(compiled), (middle, ms), (0, 5), textcoords="offset points",
                          fontsize=7.5, color=COMPILED, ha="center")  # fmt: skip
        edges.append(edges[-1] + steps)
        levels.append(ms)
    axes.stairs(levels, edges, baseline=None, color=MEASURED, lw=1.3)
    axes.axvspan(0, warm, color="#eeeeee", zorder=0)
    axes.set_xlim(0, edges[-1])


def log_ticks(low: float, high: float, most: int = 4) -> list[float]:
    """Few round values between two ends of a logarithmic axis: as dense as ``most`` allows.

    >>> log_ticks(22, 95), log_ticks(20, 120_000)
    ([30.0, 50.0, 70.0], [100.0, 1000.0, 10000.0, 100000.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (range(1, 10), (1, 2, 3, 5, 7), (1, 2, 5))
    series = [[m * 10.0**d for d in decades for m in ms] for ms in steps]
    series += [[10.0**d for d in decades if d % step == 0] for step in (1, 2, 3, 4)]
    inside = [[v for v in values if low <= v <= high] for values in series]
    return next(values for values in inside if len(values) <= most)


def _first(row: Row) -> Mapping[str, Any] | None:
    return next((r for r in row.repeats if r.get("status") == "ok" and r.get("step_ms")), None)


def _wrap(text: str, width: int = 24) -> str:
    return "\n".join(textwrap.wrap(text, width))
