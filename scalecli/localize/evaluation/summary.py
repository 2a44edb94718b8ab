"""From rows on disk to one row per method: figures with intervals, one method at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scalecli.core.stats import Interval
from scalecli.localize.evaluation import published
from scalecli.localize.evaluation.metrics import Figures, Floats, Tally, interval, iou
from scalecli.localize.evaluation.rows import EvalRow, Figure, image_row
from scalecli.localize.evaluation.runner import Evaluator
from scalecli.localize.evaluation.speed import Cost

Entries = Iterable[tuple[str, list[dict[str, Any]]]]
Way = tuple[int, str]
"""Number of a model, label of a method."""
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True)
class Summary:
    """All methods of a run."""

    rows: tuple[EvalRow, ...]
    """Best mIoU first."""
    confusion: list[list[int]]
    """Of the best method, pixels [K, K]."""
    best: Way
    image_miou: Floats
    """Of the best method, per image [N]."""


def summarise(evaluator: Evaluator, entries: Entries, costs: Mapping[Way, Cost]) -> Summary:
    """Figures of every method of a finished run.

    Args:
        evaluator: the run.
        entries: the log, keys that are no part of this run included.
        costs: per method.
    """
    config, classes = evaluator.config, len(evaluator.problem.vocabulary.classes)
    images = len(evaluator.problem.dataset.items)
    place = {
        key: (index, (number, variant.label))
        for index in range(images)
        for key, (number, variant) in evaluator.keys(index).items()
    }
    tallies: dict[Way, Tally] = {}
    for key, logged in entries:
        if key in place:
            index, way = place[key]
            tally = tallies.setdefault(way, Tally(classes, images))
            tally.add(index, image_row(logged[0]))
    figures = {
        way: tally.figures(seed=config.seed, resamples=config.resamples)
        for way, tally in tallies.items()
    }
    rows = {way: _row(evaluator, way, tallies[way], figures, costs[way]) for way in tallies}
    order = sorted(rows, key=lambda way: _first(rows[way].miou), reverse=True)
    best = order[0]
    return Summary(
        tuple(rows[way] for way in order),
        tallies[best].total.tolist(),
        best,
        tallies[best].image_miou(),
    )


def _row(
    evaluator: Evaluator, way: Way, tally: Tally, figures: Mapping[Way, Figures], cost: Cost
) -> EvalRow:
    config, (number, label) = evaluator.config, way
    own = figures[way]
    encoder = evaluator.models[number].encoder
    variant = next(v for v in evaluator.models[number].variants if v.label == label)
    reference = config.baseline_of([name for of, name in figures if of == number])
    baseline = None if reference in (None, label) else figures[number, str(reference)]
    known = None if config.change else published.find(
        config.protocol_name, config.dataset.partition(":")[0], encoder.name, label
    )  # fmt: skip
    if config.limit is not None or config.split is not None:
        known = None  # the papers score the whole validation set
    shares = tally.image_miou()
    return EvalRow(
        model=encoder.name,
        method=label,
        images=len(shares),
        weighted=evaluator.weighted(evaluator.models[number], variant),
        miou=_figure(interval(own.miou)),
        accuracy=_figure(interval(own.accuracy)),
        point_miou=_figure(interval(own.point_miou)),
        pointing=_figure(interval(own.pointing)),
        contrast=_figure(interval(own.contrast)),
        deletion=_figure(interval(own.deletion)),
        insertion=_figure(interval(own.insertion)),
        gain=_figure(interval(own.miou - baseline.miou))
        if baseline is not None
        else (None, None, None),
        class_iou=tuple(map(_known, iou(tally.total).tolist())),
        image_miou=tuple(_known(float(q)) for q in _quantiles(shares)),
        images_per_second=1 / cost.seconds,
        peak_mb=cost.peak_mb,
        published=known.miou if known else None,
        source=known.source if known else "",
    )


def _quantiles(values: Floats) -> Iterator[float]:
    known = values[~np.isnan(values)]
    for share in QUANTILES:
        yield float(np.quantile(known, share)) if len(known) else math.nan


def _figure(found: Interval) -> Figure:
    return tuple(_known(float(value)) for value in found)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _first(figure: Figure) -> float:
    return -1.0 if figure[0] is None else figure[0]


def spread(evaluator: Evaluator, summary: Summary) -> list[dict[str, Any]]:
    """The worst and the best images of the best method: name, number and own mIoU."""
    known = np.flatnonzero(~np.isnan(summary.image_miou))
    order = known[np.argsort(summary.image_miou[known], kind="stable")]
    count = min(evaluator.config.examples, len(order) // 2)
    chosen = [*order[:count], *order[len(order) - count :]]
    items = evaluator.problem.dataset.items
    return [
        {"image": items[i].name, "index": int(i), "miou": float(summary.image_miou[i])}
        for i in chosen
    ]
