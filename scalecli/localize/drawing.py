"""Answers on their way to disk: overlays, masks, boxes, segments, sheets, arrays, and rows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scalecli.core.figures import save_image
from scalecli.core.files import atomic_path, slug
from scalecli.localize import absent, images, regions, render
from scalecli.localize.localizer import ANCHORED, Decoded, Found, Item, Seen
from scalecli.localize.rows import LocalizeRow

if TYPE_CHECKING:
    from PIL import Image

    from scalecli.localize.config import LocalizeConfig

FAST_PNG = 1
"""PNG compression: half the time of pillow's own choice for files a tenth larger (measured)."""
CELL = 240
"""Long side of a contact sheet's cells, pixels."""
SHEET_COLUMNS, SHEET_PROMPTS = 6, 60
"""Prompts side by side on a contact sheet, and on it in all."""


class Painter:
    """Draws and saves what was asked for.

    Args:
        config: what is asked for.
        prompts: distinct texts.
        model: the encoder's name, written into arrays.
        out: the run's folder.
        origin: PNG text chunks for every picture.
    """

    def __init__(
        self,
        config: LocalizeConfig,
        prompts: Sequence[str],
        *,
        model: str,
        out: Path,
        origin: Mapping[str, str],
    ) -> None:
        self.config = config
        self.prompts = tuple(prompts)
        self.model = model
        self.out = out
        self.origin = dict(origin)
        self.names = file_names(self.prompts)
        self.look = render.Look(config.cmap, config.alpha, config.max_side)
        self.cut = config.cut()
        self.mask: regions.Mask | None = None

    def write(self, seen: Seen) -> tuple[LocalizeRow, ...]:
        """Save every file of a picture, and sum it up in rows: a prompt and a method each.

        Raises:
            ScalecliError: a file cannot be written.
        """
        rows: list[LocalizeRow] = []
        sheet: dict[str, list[Image.Image]] = {}
        for name, found in seen.found.items():
            drawing = _Drawing(self, seen, name, found)
            for index in range(len(self.prompts)):
                rows.append(drawing.row(index))
            if self.config.compare:
                sheet[name] = drawing.cells()
            drawing.rest()
        if self.config.compare:
            self.save(self._sheet(seen, sheet), seen.picture.item, "contact")
        return tuple(rows)

    def save(self, picture: Image.Image, item: Item, name: str) -> str:
        """Save a PNG among an item's files; its path relative to the run's folder."""
        relative = os.path.join(item.folder, f"{name}.png")
        save_image(picture, self.out / relative, self.origin, compress_level=FAST_PNG)
        return relative

    def _sheet(self, seen: Seen, cells: Mapping[str, list[Image.Image]]) -> Image.Image:
        """The picture, then method × prompt."""
        photo = render.thumbnail(seen.picture.canvas, CELL)
        count = min(len(self.prompts), SHEET_PROMPTS)
        bands = []
        for start in range(0, count, SHEET_COLUMNS):
            chunk = range(start, min(start + SHEET_COLUMNS, count))
            first = os.path.basename(seen.picture.item.name) if start == 0 else ""
            columns = [first, *(self._label(i, seen) for i in chunk)]
            rows: list[list[Image.Image | None]] = [
                [photo if start == 0 and r == 0 else None, *(cells[name][i] for i in chunk)]
                for r, name in enumerate(cells)
            ]
            bands.append(render.sheet(rows, columns, list(cells), cell=CELL))
        return render.stacked(bands)

    def _label(self, index: int, seen: Seen) -> str:
        gone = absent.verdict(seen.contrasts[index]) is False
        return self.prompts[index] + (" (probably not present)" if gone else "")

    def mask_for(self, size: tuple[int, int]) -> regions.Mask | None:
        """The mask of ``--mask-file``, read once, for the picture of this size."""
        if self.config.mask_file is not None and self.mask is None:
            self.mask = images.mask(self.config.mask_file, size)
        return self.mask


