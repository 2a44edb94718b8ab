"""Drawings: right size, right colours, readable whatever the picture."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from PIL import Image

from scalecli.localize import render
from scalecli.localize.config import CMAPS
from scalecli.localize.regions import Box, Labels, Map


def photo(width: int = 400, height: int = 300) -> Image.Image:
    return Image.new("RGB", (width, height), (90, 120, 150))


def ramp(picture: Image.Image) -> Map:
    row = np.linspace(0, 1, picture.width, dtype=np.float32)
    return np.ascontiguousarray(np.broadcast_to(row, (picture.height, picture.width)))


@pytest.mark.parametrize("cmap", CMAPS)
def test_heat_is_matplotlibs(cmap: str) -> None:
    unit = np.linspace(0, 1, 256, dtype=np.float32)[None]
    theirs = matplotlib.colormaps[cmap](np.arange(256), bytes=True)[:, :3]
    assert (np.asarray(render.heat(unit, cmap))[0] == theirs).all()


@pytest.mark.parametrize("cmap", ["viridis", "inferno", "magma", "plasma", "cividis"])
def test_uniform_maps_grow_lighter(cmap: str) -> None:
    unit = np.linspace(0, 1, 64, dtype=np.float32)[None]
    light = np.asarray(render.heat(unit, cmap).convert("L"), dtype=int)[0]
    assert (np.diff(light) >= -2).all()
    assert light[-1] - light[0] > 100


def test_alpha_zero_is_the_photograph_and_one_the_heat() -> None:
    unit = ramp(photo())
    bare = render.blend(photo(), unit, render.Look(alpha=1.0))
    assert (np.asarray(bare) == np.asarray(render.heat(unit, "inferno"))).all()
    none = np.asarray(render.blend(photo(), unit, render.Look(alpha=0.0)))
    assert (none == none[0, 0]).all()


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (320, 240), (5000, 4000)])
def test_any_picture_gives_a_readable_overlay(size: tuple[int, int]) -> None:
    canvas = render.canvas(photo(*size), 800)
    assert render.SMALLEST_SIDE <= max(canvas.size) <= 800
    caption = render.Caption("a very long prompt " * 300, "gem · 🐕 · Храм", -1e-7, 12345.678)
    box = Box(0, 0, 1, 1, 1, 1.0)
    drawn = render.overlay(
        canvas, ramp(canvas), render.Look(), caption, boxes=[box], anchor=(0.0, 0.0, 0.1, 0.1)
    )
    assert canvas.width < drawn.width < canvas.width + 200
    assert canvas.height < drawn.height < canvas.height + 200


def test_boxes_and_anchor_are_drawn() -> None:
    def drawn(**marks: object) -> Image.Image:
        return render.overlay(
            photo(),
            ramp(photo()),
            render.Look(),
            render.Caption("x"),
            **marks,  # type: ignore[arg-type]
        )

    plain = np.asarray(drawn())
    boxed = np.asarray(drawn(boxes=[Box(50, 60, 150, 160, 1, 1.0)]))
    anchored = np.asarray(drawn(anchor=(0.5, 0.5, 0.6, 0.6)))
    top = plain.shape[0] - 300 - render._text_size(photo()) // 2
    changed = (plain != boxed).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert (rows.min() - top, rows.max() - top) == (60, 159)
    assert (columns.min(), columns.max()) == (50, 149)
    rows, columns = np.nonzero((plain != anchored).any(axis=2))
    assert (columns.min(), columns.max()) == (200, 239)


def test_segment_colours_and_legend() -> None:
    labels: Labels = np.zeros((300, 400), dtype=np.uint16)
    labels[:, :100] = 1
    labels[:, 300:] = 12
    names = [f"prompt {i}" for i in range(12)]
    page = render.segment(photo(), labels, names, "gem")
    assert page.width > 400
    assert page.height > 300
    left, middle, right = (page.getpixel((x, 200)) for x in (50, 200, 350))
    assert len({left, middle, right}) == 3
    assert len({render.colour(i) for i in range(200)}) == 200


def test_legends_longer_than_the_picture_end_with_a_count() -> None:
    labels: Labels = (np.arange(300)[:, None] % 101).repeat(400, axis=1).astype(np.uint16)
    page = render.segment(photo(), labels, [f"prompt {i}" for i in range(100)], "gem")
    assert page.height < 400


def test_sheet_has_every_cell() -> None:
    cell = render.thumbnail(photo(), 200)
    assert cell.size == (200, 150)
    page = render.sheet([[cell, None], [cell, cell]], ["image", "dog"], ["gem", "cam"], cell=200)
    array = np.asarray(page)
    blue = (array == (90, 120, 150)).all(axis=2)
    assert blue.sum() == 3 * 200 * 150
    stacked = render.stacked([page, page])
    assert stacked.size == (page.width, 2 * page.height)
