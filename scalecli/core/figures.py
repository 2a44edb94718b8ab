"""One look for every picture, and PNG files that say which command made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalecli.core.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image

INSIDE = "#e8833a"
"""Orange: the positive class, as in the article."""
OUTSIDE = "#3b75af"
"""Blue: the negative class."""

# Okabe & Ito's palette (2008): distinguishable with any colour vision.
CYCLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#555555",
    "#B3A100",
    "#7A3E9D",
    "#8C510A",
)

STYLE: dict[str, Any] = {
    "figure.dpi": 120,
    "savefig.dpi": 160,
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the house style to figures made inside the block."""
    import matplotlib as mpl
    from cycler import cycler

    with mpl.rc_context({**STYLE, "axes.prop_cycle": cycler(color=CYCLE)}):
        yield


def save_figure(figure: Figure, path: Path, metadata: Mapping[str, str]) -> Path:
    """Write a matplotlib figure as PNG, atomically, with its origin in the metadata."""
    with style(), atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", metadata=dict(metadata))
    return path


def save_image(
    image: Image.Image, path: Path, metadata: Mapping[str, str], *, compress_level: int = 4
) -> Path:
    """Write a pillow image as PNG, atomically, with its origin in the metadata.

    Args:
        image: what to save.
        path: where.
        metadata: text chunks.
        compress_level: 0 (fast) … 9 (small).
    """
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    for key, value in metadata.items():
        info.add_itxt(key, value)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG", pnginfo=info, compress_level=compress_level)
    return path
