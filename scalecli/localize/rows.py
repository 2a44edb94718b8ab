"""One row of `scalecli localize`: a picture, a prompt, a method."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalizeRow:
    """Where one method sees one prompt in one picture."""

    image: str
    """Path as given."""
    prompt: str
    method: str
    score: float
    """Image-level score, the model's own: a cosine for CLIP, a logit for a classifier."""
    contrast: float | None
    """Standard deviations above the scores of common words (see :mod:`.absent`)."""
    present: bool | None
    """Verdict on the contrast; None without a bank of words."""
    peak_x: int
    """Pixel of the upright original at the middle of the highest cell."""
    peak_y: int
    peak: float
    """The map's highest value, in the method's unit."""
    low: float
    """Bottom of the colour range, in the method's unit."""
    high: float
    """Top of the colour range."""
    area: float
    """Share of the picture above the threshold."""
    threshold: float
    """The threshold on the scaled map, 0…1."""
    seconds: float
    """Time of the method for all prompts of this picture together."""
    width: int
    """Pixels of the upright original."""
    height: int
    grid_h: int
    """Positions of the map."""
    grid_w: int
    boxes: tuple[tuple[int, int, int, int], ...] = ()
    """left, top, right, bottom in pixels of the original, highest peak first."""
    inside_minus_outside: float | None = None
    """With a mask: mean of the scaled map inside less outside."""
    hit: bool | None = None
    """With a mask: whether the peak is inside."""
    files: tuple[str, ...] = ()
    """Pictures and arrays made, relative to the run's folder."""
