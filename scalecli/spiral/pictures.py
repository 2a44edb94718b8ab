"""Pictures of the plane: manifold, density, samples, decision regions, the map of kNN failure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle

from scalecli.core.figures import INSIDE, OUTSIDE, style
from scalecli.core.table import count
from scalecli.spiral.classifier import Labels, Points
from scalecli.spiral.problem import FRAME, Problem

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TIP_FRAME_SCALE = 1.6


def _plane(axes: Axes, problem: Problem, title: str) -> None:
    axes.set(xlim=FRAME[:2], ylim=FRAME[2:], aspect="equal", title=title, xticks=[], yticks=[])
    axes.grid(False)


def _outline(axes: Axes, problem: Problem, **look: Any) -> None:
    axes.add_patch(
        Polygon(problem.manifold.boundary(4000), fill=False, **{"lw": 0.9, "ec": "black", **look})
    )


def _tip_box(axes: Axes, problem: Problem) -> None:
    x0, x1, y0, y1 = problem.boxes()["tip"]
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec="red", lw=1.6, zorder=5))


def _scatter(axes: Axes, x_N2: Points, y_N: Labels, size: float) -> None:
    for label, colour in ((0, OUTSIDE), (1, INSIDE)):
        mine = x_N2[y_N == label]
        axes.scatter(mine[:, 0], mine[:, 1], s=size, c=colour, lw=0, zorder=3)


def manifold_figure(problem: Problem) -> Figure:
    """The bare manifold: inside orange, outside blue."""
    with style():
        figure = Figure(figsize=(5, 5))
        axes = figure.add_subplot()
        axes.set_facecolor("#dbe6f1")
        axes.add_patch(Polygon(problem.manifold.boundary(), fc=INSIDE, ec="black", lw=0.9))
        _plane(axes, problem, "The manifold: inside (orange), outside (blue)")
    return figure


def density_figure(problem: Problem) -> Figure:
    """The manifold over the sampling density, with the tip in its box."""
    with style():
        figure = Figure(figsize=(5.8, 5))
        axes = figure.add_subplot()
        grid = _mesh(FRAME, 300)
        image = axes.imshow(problem.density.pdf(grid), extent=FRAME, origin="lower", cmap="viridis")
        _outline(axes, problem, ec="white")
        _tip_box(axes, problem)
        figure.colorbar(image, ax=axes, shrink=0.8)
        _plane(axes, problem, "Sampling density f; the tip (red box) is sparse")
    return figure


def sample_figure(problem: Problem, n: int, seed: int) -> Figure:
    """A labelled sample and the zoom on the tip, side by side."""
    x_N2, y_N = problem.sample(n, seed)
    x0, x1, y0, y1 = problem.boxes()["tip"]
    with style():
        figure = Figure(figsize=(10, 5))
        left, right = figure.subplots(1, 2)
        size = float(np.clip(9000 / n, 0.5, 12))
        for axes in (left, right):
            _outline(axes, problem, alpha=0.7)
            _scatter(axes, x_N2, y_N, size if axes is left else 6 * size)
            _tip_box(axes, problem)
        _plane(left, problem, f"N = {n:,}: {int(y_N.sum())} inside, {n - int(y_N.sum())} outside")
        _plane(right, problem, "The tip: region of value, few points")
        mx, my = (x0 + x1) / 2, (y0 + y1) / 2
        half = TIP_FRAME_SCALE * (x1 - x0) / 2
        right.set(xlim=(mx - half, mx + half), ylim=(my - half, my + half))
    return figure


def regions_figure(
    problem: Problem, panels: Sequence[tuple[str, Labels, Points, Labels]], side: int
) -> Figure:
    """Decision regions side by side.

    Args:
        problem: for the outline and the tip's box.
        panels: title, decisions [side·side] on :func:`plane_grid`, sample [N, 2], labels [N].
        side: grid points per axis.
    """
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    with style():
        figure = Figure(figsize=(4.4 * columns, 4.7 * lines))
        grid = figure.subplots(lines, columns, squeeze=False)
        colours = ListedColormap(["#c9d9ea", "#f6c79b"])
        for axes, panel in zip(grid.ravel(), panels, strict=False):
            title, decided, x_N2, y_N = panel
            axes.imshow(
                decided.reshape(side, side),
                extent=FRAME,
                origin="lower",
                cmap=colours,
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            _outline(axes, problem, lw=0.7)
            shown = slice(None, 3000)  # more dots than this hide the regions
            _scatter(axes, x_N2[shown], y_N[shown], 5 if len(x_N2) <= 1000 else 1.2)
            _tip_box(axes, problem)
            _plane(axes, problem, title)
        for axes in grid.ravel()[len(panels) :]:
            axes.set_visible(False)
    return figure


def plane_grid(side: int) -> Points:
    """Grid points [side·side, 2] of the frame, row by row from below."""
    return _mesh(FRAME, side).reshape(-1, 2)


def _mesh(box: tuple[float, float, float, float], side: int) -> Points:
    x, y = np.meshgrid(np.linspace(box[0], box[1], side), np.linspace(box[2], box[3], side))
    return np.stack([x, y], axis=-1)


def failure_map(problem: Problem, sizes: Sequence[int]) -> Figure:
    """Where kNN must fail: w·sqrt(N f) along the arm; below 1 it misses most of the strip."""
    middle, width = problem.manifold.local_width(6000)
    root = np.sqrt(problem.density.pdf(middle))
    with style():
        figure = Figure(figsize=(4.3 * len(sizes), 4.6))
        grid = figure.subplots(1, len(sizes), squeeze=False)[0]
        for axes, n in zip(grid, sizes, strict=True):
            dots = axes.scatter(
                middle[:, 0],
                middle[:, 1],
                c=np.clip(width * root * np.sqrt(n), 0.1, 10),
                s=7,
                cmap="RdYlGn",
                norm=LogNorm(0.1, 10),
                lw=0,
            )
            _tip_box(axes, problem)
            _plane(axes, problem, f"w·√(N f) at N = {count(n)}")
        figure.colorbar(
            dots, ax=list(grid), shrink=0.8, label="points across the arm (k=1 finds 68 % at 1)"
        )
    return figure


def why_k1_figure(rows: Sequence[Mapping[str, Any]], recall: Mapping[str, Any]) -> Figure:
    """F1 of every k by N without and with label noise, and recall on a thin strip."""
    noises = sorted({row["noise"] for row in rows})
    with style():
        figure = Figure(figsize=(3.9 * (len(noises) + 1), 4))
        panels = figure.subplots(1, len(noises) + 1)
        for axes, noise in zip(panels, noises, strict=False):
            for k in sorted({row["k"] for row in rows}):
                mine = [r for r in rows if r["k"] == k and r["noise"] == noise]
                axes.semilogx(
                    [r["n"] for r in mine], [r["f1"] for r in mine], "o-", ms=4, label=f"k = {k}"
                )
            axes.set(
                xlabel="training points N",
                ylabel="F1 on clean labels",
                ylim=(0, 1),
                title=f"label noise {noise:.0%}",
            )
            axes.legend(loc="upper left")
        for k, values in recall["recall"].items():
            panels[-1].plot(recall["t"], values, "o-", ms=4, label=f"k = {k}")
        panels[-1].set(
            xlabel="strip width in points, w·√(N f)",
            ylabel="recall on the strip",
            ylim=(0, 1),
            title="a thin strip needs k/2 points in it",
        )
        panels[-1].legend(loc="lower right")
    return figure
