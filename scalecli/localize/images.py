"""Pictures from disk, whatever they are: checked before decoding, upright, RGB, fitted to a grid.

Nothing of a picture is trusted: its size is read from the header and limited before a pixel is
decoded, only formats that need no other program are tried, and whatever a decoder trips over
becomes one line.
"""

from __future__ import annotations

import io
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from scalecli.core.errors import ScalecliError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from scalecli.localize.encoder import InputSpec
    from scalecli.localize.regions import Mask

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "JPEG2000", "AVIF")
"""What is tried. Not EPS (it runs Ghostscript), nor formats that nobody keeps photographs in."""
_ENDINGS = "jpg jpeg jpe jfif png webp gif tif tiff bmp ppm pgm pbm pnm jp2 avif"
SUFFIXES = frozenset(f".{ending}" for ending in _ENDINGS.split())
"""File names that promise a picture: what a folder is searched for."""
MAX_PIXELS = 200_000_000
"""Largest picture decoded; beyond any camera of today's telephones."""
MAX_BYTES = 1 << 30
"""Largest file read."""
MAX_ASPECT = 6.0
"""A longer side than this many shorter ones is squeezed: a strip would explode the grid."""
MAX_SIDE = 4096
"""Largest ``--size``."""

# The limit is MAX_PIXELS, checked here on the header; pillow's own would print a warning first.
Image.MAX_IMAGE_PIXELS = None

_UPRIGHT: Mapping[int, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each EXIF orientation."""
_ORIENTATION = 0x0112
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class ImageError(ScalecliError):
    """This file cannot be used as a picture; others may."""


@dataclass(frozen=True)
class Photo:
    """A decoded picture: RGB, upright."""

    image: Image.Image
    """Its pixels, possibly fewer than the file holds (see :func:`decode`)."""
    size: tuple[int, int]
    """Width and height of the upright picture in the file."""


@dataclass(frozen=True)
class Enough:
    """Pixels of the long and of the short side below which decoding must not go."""

    long: int
    short: int


@dataclass(frozen=True)
class Size:
    """What ``--size`` asks for.

    ``short`` keeps the aspect and gives the short side; ``exact`` is (height, width) and squeezes
    the picture into it. Both in pixels, rounded to the encoder's grid by :meth:`fit`.
    """

    short: int | None = None
    exact: tuple[int, int] | None = None

    def fit(self, width: int, height: int, patch: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the input for a picture, multiples of the patch.

        >>> Size(short=224).fit(640, 427, (16, 16))
        (224, 336)
        """
        ph, pw = patch
        if self.exact is not None:
            return _round(self.exact[0], ph), _round(self.exact[1], pw)
        assert self.short is not None
        aspect = min(max(width / height, 1 / MAX_ASPECT), MAX_ASPECT)
        if aspect >= 1:
            return _round(self.short, ph), _round(_round(self.short, ph) * aspect, pw)
        return _round(_round(self.short, pw) / aspect, ph), _round(self.short, pw)


def parse_size(text: str) -> Size:
    """``336`` (short side) or ``336x448`` (height × width).

    Raises:
        ValueError: neither, or out of range; the message names ``--size``.
    """
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:[xX×]\s*(\d{1,9})\s*)?", text)
    if match is None:
        raise ValueError(f"--size {text}: write N for the short side or HxW, in pixels")
    sides = [int(side) for side in match.groups() if side is not None]
    if not all(1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(f"--size {text}: sides are from 1 to {MAX_SIDE} pixels")
    if len(sides) == 1:
        return Size(short=sides[0])
    return Size(exact=(sides[0], sides[1]))


def read(path: str | os.PathLike[str]) -> bytes:
    """A file's bytes, if it is a file, not empty and not enormous.

    Raises:
        ImageError: it is not; one line that does not name the file.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            raise ImageError("not a file")
        if found.st_size > MAX_BYTES:
            raise ImageError(f"{found.st_size:,} bytes; the most is {MAX_BYTES:,}")
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror or error}") from error
    if not data:
        raise ImageError("empty (0 bytes)")
    return data


def decode(data: bytes, *, enough: Enough | None = None) -> Photo:
    """Decode a picture: the first frame, upright, RGB, transparency on white.

    Args:
        data: the file's content.
        enough: a JPEG at least twice as large as this is decoded at a half, a quarter or an
            eighth, which is several times faster; never below it.

    Raises:
        ImageError: not a picture, damaged, or too large; one line that does not name the file.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"{width}×{height} pixels; the most is {MAX_PIXELS:,} in all")
        if not width or not height:
            raise ImageError("no pixels")
        turn = _UPRIGHT.get(_orientation(image))
        if enough is not None:
            scale = max(enough.long / max(width, height), enough.short / min(width, height))
            if scale < 1:
                image.draft("RGB", (math.ceil(width * scale), math.ceil(height * scale)))
        image.load()
        pixels = _rgb(image)
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError("not a picture in a known format (JPEG, PNG, WebP, GIF, …)") from error
    except MemoryError as error:
        raise ImageError("too large for the memory of this machine") from error
    except Exception as error:  # decoders raise whatever a damaged file leads them to
        raise ImageError(f"damaged or cut short ({_first_line(error)})") from error
    if turn is not None:
        pixels = pixels.transpose(turn)
        if pixels.width != pixels.height:
            swapped = turn not in (
                Image.Transpose.FLIP_LEFT_RIGHT,
                Image.Transpose.ROTATE_180,
                Image.Transpose.FLIP_TOP_BOTTOM,
            )
            width, height = (height, width) if swapped else (width, height)
    return Photo(pixels, (width, height))


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The picture with its long side at most ``side`` pixels."""
    if max(image.size) <= side:
        return image
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def to_tensor(image: Image.Image, size: tuple[int, int], spec: InputSpec) -> Tensor:
    """A picture as an encoder wants it.

    Args:
        image: RGB.
        size: height and width of the input.
        spec: interpolation (antialiased), mean and standard deviation of the checkpoint.

    Returns:
        [3, height, width], float32.
    """
    import torch

    resampling = _RESAMPLING.get(spec.interpolation, Image.Resampling.BICUBIC)
    resized = image.resize((size[1], size[0]), resampling)
    pixels = np.asarray(resized, dtype=np.float32) / 255
    mean, std = (np.array(three, dtype=np.float32) for three in (spec.mean, spec.std))
    normed = (pixels - mean) / std
    return torch.from_numpy(np.ascontiguousarray(normed.transpose(2, 0, 1)))


def mask(path: Path, size: tuple[int, int]) -> Mask:
    """A binary mask [height, width] from a picture: what is not black is inside.

    Args:
        path: any picture; palette masks are read as their indices, 0 outside.
        size: width and height that it must have.

    Raises:
        UsageError: unreadable, of another size, or with nothing inside or nothing outside.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(read(path)), formats=FORMATS)
        if image.size != size:
            raise UsageError(
                f"--mask-file {path}: {image.width}×{image.height}, but the picture is "
                f"{size[0]}×{size[1]}"
            )
        if image.mode in ("RGBA", "LA"):
            image = image.convert("RGB" if image.mode == "RGBA" else "L")
        values = np.asarray(image)
    except UsageError:
        raise
    except Exception as error:  # as in decode
        raise UsageError(f"--mask-file {path}: {_first_line(error)}") from error
    inside: Any = values.any(axis=2) if values.ndim == 3 else values != 0
    if inside.all() or not inside.any():
        raise UsageError(
            f"--mask-file {path}: {'everything' if inside.all() else 'nothing'} is inside; "
            "paint the object in any colour on black"
        )
    result: Mask = inside
    return result