@dataclass
class _Drawing:
    """One method's answers on one picture, on their way to disk."""

    job: Painter
    seen: Seen
    method: str
    found: Found

    def __post_init__(self) -> None:
        count = len(self.job.prompts)
        self.maps = self.found.raw[:count]
        if len(self.found.raw) > count:
            self.maps = self.maps - self.found.raw[count:].max(axis=0)

    def bounds(self, index: int) -> tuple[float, float]:
        """The colour range of a prompt's map."""
        if self.found.reach is None:
            return float(self.maps[index].min()), float(self.maps[index].max())
        middle, reach = self.found.reach
        return middle, max(reach, float(self.maps.max()))

    def unit(self, index: int) -> regions.Map:
        """A prompt's map at the canvas's size, 0…1 of its range."""
        whole = regions.upsample(self.maps[index], self.seen.picture.canvas.size)
        return regions.scaled(whole, *self.bounds(index))

    def row(self, index: int) -> LocalizeRow:
        """Measure one prompt's map and save its pictures."""
        job, picture = self.job, self.seen.picture
        unit = self.unit(index)
        low, high = self.bounds(index)
        threshold = regions.otsu(unit) if job.cut is None else job.cut
        # A flat map is no object, whatever the threshold.
        region = (unit >= threshold) & (unit > 0)
        boxes = regions.boxes(unit, region) if job.config.boxes else []
        agreement = None
        if (mask := job.mask_for(picture.size)) is not None:
            agreement = regions.agreement(self.maps[index], mask)
        x, y = regions.peak(self.maps[index], picture.size)
        contrast = self.seen.contrasts[index]
        grid_h, grid_w = self.maps.shape[1:]
        row = LocalizeRow(
            image=picture.item.name,
            prompt=job.prompts[index],
            method=self.method,
            score=self.seen.scores[index],
            contrast=contrast,
            present=absent.verdict(contrast),
            peak_x=x,
            peak_y=y,
            peak=float(self.maps[index].max()),
            low=low,
            high=high,
            area=float(region.mean()),
            threshold=threshold,
            seconds=self.found.seconds,
            width=picture.size[0],
            height=picture.size[1],
            grid_h=grid_h,
            grid_w=grid_w,
            boxes=tuple(_to_original(box, picture) for box in boxes),
            inside_minus_outside=agreement.inside_minus_outside if agreement else None,
            hit=agreement.hit if agreement else None,
        )
        return replace(row, files=tuple(self._pictures(index, row, unit, region, boxes)))

    def _pictures(
        self,
        index: int,
        row: LocalizeRow,
        unit: regions.Map,
        region: regions.Mask,
        boxes: Sequence[regions.Box],
    ) -> Iterator[str]:
        job, item = self.job, self.seen.picture.item
        name = f"{job.names[index]}.{self.method}"
        config = job.config
        if config.overlay:
            caption = render.Caption(row.prompt, _below(row), row.low, row.high)
            picture = render.overlay(
                self.seen.picture.canvas, unit, job.look, caption,
                boxes=boxes, anchor=self._anchor(index),
            )  # fmt: skip
            yield job.save(picture, item, name)
        if config.heatmap:
            yield job.save(render.heat(unit, config.cmap), item, f"{name}.heatmap")
        if config.mask:
            yield job.save(render.mask_picture(region), item, f"{name}.mask")
        if config.raw:
            yield os.path.join(item.folder, f"{self.method}.npz")
        if config.segment:
            yield os.path.join(item.folder, f"{self.method}.segment.png")
        if self.found.stages:
            yield os.path.join(item.folder, f"{self.method}.layers.png")

    def _anchor(self, index: int) -> tuple[float, float, float, float] | None:
        if not len(anchors := self._anchor_cosines()):
            return None
        cosines = anchors[index]
        gh, gw = cosines.shape
        row, column = np.unravel_index(int(cosines.argmax()), cosines.shape)
        return float(column / gw), float(row / gh), float((column + 1) / gw), float((row + 1) / gh)

    def cells(self) -> list[Image.Image]:
        """Small overlays for the contact sheet, a prompt each."""
        photo = render.thumbnail(self.seen.picture.canvas, CELL)
        found = []
        for index in range(min(len(self.maps), SHEET_PROMPTS)):
            whole = regions.upsample(self.maps[index], photo.size)
            unit = regions.scaled(whole, *self.bounds(index))
            found.append(render.blend(photo, unit, self.job.look))
        return found

    def rest(self) -> None:
        """Files for all prompts together."""
        config, item = self.job.config, self.seen.picture.item
        if config.raw:
            self._raw()
        if config.segment:
            self.job.save(self._segment(), item, f"{self.method}.segment")
        if self.found.stages:
            self.job.save(self._filmstrip(), item, f"{self.method}.layers")

    def _raw(self) -> None:
        job, picture = self.job, self.seen.picture
        count = len(job.prompts)
        stages: dict[str, Any] = {
            stage_key(i): maps for i, (_, maps) in enumerate(self.found.stages)
        }
        path = job.out / picture.item.folder / f"{self.method}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                scores=self.found.raw[:count].astype(np.float32),
                negative_scores=self.found.raw[count:].astype(np.float32),
                prompts=np.array(job.prompts),
                method=np.array(self.method),
                model=np.array(job.model),
                image=np.array(picture.item.name),
                input_size=np.array(picture.tensor.shape[1:]),
                anchors=self._anchor_cosines(),
                stages=np.array([name for name, _ in self.found.stages], dtype=np.str_),
                **stages,
            )

    def _anchor_cosines(self) -> regions.Maps:
        """Patch–text cosines whose highest patch is the anchor; empty for other methods."""
        if self.seen.anchors is None or not self.method.startswith(ANCHORED):
            return np.zeros((0, 0, 0), dtype=np.float32)
        return self.seen.anchors

    def _segment(self) -> Image.Image:
        job, canvas = self.job, self.seen.picture.canvas
        labels = regions.labels(
            (regions.upsample(scores, canvas.size) for scores in self.found.raw),
            (self.unit(index) for index in range(len(self.maps))),
            threshold=job.config.background,
        )
        note = f"{self.method} · background below {job.config.background:g}"
        return render.segment(canvas, labels, job.prompts, note)

    def _filmstrip(self) -> Image.Image:
        """A row per prompt, a column per block or stage; each map from its minimum to maximum."""
        job, stages = self.job, self.found.stages
        cell = CELL if len(stages) <= 8 else 160
        photo = render.thumbnail(self.seen.picture.canvas, cell)
        rows: list[list[Image.Image | None]] = []
        for index in range(min(len(self.maps), SHEET_PROMPTS)):
            row: list[Image.Image | None] = [photo if index == 0 else None]
            for _, maps in stages:
                scores = maps[index]
                whole = regions.upsample(scores, photo.size)
                unit = regions.scaled(whole, float(scores.min()), float(scores.max()))
                row.append(render.blend(photo, unit, job.look))
            rows.append(row)
        columns = [self.method, *(stage for stage, _ in stages)]
        return render.sheet(rows, columns, job.prompts[: len(rows)], cell=cell)


def stage_key(index: int) -> str:
    """The name in an ``.npz`` of the maps of a block or stage: grids differ from stage to stage."""
    return f"stage_{index}"


def file_names(prompts: Sequence[str]) -> tuple[str, ...]:
    """A safe file name per prompt, no two alike, also where case does not count.

    >>> file_names(["a dog", "a/dog", "🐕"])
    ('a-dog', 'a-dog-2', 'x')
    """
    taken: set[str] = set()
    names = []
    for prompt in prompts:
        stem = name = slug(prompt)
        number = 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(name)
    return tuple(names)


def _to_original(box: regions.Box, picture: Decoded) -> tuple[int, int, int, int]:
    sx = picture.size[0] / picture.canvas.width
    sy = picture.size[1] / picture.canvas.height
    return round(box.left * sx), round(box.top * sy), round(box.right * sx), round(box.bottom * sy)


def _below(row: LocalizeRow) -> str:
    parts = [row.method, f"score {row.score:.3g}"]
    if row.contrast is not None:
        parts.append(f"contrast {row.contrast:+.1f}")
    if row.present is False:
        parts.append("probably not present")
    return " · ".join(parts)
