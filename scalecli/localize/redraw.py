"""Draw a finished run again from its saved scores, with other colours, without a model."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from scalecli.core.errors import UsageError
from scalecli.localize import images, render
from scalecli.localize.config import LocalizeConfig
from scalecli.localize.drawing import Painter, stage_key
from scalecli.localize.localizer import Decoded, Found, Item, Seen
from scalecli.localize.regions import Maps
from scalecli.localize.rows import LocalizeRow


def redraw(
    config: LocalizeConfig, rows: Iterable[LocalizeRow], folder: Path, origin: Mapping[str, str]
) -> Iterator[str]:
    """Every picture of a run made with ``--raw``, drawn again in place.

    Args:
        config: the run's, with other looks.
        rows: the run's, all of a picture together.
        folder: the run's.
        origin: PNG text chunks.

    Yields:
        The name of each picture that was drawn again.

    Raises:
        UsageError: a photograph or its scores are not there any more.
    """
    config = replace(config, raw=False)  # scores need not be written again
    for name, group in itertools.groupby(rows, key=lambda row: row.image):
        seen, prompts, model = _seen(config, name, list(group), folder)
        Painter(config, prompts, model=model, out=folder, origin=origin).write(seen)
        yield name


def _seen(
    config: LocalizeConfig, name: str, rows: list[LocalizeRow], folder: Path
) -> tuple[Seen, list[str], str]:
    try:
        photo = images.decode(images.read(name))
    except images.ImageError as error:
        raise UsageError(f"{name}: {error}; the photograph is needed to draw again") from error
    found: dict[str, Found] = {}
    anchors: Maps | None = None
    prompts: list[str] = []
    model = place = ""
    height = width = 1
    for row in rows:
        if row.method in found:
            continue
        arrays = next((file for file in row.files if file.endswith(".npz")), None)
        if arrays is None:
            raise UsageError(f"{folder}: has no scores to draw; run again with --raw")
        try:
            with np.load(folder / arrays, allow_pickle=False) as saved:
                raw = np.concatenate([saved["scores"], saved["negative_scores"]])
                prompts = [str(prompt) for prompt in saved["prompts"]]
                model, place = str(saved["model"]), os.path.dirname(arrays)
                height, width = (int(side) for side in saved["input_size"])
                anchors = saved["anchors"] if len(saved["anchors"]) else anchors
                stages = tuple(
                    (str(name), saved[stage_key(i)]) for i, name in enumerate(saved["stages"])
                )
        except (OSError, KeyError, ValueError) as error:
            raise UsageError(f"{folder / arrays}: unreadable ({error})") from error
        reach = (row.low, row.high) if config.absolute else None
        found[row.method] = Found(raw, row.seconds, reach, stages)
    first = rows[: len(prompts)]
    picture = Decoded(
        Item(name, place),
        "",
        render.canvas(photo.image, config.max_side),
        photo.size,
        torch.empty(3, height, width),
    )
    scores = [row.score for row in first]
    contrasts = [row.contrast or 0.0 for row in first]
    return Seen(picture, scores, contrasts, found, anchors), prompts, model
