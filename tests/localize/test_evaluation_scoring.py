"""Views and scoring: windows cover and average, chunks change nothing, the best map scores best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.encoder import InputSpec
from scalecli.localize.evaluation import views as views_module
from scalecli.localize.evaluation.masks import IGNORE, Labels
from scalecli.localize.evaluation.protocol import Protocol, Vocabulary
from scalecli.localize.evaluation.scoring import draw_points, locate, score, truth
from scalecli.localize.evaluation.views import Views, assemble, cut, windows

SPEC = InputSpec((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 32)
SLIDE = Protocol(resize="short", size=48, window=32, stride=16)


def picture(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def whole(height: int, width: int) -> Views:
    return Views(torch.zeros(1, 3, 8, 8), ((0, 0),), (8, 8), (height, width))


def vocab(classes: int, words: int = 1, *, background: bool = False) -> Vocabulary:
    owner = tuple(c for c in range(classes) for _ in range(words))
    names = tuple(f"c{i}" for i in range(classes))
    return Vocabulary(names, tuple(f"w{i}" for i in range(len(owner))), owner, background)


def run(maps: Tensor, labels: Labels, words: Vocabulary, protocol: Protocol, **given: Any) -> Any:
    height, width = labels.shape
    settings: dict[str, Any] = {
        "logit_scale": 10.0, "points": 10,
        "rng": np.random.default_rng(0), **given,
    }  # fmt: skip
    return score(maps, whole(height, width), labels, words, protocol, **settings)


@settings(max_examples=100, deadline=None)
@given(st.integers(16, 90), st.integers(16, 90), st.integers(1, 16))
def test_windows_cover_every_pixel_and_stay_inside(height: int, width: int, stride: int) -> None:
    seen = np.zeros((height, width), dtype=int)
    for y, x in windows((height, width), 16, stride):
        assert 0 <= y <= height - 16
        assert 0 <= x <= width - 16
        seen[y : y + 16, x : x + 16] += 1
    assert seen.min() >= 1


def test_cut_gives_windows_of_the_resized_image() -> None:
    found = cut(picture(90, 60), SLIDE, SPEC, (8, 8))
    assert found.canvas == (48, 72)
    assert found.original == (60, 90)
    assert found.pixels.shape == (len(found.corners), 3, 32, 32)
    again = cut(picture(90, 60), Protocol(resize="short", size=48), SPEC, (8, 8))
    for (y, x), window in zip(found.corners, found.pixels, strict=True):
        torch.testing.assert_close(window, again.pixels[0, :, y : y + 32, x : x + 32])


def test_overlapping_windows_are_averaged() -> None:
    found = cut(picture(72, 48), SLIDE, SPEC, (8, 8))
    # A constant per window: every pixel must be the mean of the windows over it.
    values = torch.arange(1.0, len(found.corners) + 1)
    maps = values[:, None, None, None].expand(-1, 1, 4, 4)
    total, count = torch.zeros(48, 72), torch.zeros(48, 72)
    for (y, x), value in zip(found.corners, values, strict=True):
        total[y : y + 32, x : x + 32] += value
        count[y : y + 32, x : x + 32] += 1
    torch.testing.assert_close(assemble(maps, found)[0], total / count)


def test_one_view_is_plain_bilinear() -> None:
    maps = torch.randn(1, 3, 4, 5)
    expected = F.interpolate(maps, size=(21, 34), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(assemble(maps, whole(21, 34)), expected)


def test_a_window_that_does_not_fit_the_patch_is_refused() -> None:
    with pytest.raises(UsageError, match="window=28"):
        cut(picture(90, 60), SLIDE, SPEC, (14, 14))


@pytest.mark.parametrize("threshold", [0.0, 0.3])
@pytest.mark.parametrize("normalise", ["none", "minmax"])
def test_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch, threshold: float, normalise: Any
) -> None:
    protocol = Protocol(
        background="class", threshold=threshold, normalise=normalise, least_area=0.05
    )
    words = vocab(6, 3, background=True)
    labels = np.random.default_rng(1).integers(0, 6, (19, 23)).astype(np.int32)
    maps = torch.randn(1, 18, 5, 5, generator=torch.Generator().manual_seed(0))
    first = run(maps, labels, words, protocol)
    monkeypatch.setattr(views_module, "CHUNK_VALUES", 19 * 23 * 4)
    second = run(maps, labels, words, protocol)
    # Rounding differs in the last bit, which decides where two min–max maps tie.
    assert (first.predicted != second.predicted).mean() < 0.01
    for one, other in zip(first.located, second.located, strict=True):
        assert (one.index, one.hit, one.points) == (other.index, other.hit, other.points)
        assert one.contrast == pytest.approx(other.contrast, abs=1e-6)


def test_prediction_is_that_of_the_literature_written_out() -> None:
    # SCLIP's post-processing: softmax over words, the best word of a class, threshold to 0.
    words = vocab(4, 2, background=True)
    maps = torch.randn(1, 8, 6, 6, generator=torch.Generator().manual_seed(3))
    labels = np.zeros((12, 12), dtype=np.int32)
    protocol = Protocol(background="class", threshold=0.5)
    found = run(maps, labels, words, protocol, logit_scale=2.0).predicted
    high = F.interpolate(maps, size=(12, 12), mode="bilinear", align_corners=False)[0]
    shares = (2.0 * high).softmax(dim=0).reshape(4, 2, 12, 12).amax(dim=1)
    expected = shares.argmax(dim=0)
    expected[shares.amax(dim=0) < 0.5] = 0
    np.testing.assert_array_equal(found, expected.numpy())
    assert 0 < (found == 0).mean() < 1


def test_classes_that_win_too_little_lose_all() -> None:
    labels = np.zeros((10, 10), dtype=np.int32)
    maps = torch.zeros(1, 3, 10, 10)
    maps[0, 1] = 1.0
    maps[0, 2, 0, 0] = 2.0  # one pixel of a hundred
    words = vocab(3, background=True)
    strict = Protocol(background="class", least_area=0.1)
    assert set(np.unique(run(maps, labels, words, strict).predicted)) == {1}
    loose = Protocol(background="class")
    assert set(np.unique(run(maps, labels, words, loose).predicted)) == {1, 2}


def test_the_mask_itself_as_map_is_found_perfectly() -> None:
    labels = np.full((16, 16), 2, dtype=np.int32)
    labels[4:9, 5:12] = 1
    labels[0] = IGNORE
    maps = torch.stack([torch.from_numpy(labels == c).float() for c in (1, 2)])[None]
    found = run(maps, labels, vocab(2), Protocol())
    assert (found.predicted[labels != IGNORE] == labels[labels != IGNORE] - 1).all()
    for one in found.located:
        assert one.hit
        assert one.contrast == 1.0
        assert one.points == (10, 0, 0, 10)
    opposite = run(-maps, labels, vocab(2), Protocol())
    for one in opposite.located:
        assert not one.hit
        assert one.contrast == -1.0
        assert one.points == (0, 10, 10, 0)


def test_weighted_maps_let_only_likely_prompts_win() -> None:
    maps = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 1e3, 1e6]
    ).reshape(3, 1, 1)
    labels = np.ones((12, 12), dtype=np.int32)
    raw = run(maps, labels, vocab(3), Protocol()).predicted
    assert set(np.unique(raw)) == {2}  # the largest unit wins everywhere
    weights = torch.tensor([0.5, 0.5, 0.0])
    fair = run(maps, labels, vocab(3), Protocol(), weights=weights).predicted
    assert set(np.unique(fair)) == {0, 1}


def test_ignored_pixels_cannot_be_pointed_at() -> None:
    heat = torch.tensor([[1.0, 0.6], [0.0, 0.2]])
    inside = torch.tensor([[False, True], [False, False]])
    valid = torch.tensor([[False, True], [True, True]])
    points = (np.array([1]), np.array([2, 3]))
    found = locate(heat, inside, valid, 0, points)
    assert found.hit
    assert found.contrast == pytest.approx(0.6 - 0.1)


def test_points_lie_where_they_should_and_never_on_ignored_pixels() -> None:
    labels = np.random.default_rng(0).integers(IGNORE, 3, (20, 20)).astype(np.int32)
    inside, outside = draw_points(labels, 1, 50, np.random.default_rng(0))
    flat = labels.ravel()
    assert (flat[inside] == 1).all()
    assert ((flat[outside] != 1) & (flat[outside] != IGNORE)).all()
    assert len(set(inside.tolist())) == len(inside) == 50
    few = draw_points(np.array([[1, 0]], dtype=np.int32), 1, 50, np.random.default_rng(0))
    assert [len(p) for p in few] == [1, 1]


def test_background_is_outside_of_an_object_even_where_it_is_no_class() -> None:
    labels = np.array([[0, 0, 1, 2]], dtype=np.int32)
    maps = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 1.0]]]])
    first, second = run(maps, labels, vocab(2), Protocol(), points=3).located
    assert (first.index, first.hit, first.points) == (0, False, (0, 2, 1, 1))
    assert first.contrast == pytest.approx(-2 / 3)
    assert (second.index, second.hit, second.contrast) == (1, True, 1.0)


def test_background_is_kept_or_left_out() -> None:
    labels = np.array([[IGNORE, 0, 1, 2]], dtype=np.int32)
    assert truth(labels, vocab(3, background=True)).tolist() == [[IGNORE, 0, 1, 2]]
    assert truth(labels, vocab(2)).tolist() == [[IGNORE, IGNORE, 0, 1]]


def test_refined_maps_keep_their_range() -> None:
    protocol = Protocol(resize="short", size=32, refine="pamr")
    found = cut(picture(40, 30), protocol, SPEC, (8, 8))
    maps = torch.rand(1, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    refined = assemble(maps, found)
    assert refined.shape == (2, 30, 40)
    assert maps.min() - 1e-6 <= refined.min()
    assert refined.max() <= maps.max() + 1e-6
    plain = assemble(maps, Views(found.pixels, found.corners, found.canvas, found.original))
    assert not torch.allclose(refined, plain)