def expand(word: str) -> list[str]:
    """The pictures a word names: a file, those in a folder (and below), or a glob; sorted.

    Raises:
        UsageError: there are none.
    """
    import glob

    if os.path.isdir(word):
        found = sorted(
            os.path.join(base, name)
            for base, _folders, names in os.walk(word)
            for name in names
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")
        )
        if not found:
            raise UsageError(f"{word}: no pictures in this folder ({', '.join(sorted(SUFFIXES))})")
        return found
    if os.path.exists(word):
        return [word]
    found = sorted(p for p in glob.iglob(word, recursive=True) if os.path.isfile(p))
    if not found:
        raise UsageError(
            f"{word}: no such image; check the path (--prompt is for a text like this)"
        )
    return found


def looks_like_image(word: str) -> bool:
    """Whether a word that names no file was meant as one: its ending says so."""
    return os.path.splitext(word)[1].lower() in SUFFIXES


def _round(side: float, patch: int) -> int:
    return max(1, round(side / patch)) * patch


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF says nothing of the pixels
        return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: Any) -> Any:
    """16-bit grey by its full range; 32-bit and float, which have none, by what they hold."""
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(wide.min()), float(wide.max())
    if values.dtype.kind in "iu" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (wide - low) * (255.0 / ((high - low) or 1.0))
    return scaled.round().clip(0, 255).astype(np.uint8)


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0] or type(error).__name__)[:120]
