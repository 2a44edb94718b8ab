"""Maps drawn over photographs: overlays with a colour bar, masks, boxes, segments, sheets.

Pillow and numpy only: a figure library costs more per picture than the encoder does. All
functions are pure; nothing is saved here.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from scalecli.core.figures import CYCLE
from scalecli.localize.lettering import font, width_of, write
from scalecli.localize.regions import Box, Labels, Map, Mask

INK, GREY, PAPER = (30, 30, 30), (110, 110, 110), (255, 255, 255)
MARK = (255, 255, 255)
SMALLEST_SIDE = 320
"""Pictures smaller than this are enlarged, so that labels can be read."""
THINNEST = 24
"""A drawn picture is at most so many times longer than thick."""
STEPS = 256


@dataclass(frozen=True)
class Look:
    """How overlays look."""

    cmap: str = "inferno"
    """A colour map of matplotlib."""
    alpha: float = 0.6
    """Opacity of the map, 0…1."""
    max_side: int = 1024
    """Long side of the picture in the overlay, pixels."""


@dataclass(frozen=True)
class Caption:
    """What is written beside a map."""

    title: str
    """The prompt."""
    below: str = ""
    """Method, score, verdict."""
    low: float = 0.0
    """Score at the bottom of the colour bar."""
    high: float = 1.0
    """Score at its top."""


def overlay(
    photo: Image.Image,
    unit: Map,
    look: Look,
    caption: Caption,
    *,
    boxes: Sequence[Box] = (),
    anchor: tuple[float, float, float, float] | None = None,
) -> Image.Image:
    """A map over its photograph, with the prompt above and a colour bar at the right.

    Args:
        photo: RGB, as :func:`canvas` made it.
        unit: the map at the photo's size, 0…1.
        look: colours and opacity.
        caption: what is written.
        boxes: drawn, in the photo's pixels.
        anchor: a patch to mark: left, top, right, bottom as shares of the picture.
    """
    picture = blend(photo, unit, look)
    draw = ImageDraw.Draw(picture)
    line = max(2, round(max(photo.size) / 300))
    for number, box in enumerate(boxes, start=1):
        _rectangle(draw, (box.left, box.top, box.right - 1, box.bottom - 1), line)
        tag = font(max(12, line * 6))
        draw.text(
            (box.left + 2 * line, box.top + line), str(number), fill=MARK, font=tag,
            stroke_width=line // 2 or 1, stroke_fill=INK,
        )  # fmt: skip
    if anchor is not None:
        left, top, right, bottom = anchor
        w, h = photo.size
        _rectangle(draw, (left * w, top * h, right * w - 1, bottom * h - 1), line)
    return _frame(picture, caption, look)


def blend(photo: Image.Image, unit: Map, look: Look) -> Image.Image:
    """The photograph, half drained of its colours, under the map."""
    grey = Image.blend(photo, photo.convert("L").convert("RGB"), 0.5)
    return Image.blend(grey, heat(unit, look.cmap), look.alpha)


def heat(unit: Map, cmap: str) -> Image.Image:
    """The bare map in colours."""
    picture = Image.fromarray((unit * (STEPS - 1) + 0.5).astype(np.uint8))
    picture.putpalette(palette(cmap))
    return picture.convert("RGB")


@functools.cache
def palette(cmap: str) -> bytes:
    """256 RGB triples of a colour map of matplotlib."""
    import matplotlib

    colours: bytes = matplotlib.colormaps[cmap](np.linspace(0, 1, STEPS), bytes=True)[
        :, :3
    ].tobytes()
    return colours


def mask_picture(mask: Mask) -> Image.Image:
    """A binary mask: white inside, black outside."""
    return Image.fromarray(mask.astype(np.uint8) * 255)


def segment(photo: Image.Image, labels: Labels, names: Sequence[str], note: str) -> Image.Image:
    """All prompts at once: each region in its colour, with a legend at the right.

    Args:
        photo: RGB.
        labels: at the photo's size; 0 is background, i + 1 is ``names[i]``.
        names: prompts.
        note: written above: method and threshold.
    """
    colours = np.array([(0, 0, 0), *(colour(i) for i in range(len(names)))], dtype=np.uint8)
    base = np.asarray(photo, dtype=np.uint16)
    tint = colours[labels].astype(np.uint16)
    inside = (labels > 0)[..., None]
    edge = _edges(labels)[..., None]
    mixed = np.where(inside, (base * 2 + tint * 3) // 5, base * 3 // 5)
    picture = Image.fromarray(np.where(edge, 255, mixed).astype(np.uint8))
    size = _text_size(photo)
    shares = np.bincount(labels.ravel(), minlength=len(names) + 1)[1:] / labels.size
    entries = [
        (colour(i), f"{name}  {share:.0%}")
        for i, (name, share) in enumerate(zip(names, shares, strict=True))
        if share > 0
    ] or [(GREY, "nothing above the threshold")]
    room = max(1, int(photo.height / (size * 1.7)))
    if len(entries) > room:
        rest = len(entries) - room + 1
        entries = [*entries[: room - 1], (GREY, f"… and {rest} more")]
    width = int(min(photo.width * 0.6, max(width_of(text, size) for _, text in entries))) + 3 * size
    top = int(size * 1.9)
    page = Image.new("RGB", (photo.width + width, photo.height + top), PAPER)
    page.paste(picture, (0, top))
    draw = ImageDraw.Draw(page)
    write(draw, (size // 2, size // 2), note, size=size, fill=GREY, room=photo.width - size)
    for row, (shade, text) in enumerate(entries):
        y = top + int(row * size * 1.7)
        x = photo.width + size // 2
        draw.rectangle((x, y, x + size, y + size), fill=shade)
        write(draw, (x + int(size * 1.5), y), text, size=size, fill=INK, room=width - 2 * size)
    return page


def sheet(
    rows: Sequence[Sequence[Image.Image | None]],
    columns: Sequence[str],
    labels: Sequence[str],
    *,
    cell: int = 240,
) -> Image.Image:
    """A contact sheet: cells of one width in labelled rows and columns.

    Args:
        rows: pictures, None for an empty cell.
        columns: a label per column.
        labels: a label per row; several rows may share one picture's name.
        cell: long side of a cell, pixels.
    """
    size, gap = max(11, cell // 16), max(4, cell // 40)
    left = int(max((width_of(label, size) for label in labels if label), default=0))
    left = min(left, cell) + (2 * gap if left else 0)
    top = int(size * 1.9)
    widths = [
        max((row[c].width for row in rows if row[c] is not None), default=cell)  # type: ignore[union-attr]
        for c in range(len(columns))
    ]
    heights = [max((p.height for p in row if p is not None), default=cell) for row in rows]
    page = Image.new(
        "RGB",
        (left + sum(widths) + gap * (len(widths) + 1), top + sum(heights) + gap * len(heights)),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    x = left + gap
    for c, label in enumerate(columns):
        write(draw, (x, size // 2), label, size=size, fill=INK, room=widths[c])
        y = top
        for r, row in enumerate(rows):
            picture = row[c]
            if picture is not None:
                page.paste(picture, (x, y))
            y += heights[r] + gap
        x += widths[c] + gap
    y = top
    for r, label in enumerate(labels):
        write(
            draw,
            (gap, y + heights[r] // 2 - size // 2),
            label,
            size=size,
            fill=INK,
            room=left - gap,
        )
        y += heights[r] + gap
    return page


def stacked(pages: Sequence[Image.Image]) -> Image.Image:
    """Pages one below the other."""
    if len(pages) == 1:
        return pages[0]
    whole = Image.new("RGB", (max(p.width for p in pages), sum(p.height for p in pages)), PAPER)
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return whole


def thumbnail(image: Image.Image, cell: int) -> Image.Image:
    """A picture with its long side exactly ``cell`` pixels."""
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)


def canvas(image: Image.Image, max_side: int) -> Image.Image:
    """A photograph at the size it is drawn: not too large to save, not too small to see.

    A strip is drawn thicker than it is.
    """
    side = min(max(*image.size, SMALLEST_SIDE), max_side)
    sized = image if max(image.size) == side else thumbnail(image, side)
    width, height = (max(length, side // THINNEST) for length in sized.size)
    return sized if sized.size == (width, height) else image.resize((width, height))


def colour(index: int) -> tuple[int, int, int]:
    """Colour of the index-th prompt; those after the palette's end are spread over the hues."""
    if index < len(CYCLE):
        code = CYCLE[index]
        return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
    import colorsys

    # The golden ratio's conjugate never comes near a hue it gave before.
    hue = (0.11 + 0.618034 * index) % 1
    level = (0.55, 0.75, 0.95)[index % 3]
    r, g, b = colorsys.hsv_to_rgb(hue, 0.65, level)
    return int(r * 255), int(g * 255), int(b * 255)


