"""The sweep as pictures: F1 and error against N, and F1 region by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scalecli.core import figures
from scalecli.core.table import count
from scalecli.spiral.laws import LawFit
from scalecli.spiral.rows import REGIONS, SweepRow
from scalecli.spiral.tables import ARTICLE, cell, models_of, sizes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["error_curve", "f1_curve", "region_curves"]

_REGION_TITLES = {
    "all": "whole plane",
    "tip": "tip",
    "centre": "centre",
    "rest": "rest of the arm",
}
_MARKERS = "osD^vPX<>h"


def f1_curve(rows: Sequence[SweepRow], config: Mapping[str, Any]) -> Figure:
    """F1 against N with 95 % t intervals, and the article's own points as hollow markers."""
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure(figsize=(7.2, 4.4))
        axes = figure.add_subplot()
        models = models_of(rows)
        ends = {}
        article = False
        for i, model in enumerate(models):
            ends[model] = _curve(axes, rows, model, i, "f1")
            printed = {} if config.get("data") else ARTICLE.get(model, {})
            shown = [(n, f1) for n, f1 in printed.items() if n in sizes_of(rows)]
            if shown:
                axes.plot(
                    *zip(*shown, strict=True),
                    linestyle="none",
                    marker=_MARKERS[i % len(_MARKERS)],
                    markersize=8.5,
                    markerfacecolor="none",
                    markeredgewidth=1.3,
                    color=_colour(i),
                    zorder=4,
                )
                article = True
        _sizes_axis(axes, sizes_of(rows))
        axes.set_ylim(-0.03, 1.03)
        axes.set_ylabel("F1")
        axes.set_title("F1 against training points", loc="left")
        _label_ends(figure, axes, ends, models)
        note = _where(config) + "; bands: 95 % t interval over seeds"
        _note(axes, f"{note}\nhollow: the article's figures" if article else note)
        return figure


def error_curve(
    rows: Sequence[SweepRow],
    config: Mapping[str, Any],
    theory: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    fits: Sequence[LawFit] = (),
) -> Figure:
    """Error against N, log–log, over the fitted laws and the theory's predictions.

    Args:
        rows: the sweep's rows.
        config: the sweep's config.
        theory: by model, (N, predicted error) points; drawn dashed.
        fits: laws, drawn as lines through the measured points.
    """
    from matplotlib.figure import Figure

    with figures.style():
        figure = Figure(figsize=(7.2, 4.8))
        axes = figure.add_subplot()
        axes.set_yscale("log")
        models, sizes = models_of(rows), sizes_of(rows)
        laws = {fit.model: fit for fit in fits}
        ends = {}
        for i, model in enumerate(models):
            end = _curve(axes, rows, model, i, "error", line=model not in laws)
            law = laws.get(model)
            if law is not None:
                grid = np.geomspace(sizes[0], sizes[-1], 120)
                axes.plot(grid, [law.predict(n) for n in grid], color=_colour(i), alpha=0.9)
            ends[model] = end
            for_model = sorted((theory or {}).get(model, ()))
            if for_model:
                axes.plot(
                    *zip(*for_model, strict=True),
                    linestyle=(0, (4, 2.5)),
                    linewidth=1.2,
                    color=_colour(i),
                    zorder=1.5,
                )
        _sizes_axis(axes, sizes)
        axes.set_ylabel("test error")
        axes.set_title("Error against training points", loc="left")
        _label_ends(figure, axes, ends, models)
        lines = [_where(config) + "; error bars: 95 % t interval over seeds"]
        kinds = []
        if laws:
            kinds.append("solid: fitted law a·N^(−b) + c")
        if any((theory or {}).get(m) for m in models):
            kinds.append("dashed: kNN theory, no free parameter")
        _note(axes, "\n".join([*lines, *(["; ".join(kinds)] if kinds else [])]))
        return figure


