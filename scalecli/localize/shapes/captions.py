"""Captions of scenes, and which caption is true of which scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scalecli.localize.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Plan,
    Thing,
)

OPENINGS = ("", "a photo of ", "a picture of ", "an image of ", "there is ", "this is ")
"""Words in front of a caption, so that prompt templates mean what they mean in CLIP."""
SHARES = {"colour": 0.8, "texture": 0.35, "size": 0.25}
"""How often a mention names each attribute; the shape is always named."""


@dataclass(frozen=True)
class Mention:
    """One object in words; None where the caption does not say."""

    shape: str
    colour: str | None = None
    texture: str | None = None
    size: str | None = None

    def __str__(self) -> str:
        words = [w for w in (self.size, self.texture, self.colour, self.shape) if w]
        article = "an" if words[0][0] in "aeiou" else "a"
        return " ".join([article, *words])


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims."""

    mentions: tuple[Mention, ...]
    background: str | None = None
    opening: str = ""

    def __str__(self) -> str:
        *first, last = map(str, self.mentions)
        things = f"{', '.join(first)} and {last}" if first else last
        ground = f" on a {self.background} background" if self.background else ""
        return f"{self.opening}{things}{ground}"


def describe(plan: Plan, rng: np.random.Generator, *, count: int | None = None) -> Caption:
    """A random true caption of a scene.

    Args:
        plan: the scene.
        rng: chooses objects, their order, attributes and the opening.
        count: how many objects to name; by default all of them.
    """
    order = rng.permutation(len(plan.things))[:count]
    mentions = tuple(_mention(plan.things[i], rng) for i in order)
    ground = plan.background if rng.random() < 0.3 else None
    opening = str(rng.choice(OPENINGS)) if rng.random() < 0.5 else ""
    return Caption(mentions, ground, opening)


def _mention(thing: Thing, rng: np.random.Generator) -> Mention:
    named = {name: rng.random() < share for name, share in SHARES.items()}
    return Mention(
        thing.shape,
        thing.colour if named["colour"] else None,
        thing.texture if named["texture"] else None,
        thing.size if named["size"] else None,
    )


def truth(plans: Sequence[Plan], captions: Sequence[Caption]) -> NDArray[np.bool_]:
    """Which caption is true of which scene: [scenes, captions].

    A caption is true when every mention fits some object and the background, if named, is right.
    """
    most = max(len(p.things) for p in plans)
    things = np.full((len(plans), most, 4), -2)
    for i, p in enumerate(plans):
        for j, t in enumerate(p.things):
            things[i, j] = _code(t.shape, t.colour, t.texture, t.size)
    most = max(len(c.mentions) for c in captions)
    # A missing mention claims nothing: -1 fits everything.
    claims = np.full((len(captions), most, 4), -1)
    for i, c in enumerate(captions):
        for j, m in enumerate(c.mentions):
            claims[i, j] = _code(m.shape, m.colour, m.texture, m.size)
    # scenes, captions, mentions, things, attributes
    fits = (claims[None, :, :, None] == things[:, None, None]) | (claims[None, :, :, None] == -1)
    said: NDArray[np.bool_] = fits.all(-1).any(-1).all(-1)
    scene_ground = np.array([BACKGROUNDS.index(p.background) for p in plans])
    claimed = np.array([BACKGROUNDS.index(c.background) if c.background else -1 for c in captions])
    there: NDArray[np.bool_] = (scene_ground[:, None] == claimed) | (claimed == -1)
    return said & there


def _code(*names: str | None) -> list[int]:
    tables = (SHAPES, COLOURS, TEXTURES, SIZES)
    return [t.index(n) if n else -1 for t, n in zip(tables, names, strict=True)]
