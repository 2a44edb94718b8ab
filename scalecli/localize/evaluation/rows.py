"""What a run writes: one row per image and method as it goes, one per method at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from scalecli.core.errors import ScalecliError

Figure = tuple[float | None, ...]
"""Value, low and high end of its 95 % interval; None where there is none."""


@dataclass(frozen=True)
class ImageRow:
    """One image under one method of one model; a line of ``rows.jsonl``."""

    image: str
    model: str
    method: str
    seconds: float
    """Time of the method for this image; the first of a model's methods also pays for what they
    share."""
    confusion: tuple[int, ...]
    """True class, predicted class, pixels, and so on; see :func:`.metrics.sparse`."""
    classes: tuple[int, ...]
    """The present classes, the background left out."""
    hits: tuple[bool, ...]
    """Pointing game, per present class."""
    contrasts: tuple[float | None, ...]
    """Mean of the min–max map inside minus outside, per present class."""
    points: tuple[int, ...]
    """tp, fp, fn, tn per present class, one after the other."""
    deletions: tuple[float, ...] = ()
    """Area under the deletion curve, per present class; empty when not asked for."""
    insertions: tuple[float, ...] = ()


def image_row(data: Mapping[str, Any]) -> ImageRow:
    """A row as ``rows.jsonl`` holds it.

    Raises:
        ScalecliError: it is damaged.
    """
    try:
        values: dict[str, Any] = {f.name: data[f.name] for f in fields(ImageRow)}
        for name, value in values.items():
            if isinstance(value, list):
                values[name] = tuple(value)
        return ImageRow(**values)
    except (KeyError, TypeError) as error:
        raise ScalecliError("rows.jsonl is damaged; run again with --overwrite") from error


@dataclass(frozen=True)
class EvalRow:
    """One method of one model over all images; a row of ``results.json``."""

    model: str
    method: str
    images: int
    weighted: bool
    """Whether mIoU and accuracy rest on the model's decision on the whole image too."""
    miou: Figure
    accuracy: Figure
    """Share of labelled pixels predicted right."""
    point_miou: Figure
    pointing: Figure
    """Share of (image, present class) whose highest score lies in the mask."""
    contrast: Figure
    """Mean of the min–max map inside minus outside, −1…1; negative is opposite visualization."""
    deletion: Figure
    insertion: Figure
    gain: Figure
    """mIoU less that of the model's baseline method on the same images, paired."""
    class_iou: tuple[float | None, ...]
    """Per class; None without a true pixel."""
    image_miou: tuple[float | None, ...]
    """Quantiles over images of the image's own mIoU: least, 5 %, 25 %, 50 %, 75 %, 95 %, most."""
    images_per_second: float
    """Of one worker, decoding and scoring left out."""
    peak_mb: float | None
    """Highest memory while the method ran: the process's, or the GPU's own."""
    published: float | None
    """mIoU that the authors report under the same protocol and backbone."""
    source: str
    """Where it is published."""