def region_curves(rows: Sequence[SweepRow], config: Mapping[str, Any] | None = None) -> Figure:
    """F1 against N, one panel per region."""
    from matplotlib.figure import Figure

    present = {r.region for r in rows}
    regions = [r for r in REGIONS if r in present]
    with figures.style():
        wide = min(2, len(regions))
        tall = -(-len(regions) // max(1, wide))
        figure = Figure(figsize=(3.9 * wide + 0.6, 2.7 * tall + 0.5))
        models, sizes = models_of(rows), sizes_of(rows)
        first: Axes | None = None
        for place, region in enumerate(regions):
            axes = figure.add_subplot(tall, wide, place + 1, sharey=first)
            first = first or axes
            for i, model in enumerate(models):
                _curve(axes, rows, model, i, "f1", region=region)
            _sizes_axis(axes, sizes, label=place >= len(regions) - wide)
            axes.set_ylim(-0.03, 1.03)
            axes.set_title(_REGION_TITLES[region], loc="left")
            if place % wide == 0:
                axes.set_ylabel("F1")
            else:
                axes.tick_params(labelleft=False)
        if first is not None:
            # Outside the panels, so that it can cover no curve, whatever the data.
            handles, labels = first.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside upper center", ncols=min(5, len(models)))
        if config is not None:
            figure.supxlabel(_where(config), fontsize=8, color="0.4")
        return figure


def _colour(i: int) -> str:
    return figures.CYCLE[i % len(figures.CYCLE)]


def _curve(
    axes: Axes,
    rows: Sequence[SweepRow],
    model: str,
    i: int,
    value: str,
    *,
    region: str = "all",
    line: bool = True,
) -> tuple[float, float] | None:
    """Draw one model's means and intervals; the last point drawn, or None without any."""
    cells = [(n, cell(rows, model, n, region=region, value=value)) for n in sizes_of(rows)]
    found = [(n, c) for n, c in cells if c is not None and (value == "f1" or c.value > 0)]
    if not found:
        # Still named in the legend: the colours must stay those of the other panels.
        axes.plot([], [], color=_colour(i), marker=_MARKERS[i % len(_MARKERS)], label=model)
        return None
    n = np.array([n for n, _ in found], dtype=float)
    mean = np.array([c.value for _, c in found])
    low = np.array([c.low if np.isfinite(c.low) else c.value for _, c in found])
    high = np.array([c.high if np.isfinite(c.high) else c.value for _, c in found])
    # A t interval knows nothing of the scale's ends; half the mean keeps a log axis in sight.
    low = np.maximum(low, 0.0 if value == "f1" else 0.5 * mean)
    high = np.minimum(high, 1.0)
    axes.plot(
        n,
        mean,
        color=_colour(i),
        marker=_MARKERS[i % len(_MARKERS)],
        markersize=4.5,
        linestyle="-" if line else "none",
        label=model,
        zorder=3,
    )
    if value == "f1":
        axes.fill_between(n, low, high, color=_colour(i), alpha=0.14, linewidth=0)
    else:
        wide = high > low  # a bar without height would leave a lone point's axis without any
        axes.vlines(n[wide], low[wide], high[wide], color=_colour(i), linewidth=1.1, alpha=0.7)
    return float(n[-1]), float(mean[-1])


def _sizes_axis(axes: Axes, sizes: Sequence[int], *, label: bool = True) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    span = np.log10(sizes[-1] / sizes[0]) or 1.0
    ticks: list[int] = []
    for n in sizes:
        # A size too close to its neighbour keeps its point but goes without a label.
        if not ticks or np.log10(n / ticks[-1]) > 0.11 * span:
            ticks.append(n)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda n, _: count(round(n))))
    pad = 10 ** (0.04 * span)
    axes.set_xlim(sizes[0] / pad, sizes[-1] * pad)
    if label:
        axes.set_xlabel("training points N")


def _label_ends(
    figure: Figure,
    axes: Axes,
    ends: Mapping[str, tuple[float, float] | None],
    models: Sequence[str],
) -> None:
    """Name each curve right of the axes, at its last point, spread so that no names touch."""
    placed = sorted(
        (float(axes.transAxes.inverted().transform(axes.transData.transform(end))[1]), model)
        for model in models
        if (end := ends[model]) is not None
    )
    if not placed:
        return
    step = 0.055 * 4.4 / float(figure.get_size_inches()[1])
    heights = [y for y, _ in placed]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + step)
    # Pushed up past the top, the names move down together, each as far as the next one asks.
    top = 1.0
    for i in reversed(range(len(heights))):
        heights[i] = min(heights[i], top)
        top = heights[i] - step
    for (y, model), height in zip(placed, heights, strict=True):
        i = list(models).index(model)
        axes.annotate(
            model,
            (1.0, y),
            xycoords="axes fraction",
            xytext=(1.045, height),
            textcoords="axes fraction",
            color=_colour(i),
            va="center",
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": _colour(i),
                "linewidth": 0.7,
                "alpha": 0.7,
                "relpos": (0.0, 0.5),
                "shrinkA": 1,
                "shrinkB": 0,
            },
        )


def _where(config: Mapping[str, Any]) -> str:
    if config.get("data"):
        return "test points of your data"
    kinds = {"density": "drawn from the density", "grid": "on a uniform grid"}
    return f"test points {kinds.get(str(config.get('eval')), 'of the evaluation set')}"


def _note(axes: Axes, text: str) -> None:
    axes.annotate(
        text,
        (0, 0),
        xycoords="axes fraction",
        xytext=(0, -36),
        textcoords="offset points",
        va="top",
        fontsize=8,
        color="0.4",
    )
