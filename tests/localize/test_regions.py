"""Thresholds, boxes, labels and agreement, by their laws."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from scalecli.localize import absent, regions

RNG = np.random.default_rng(0)


def blob(height: int, width: int, y: float, x: float, size: float) -> regions.Map:
    rows, columns = np.mgrid[0:height, 0:width]
    far = ((rows - y) ** 2 + (columns - x) ** 2) / size**2
    result: regions.Map = np.exp(-far).astype(np.float32)
    return result


def test_upsampling_is_torchs() -> None:
    scores = RNG.random((5, 7)).astype(np.float32)
    theirs = F.interpolate(torch.from_numpy(scores)[None, None], size=(60, 91), mode="bilinear")
    assert np.abs(regions.upsample(scores, (91, 60)) - theirs[0, 0].numpy()).max() < 1e-5


def test_scaling() -> None:
    scores = np.array([[-1.0, 0.0, 3.0]], dtype=np.float32)
    assert regions.scaled(scores, 0.0, 2.0).tolist() == [[0.0, 0.0, 1.0]]
    assert not regions.scaled(scores, 1.0, 1.0).any()


def test_otsu_is_the_best_cut_by_brute_force() -> None:
    values = np.concatenate([RNG.normal(0.3, 0.08, 900), RNG.normal(0.75, 0.05, 300)])
    values = values.clip(0, 1).astype(np.float32)[None]

    def within(cut: float) -> float:
        sides = [values[values < cut], values[values >= cut]]
        return sum(len(side) * float(side.var()) for side in sides if len(side))

    best = min(within(cut) for cut in np.linspace(0.01, 0.99, 400))
    assert within(regions.otsu(values)) <= best * 1.001
    assert 0.4 < regions.otsu(values) < 0.65


def test_otsu_of_two_values_lies_between_them() -> None:
    values = np.array([[0.2] * 9 + [0.8]], dtype=np.float32)
    assert 0.3 < regions.otsu(values) < 0.7
    assert regions.otsu(np.zeros((2, 2), dtype=np.float32)) == 0.5


def test_boxes() -> None:
    values = np.maximum(blob(60, 80, 15, 20, 6), 0.9 * blob(60, 80, 45, 60, 4))
    values[0, 79] = 1.0  # a speck
    found = regions.boxes(values, values > 0.5, smallest=0.002)
    assert len(found) == 2
    first, second = found
    assert (first.left, first.right) == (16, 25)
    assert (first.top, first.bottom) == (11, 20)
    assert first.peak == 1.0
    assert abs(second.peak - 0.9) < 1e-6
    assert first.area == int((values[:30, :40] > 0.5).sum())
    assert regions.boxes(values, values > 2) == []


def test_diagonal_pixels_are_one_component() -> None:
    assert len(regions.boxes(np.eye(5, dtype=np.float32), np.eye(5, dtype=bool))) == 1


def test_peak_is_inside_the_picture() -> None:
    scores = np.zeros((3, 4), dtype=np.float32)
    scores[1, 3] = 1
    assert regions.peak(scores, (400, 300)) == (350, 150)
    assert regions.peak(scores, (1, 1)) == (0, 0)


def test_labels() -> None:
    cat, dog, sky = (np.full((1, 4), v, dtype=np.float32) for v in (0.2, 0.3, 0.1))
    cat[0, 0] = 0.9
    sky[0, 3] = 0.8
    shown = [np.array([[1, 0, 0, 0]], dtype=np.float32), np.array([[0, 1, 0.4, 1]], np.float32)]
    assert regions.labels([cat, dog, sky], shown, threshold=0.5).tolist() == [[1, 2, 0, 0]]
    assert regions.labels([cat, dog, sky], shown, threshold=0.0).tolist() == [[1, 2, 2, 0]]


def test_agreement_has_the_sign_of_opposite_visualization() -> None:
    inside = np.zeros((60, 60), dtype=bool)
    inside[15:35, 15:35] = True
    good = regions.agreement(blob(12, 12, 4.5, 4.5, 3), inside)
    bad = regions.agreement(-blob(12, 12, 4.5, 4.5, 3), inside)
    assert good.hit
    assert not bad.hit
    assert good.inside_minus_outside > 0.4
    assert abs(good.inside_minus_outside + bad.inside_minus_outside) < 1e-6


def test_contrast_ignores_scale_and_offset() -> None:
    bank, scores = torch.randn(2, 200), torch.randn(2, 5)
    plain = absent.contrast(scores, bank)
    assert torch.allclose(absent.contrast(scores * 7 + 3, bank * 7 + 3), plain, atol=1e-4)
    assert torch.allclose(absent.contrast(bank, bank).mean(dim=1), torch.zeros(2), atol=1e-5)
    assert [absent.verdict(z) for z in (-0.1, 0.0, 0.9, 1.0)] == [False, None, None, True]


def test_words_are_distinct() -> None:
    assert len(set(absent.WORDS)) == len(absent.WORDS) >= 200
    assert 20 <= len(absent.WORDS[:: absent.EVERY]) <= 40
