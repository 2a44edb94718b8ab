"""Label masks: the numbers in the file, whatever way it holds them.

A mask is data, not a picture: a palette mask is read as its indices, a 16-bit one as its 16 bits,
and one that a lossy or coloured format may have changed is refused.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scalecli.core.errors import ScalecliError
from scalecli.localize.images import MAX_PIXELS, ImageError, read

IGNORE = -1
"""The label of pixels that are not scored."""
Labels = NDArray[np.int32]

_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")


def read_indices(path: Path) -> Labels:
    """Class numbers [H, W] of a grey (8 or 16 bits), binary or palette mask.

    Raises:
        ScalecliError: missing, damaged, lossy, or coloured without being three equal channels.
    """
    values = _values(path)
    if values.ndim == 3:
        first = values[..., 0]
        if not (values[..., :3] == first[..., None]).all():
            raise ScalecliError(
                f"{path}: a mask in colours; save class numbers as a palette or grey PNG"
            )
        values = first
    if not np.issubdtype(values.dtype, np.integer) and values.dtype != bool:
        raise ScalecliError(f"{path}: a mask of {values.dtype} values; save whole class numbers")
    return values.astype(np.int32)


def read_panoptic(path: Path) -> Labels:
    """Segment ids [H, W] of a COCO panoptic PNG: R + 256 G + 65536 B.

    Raises:
        ScalecliError: missing, damaged, or not in three channels of 8 bits.
    """
    values = _values(path)
    if values.ndim != 3 or values.dtype != np.uint8:
        raise ScalecliError(f"{path}: panoptic masks are RGB, this one has shape {values.shape}")
    wide = values.astype(np.int32)
    ids: Labels = wide[..., 0] + 256 * wide[..., 1] + 65536 * wide[..., 2]
    return ids


def relabel(
    values: Labels, table: NDArray[np.int32], path: Path | str, *, ignore: int | None
) -> Labels:
    """Labels [H, W] of class numbers through ``table[number]``.

    Args:
        values: numbers as the file holds them.
        table: what each number from 0 on means; :data:`IGNORE` leaves pixels out.
        path: names the mask in the error.
        ignore: one more number that is left out, such as 255.

    Raises:
        ScalecliError: a number is outside the table.
    """
    known = (values >= 0) & (values < len(table))
    left_out = np.zeros_like(known) if ignore is None else values == ignore
    bad = ~(known | left_out)
    if bad.any():
        found = int(values[bad][0])
        also = "" if ignore is None else f", {ignore} is left out"
        raise ScalecliError(
            f"{path}: label {found} is outside the class list (0…{len(table) - 1}{also}); "
            "is this the right layout and class list?"
        )
    result: Labels = table[np.where(known, values, 0)]
    result[left_out] = IGNORE
    return result


def _values(path: Path) -> NDArray[np.generic]:
    try:
        image = Image.open(io.BytesIO(read(path)))
        if image.format not in _FORMATS:
            raise ScalecliError(
                f"{path}: a {image.format} mask loses class numbers; save it as PNG"
            )
        if image.width * image.height > MAX_PIXELS:
            raise ScalecliError(f"{path}: {image.width}×{image.height} pixels are too many")
        return np.asarray(image)
    except ImageError as error:
        raise ScalecliError(f"{path}: {error}") from error
    except ScalecliError:
        raise
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        first = str(error).split("\n")[0] or type(error).__name__
        raise ScalecliError(f"{path}: not a readable mask ({first})") from error
