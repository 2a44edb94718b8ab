"""Views: an image cut for an encoder, and its maps put together again.

Maps stay on the encoder's grid, as small as they come, until they are scored: then they are
brought to the original resolution a few prompts at a time, so that memory does not grow with the
number of classes. That is exact: bilinear resizing treats every prompt apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.encoder import InputSpec
from scalecli.localize.evaluation.protocol import Protocol
from scalecli.localize.images import Size, to_tensor
from scalecli.localize.methods.pamr import refine

CHUNK_VALUES = 8_000_000
"""Most values of maps at the original resolution held at once (32 MB)."""


@dataclass(frozen=True)
class Views:
    """An image as an encoder sees it."""

    pixels: Tensor
    """[V, 3, height, width]: V windows, or the whole image alone."""
    corners: tuple[tuple[int, int], ...]
    """Top and left of each view on the canvas."""
    canvas: tuple[int, int]
    """Height and width of the resized image."""
    original: tuple[int, int]
    """Height and width of the image in the file."""
    guide: Tensor | None = None
    """The image at its original size [3, H, W], where maps are refined along its edges."""


def cut(image: Image.Image, protocol: Protocol, spec: InputSpec, patch: tuple[int, int]) -> Views:
    """Resize an RGB image as the protocol says and cut it into views.

    Raises:
        UsageError: the window does not fit the encoder's patches.
    """
    original = (image.height, image.width)
    guide = to_tensor(image, original, spec) if protocol.refine == "pamr" else None
    if protocol.window:
        if protocol.window % patch[0] or protocol.window % patch[1]:
            raise UsageError(
                f"window: {protocol.window} is not a multiple of this model's patch, {patch[0]}; "
                f"try --change window={protocol.window // patch[0] * patch[0]}"
            )
        # The grid belongs to the windows: the image itself keeps its exact aspect.
        canvas = Size(short=protocol.size).fit(image.width, image.height, (1, 1))
        whole = to_tensor(image, canvas, spec)
        corners = windows(canvas, protocol.window, protocol.stride)
        side = protocol.window
        pixels = torch.stack([whole[:, y : y + side, x : x + side] for y, x in corners])
        return Views(pixels, corners, canvas, original, guide)
    if protocol.resize == "squash":
        size = Size(exact=(protocol.size, protocol.size))
    else:
        size = Size(short=protocol.size if protocol.resize == "short" else spec.size)
    canvas = size.fit(image.width, image.height, patch)
    pixels = to_tensor(image, canvas, spec)[None]
    return Views(pixels, ((0, 0),), canvas, original, guide)


def windows(canvas: tuple[int, int], side: int, stride: int) -> tuple[tuple[int, int], ...]:
    """Top-left corners of windows that cover a canvas, row by row.

    The last of a row or column moves back inside, as in mmsegmentation's ``slide_inference``.
    """
    ys, xs = (_starts(length, side, stride) for length in canvas)
    return tuple((y, x) for y in ys for x in xs)


def _starts(length: int, side: int, stride: int) -> list[int]:
    count = max(length - side + stride - 1, 0) // stride + 1
    return [max(min(i * stride + side, length) - side, 0) for i in range(count)]


def assemble(maps: Tensor, views: Views) -> Tensor:
    """Maps [V, P, gh, gw] of the views as maps [P, H, W] at the original resolution.

    Overlapping windows are averaged on the canvas; then the canvas is resized, and refined where
    the protocol says so.
    """
    whole = _resize(_on_canvas(maps, views), views.original)
    if views.guide is not None:
        whole = refine(views.guide[None].to(whole.device), whole)
    return whole[0]


def _on_canvas(maps: Tensor, views: Views) -> Tensor:
    """One map [1, P, any, any] per prompt."""
    if len(views.corners) == 1:
        return maps
    side = (views.pixels.shape[-2], views.pixels.shape[-1])
    total = maps.new_zeros(maps.shape[1], *views.canvas)
    count = maps.new_zeros(views.canvas)
    for (y, x), view in zip(views.corners, _resize(maps, side), strict=True):
        total[:, y : y + side[0], x : x + side[1]] += view
        count[y : y + side[0], x : x + side[1]] += 1
    return (total / count)[None]


def chunks(
    maps: Tensor, views: Views, groups: Sequence[tuple[int, slice]]
) -> Iterator[tuple[list[tuple[int, slice]], slice, Tensor]]:
    """Maps at the original resolution, a few classes at a time.

    Args:
        maps: [V, P, gh, gw].
        views: where they lie.
        groups: (class, its prompts); a class is never split.

    Yields:
        the classes of the chunk, the slice of prompts it spans, and its maps [p, H, W].
    """
    height, width = views.original
    most = max(1, CHUNK_VALUES // (height * width))
    start = 0
    while start < len(groups):
        stop = start + 1
        while stop < len(groups) and groups[stop][1].stop - groups[start][1].start <= most:
            stop += 1
        part = list(groups[start:stop])
        span = slice(part[0][1].start, part[-1][1].stop)
        yield part, span, assemble(maps[:, span], views)
        start = stop


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
