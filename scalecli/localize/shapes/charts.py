"""How training went, and what it saw, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scalecli.core import figures
from scalecli.localize.shapes.accuracy import Accuracy
from scalecli.localize.shapes.captions import describe
from scalecli.localize.shapes.scenes import CLASS_NAMES, Scene, scenes
from scalecli.localize.shapes.training import CURRICULUM, Measure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def training_figure(measures: Sequence[Measure], final: Accuracy) -> Figure:
    """Loss and held-out accuracy against steps, with the stages of the curriculum."""
    from matplotlib.figure import Figure

    steps = [m.step for m in measures]
    curves = {
        "shape": ([m.shape for m in measures], final.shape_chance),
        "held-out pair": ([m.held_out_pair for m in measures], final.pair_chance),
        "binding": ([m.binding for m in measures], 0.5),
    }
    with figures.style():
        figure = Figure(figsize=(9, 3.6))
        left, right = figure.subplots(1, 2)
        left.plot(steps, [m.loss for m in measures], marker="o", markersize=3)
        left.set_title("Contrastive loss", loc="left")
        for name, (values, chance) in curves.items():
            (line,) = right.plot(steps, values, marker="o", markersize=3, label=name)
            right.axhline(chance, color=line.get_color(), linestyle=":", linewidth=1)
        right.set_ylim(-0.02, 1.02)
        right.set_title("Zero-shot accuracy on held-out scenes", loc="left")
        right.legend(loc="upper left", title="(dotted: chance)")
        for axes in (left, right):
            axes.set_xlabel("step")
            axes.set_xlim(left=0)
            for stage in CURRICULUM[:-1]:
                axes.axvline(stage.until * steps[-1], color="0.8", linewidth=1, zorder=0)
    return figure


def scenes_figure(seed: int, count: int = 6) -> Figure:
    """Training scenes above their masks, each with a caption."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    rng = np.random.default_rng(seed)
    shown: list[Scene] = list(scenes("train", seed, count))
    palette = ListedColormap(["#f2f2f2", *figures.CYCLE[: len(CLASS_NAMES)]])
    with figures.style():
        figure = Figure(figsize=(1.75 * count, 4.4))
        for column, scene in enumerate(shown):
            above, below = (
                figure.add_subplot(2, count, 1 + column + row * count) for row in (0, 1)
            )
            above.imshow(scene.image)
            above.set_title(_wrapped(str(describe(scene.plan, rng))), fontsize=6.5, weight="normal")
            below.imshow(scene.classes, cmap=palette, vmin=0, vmax=len(CLASS_NAMES))
            below.set_title(", ".join(scene.present), fontsize=6.5, weight="normal")
            for axes in (above, below):
                axes.set_axis_off()
    return figure


def _wrapped(text: str) -> str:
    import textwrap

    return textwrap.fill(text, 30)
