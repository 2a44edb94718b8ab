"""Metrics: counted as scikit-learn counts, and intervals that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score

from scalecli.localize.evaluation.masks import IGNORE, Labels
from scalecli.localize.evaluation.metrics import (
    Tally,
    confusion,
    dense,
    interval,
    iou,
    mean_iou,
    point_miou,
    sparse,
)
from scalecli.localize.evaluation.rows import ImageRow

K = 5


def pair(seed: int, shape: tuple[int, int] = (13, 17)) -> tuple[Labels, Labels]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(IGNORE, K - 1, size=shape).astype(np.int32)  # the last class never occurs
    predicted = rng.integers(0, K, size=shape).astype(np.int32)
    agree = rng.random(shape) < 0.5
    return labels, np.where(agree & (labels >= 0), labels, predicted).astype(np.int32)


def row(labels: Labels, predicted: Labels, **given: object) -> ImageRow:
    values: dict[str, object] = {
        "classes": (1,), "hits": (True,), "contrasts": (0.5,), "points": (3, 1, 1, 3), **given,
    }  # fmt: skip
    return ImageRow("i", "m", "x", 1.0, sparse(confusion(labels, predicted, K)), **values)  # type: ignore[arg-type]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6))
def test_confusion_and_iou_are_scikit_learns(seed: int) -> None:
    labels, predicted = pair(seed)
    valid = labels != IGNORE
    matrix = confusion(labels, predicted, K)
    truth = confusion_matrix(labels[valid], predicted[valid], labels=range(K))
    assert (matrix == truth).all()
    assert (dense(sparse(matrix), K) == matrix).all()
    present = np.unique(labels[valid])
    expected = jaccard_score(
        labels[valid], predicted[valid], labels=present, average=None, zero_division=0
    )
    assert iou(matrix)[present] == pytest.approx(expected)
    assert np.isnan(iou(matrix)[K - 1])


def test_perfect_prediction_scores_one_and_ignored_pixels_do_not_count() -> None:
    labels, wrong = pair(0)
    perfect = np.where(labels == IGNORE, wrong, labels).astype(np.int32)
    tally = Tally(K, 1)
    tally.add(0, row(labels, perfect))
    figures = tally.figures(seed=0, resamples=100)
    assert figures.miou[0] == figures.accuracy[0] == 1.0
    assert tally.image_miou()[0] == 1.0
    assert tally.total.sum() == (labels != IGNORE).sum()


def test_permuted_classes_permute_the_ious() -> None:
    labels, predicted = pair(3)
    order = np.random.default_rng(0).permutation(K)
    moved = np.where(labels == IGNORE, IGNORE, order[labels])
    shares = iou(confusion(labels, predicted, K))
    again = iou(confusion(moved.astype(np.int32), order[predicted].astype(np.int32), K))
    np.testing.assert_array_equal(again[order], shares)


def test_images_in_any_order_give_the_same_figures() -> None:
    rows = [row(*pair(seed), contrasts=(0.1 * seed,)) for seed in range(6)]
    tallies = Tally(K, 6), Tally(K, 6)
    for i in range(6):
        tallies[0].add(i, rows[i])
        tallies[1].add(5 - i, rows[5 - i])
    first, second = (t.figures(seed=1, resamples=200) for t in tallies)
    for name in ("miou", "accuracy", "point_miou", "pointing", "contrast"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    whole = sum(confusion(*pair(seed), K) for seed in range(6))
    assert (tallies[0].total == whole).all()
    assert first.miou[0] == pytest.approx(np.nanmean(iou(whole)))  # type: ignore[arg-type]


def test_bootstrap_resamples_images_as_a_loop_would() -> None:
    rows = [row(*pair(seed)) for seed in range(5)]
    tally = Tally(K, 5)
    for i, one in enumerate(rows):
        tally.add(i, one)
    found = tally.figures(seed=7, resamples=120).miou
    weights = np.random.default_rng(7).multinomial(5, np.full(5, 0.2), size=100)
    for r in (0, 17, 99):
        matrix = sum(w * dense(one.confusion, K) for w, one in zip(weights[r], rows, strict=True))
        assert found[1 + r] == pytest.approx(np.nanmean(iou(matrix)))


def test_bootstrap_interval_covers_the_truth() -> None:
    # Images whose pixels are right with a share of their own; the population's accuracy is 0.6.
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        tally = Tally(2, 40)
        for i in range(40):
            right = int(rng.binomial(100, rng.beta(6, 4)))
            triples = (0, 0, right, 0, 1, 100 - right)
            tally.add(i, ImageRow("i", "m", "x", 1.0, triples, (0,), (True,), (0.0,), (1, 0, 0, 1)))
        found = interval(tally.figures(seed=0, resamples=400).accuracy)
        covered += found.low <= 0.6 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_points_by_hand() -> None:
    points = np.zeros((3, 4))
    points[0] = 3, 1, 1, 5  # IoU 3/5 inside, 5/7 outside
    points[1] = 0, 2, 4, 2  # IoU 0 inside, 2/8 outside
    assert point_miou(points) == pytest.approx(((3 / 5 + 5 / 7) / 2 + (0 + 2 / 8) / 2) / 2)
    assert np.isnan(point_miou(np.zeros((3, 4))))


def test_nothing_labelled_has_no_figure() -> None:
    assert np.isnan(mean_iou(np.zeros(3), np.zeros(3), np.zeros(3)))
    empty = interval(np.full(5, np.nan))
    assert np.isnan(empty.value)
    assert np.isnan(empty.low)
