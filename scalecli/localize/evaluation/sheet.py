"""The worst and the best images of a run: picture, truth, and what methods made of it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scalecli.core import figures
from scalecli.localize.evaluation.masks import IGNORE, Labels
from scalecli.localize.evaluation.metrics import confusion, iou
from scalecli.localize.evaluation.runner import Evaluator, compute_maps
from scalecli.localize.evaluation.scoring import truth
from scalecli.localize.evaluation.summary import Summary, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_METHODS = 3
MOST_NAMES = 7
"""Classes named beside a row, the largest first."""
BACKGROUND_COLOUR = (0.30, 0.30, 0.32)
IGNORED_COLOUR = (1.0, 1.0, 1.0)
WIDTH, ROW = 2.05, 1.75
"""Inches of a column and a row."""


def contact_sheet(evaluator: Evaluator, summary: Summary) -> Figure:
    """One row per example of :func:`.summary.spread`, with the best methods of the best model."""
    from matplotlib.figure import Figure

    vocabulary = evaluator.problem.vocabulary
    contender = evaluator.models[summary.best[0]]
    of_model = [r.method for r in summary.rows if r.model == contender.encoder.name]
    # The best two and the baseline: what is gained over it is what a reader looks for.
    wanted = [*of_model[:2], evaluator.config.baseline_of(of_model), *of_model[2:]]
    chosen = [m for m in dict.fromkeys(wanted) if m is not None][:MOST_METHODS]
    variants = [next(v for v in contender.variants if v.label == m) for m in chosen]
    examples = spread(evaluator, summary)
    colours = palette(len(vocabulary.classes), background=vocabulary.background)
    columns = 3 + len(variants)
    with figures.style():
        figure = Figure(figsize=(WIDTH * columns, ROW * max(len(examples), 1) + 0.5))
        if not examples:
            figure.text(0.5, 0.5, "too few images with labelled pixels", ha="center")
            return figure
        grid = figure.subplots(len(examples), columns, squeeze=False)
        for axes in grid.flat:
            axes.axis("off")
        for line, example in zip(grid, examples, strict=True):
            sample = evaluator.problem.dataset.items[example["index"]].read()
            labels = truth(sample.labels, vocabulary)
            views = evaluator.views(contender, sample)
            maps = compute_maps(contender, variants, views, evaluator.config.batch)
            line[0].imshow(sample.image)
            line[0].set_title(_name(example["image"]), fontsize=7, loc="left")
            line[1].imshow(colours[labels])
            predicted = []
            for axes, variant, (heat, _) in zip(line[2:-1], variants, maps, strict=True):
                rng = np.random.default_rng(zlib.crc32(variant.label.encode()))
                found = evaluator.score(
                    contender, variant, heat, views, sample.labels, rng=rng
                ).predicted
                shares = iou(confusion(labels, found, len(vocabulary.classes)))
                # What is not scored is shown pale, because it does not count.
                strength = np.where(labels == IGNORE, 0.25, 1.0)[..., None]
                axes.imshow(1 - strength * (1 - colours[found]))
                axes.set_title(f"{100 * np.nanmean(shares):.0f} %", fontsize=7, loc="left")
                predicted.append(found)
            _legend(line[-1], labels, predicted, vocabulary.classes, colours)
        for axes, title in zip(grid[0], ["image", "truth", *chosen], strict=False):
            under = axes.get_title(loc="left")
            axes.set_title(f"$\\bf{{{_bold(title)}}}$\n{under}", fontsize=7.5, loc="left")
        figure.suptitle(
            f"Worst (top) and best images of {chosen[0]}, {contender.encoder.name}, "
            f"by the image's own mIoU: {evaluator.problem.dataset.name}",
            fontsize=9.5, x=0.01, ha="left", weight="bold",
        )  # fmt: skip
    return figure


def palette(classes: int, *, background: bool) -> NDArray[np.float64]:
    """Colours [K + 1, 3] of classes; the last serves :data:`IGNORE`, which is index −1."""
    from colorsys import hsv_to_rgb

    assert IGNORE == -1
    golden = 0.618034  # hues that stay apart however many there are
    found = [
        hsv_to_rgb(i * golden % 1, (0.75, 0.5, 0.95)[i % 3], (0.95, 0.8, 0.6)[i // 3 % 3])
        for i in range(classes)
    ]
    if background:
        found[0] = BACKGROUND_COLOUR
    return np.array([*found, IGNORED_COLOUR])


def _legend(
    axes: Axes,
    labels: Labels,
    predicted: list[Labels],
    classes: tuple[str, ...],
    colours: NDArray[np.float64],
) -> None:
    from matplotlib.patches import Patch

    counts: NDArray[Any] = np.zeros(len(classes))
    for one in (labels, labels, *predicted):  # true classes count more
        counts += np.bincount(one[labels != IGNORE], minlength=len(classes))
    largest = [c for c in np.argsort(-counts, kind="stable").tolist() if counts[c]][:MOST_NAMES]
    here = set(np.unique(labels).tolist())
    names = [classes[c].split(",")[0] + ("" if c in here else " (absent)") for c in largest]
    axes.legend(
        handles=[Patch(color=colours[c], label=n) for c, n in zip(largest, names, strict=True)],
        loc="center left", fontsize=6.5, handlelength=1, borderaxespad=0,
    )  # fmt: skip


def _name(text: str) -> str:
    return text if len(text) <= 24 else text[:11] + "…" + text[-12:]


def _bold(text: str) -> str:
    return text.replace("-", "{-}").replace("_", r"\_").replace(" ", r"\ ")