def _frame(picture: Image.Image, caption: Caption, look: Look) -> Image.Image:
    """The title above and the colour bar at the right."""
    size = _text_size(picture)
    ticks = [f"{caption.low + f * (caption.high - caption.low):.3g}" for f in (1.0, 0.5, 0.0)]
    bar = max(10, int(size * 0.9))
    right = int(size * 1.2 + bar + max(width_of(t, size) for t in ticks))
    top = int(size * (3.4 if caption.below else 2.0))
    tall = max(picture.height, int(size * 4.5))
    page = Image.new("RGB", (picture.width + right, tall + top + size // 2), PAPER)
    page.paste(picture, (0, top))
    draw = ImageDraw.Draw(page)
    large, room = int(size * 1.15), page.width - size
    write(draw, (size // 3, size // 3), caption.title, size=large, fill=INK, room=room)
    if caption.below:
        write(draw, (size // 3, int(size * 1.9)), caption.below, size=size, fill=GREY, room=room)
    x = picture.width + size // 2
    ramp = np.repeat(np.linspace(1, 0, tall, dtype=np.float32)[:, None], bar, axis=1)
    page.paste(heat(ramp, look.cmap), (x, top))
    for text, share in zip(ticks, (0.0, 0.5, 1.0), strict=True):
        y = top + int(share * (tall - size * 1.2))
        draw.text((x + bar + size // 4, y), text, fill=INK, font=font(size))
    return page


def _text_size(picture: Image.Image) -> int:
    return max(12, round(max(picture.size) / 45))


def _rectangle(
    draw: ImageDraw.ImageDraw, corners: tuple[float, float, float, float], line: int
) -> None:
    """White between two dark lines: seen on any colour."""
    left, top, right, bottom = corners
    right, bottom = max(right, left), max(bottom, top)
    draw.rectangle((left, top, right, bottom), outline=INK, width=line + 2)
    inner = (left + 1, top + 1, max(right - 1, left + 1), max(bottom - 1, top + 1))
    draw.rectangle(inner, outline=MARK, width=line)


def _edges(labels: Labels) -> Mask:
    """Pixels at which the label changes to the right or downwards."""
    edge = np.zeros(labels.shape, dtype=np.bool_)
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    edge[:-1] |= labels[:-1] != labels[1:]
    return edge
