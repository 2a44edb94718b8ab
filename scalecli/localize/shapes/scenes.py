"""Scenes of coloured, textured shapes with exact masks: the data of the CLIP that ships.

A scene is planned first (what stands where), then painted (:mod:`.painting`) and described
(:mod:`.captions`). Scene number i of a seed is always the same, whatever else is drawn.

Certain pairs of shape and colour, :data:`HELD_OUT_PAIRS`, never stand in a scene of the ``train``
split nor in its captions; every scene of the ``held-out`` split shows at least one of them. Each
shape and each colour is held out exactly once, so both are well known in other company.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from scalecli.localize.shapes.painting import Placed, paint

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "ring", "moon")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
TEXTURES = ("plain", "striped", "dotted", "checkered")
SIZES = ("small", "large")
BACKGROUNDS = ("grey", "wooden", "brick", "grassy", "sandy", "tiled")

CLASS_NAMES = SHAPES
"""Class c of these has the value c + 1 in :attr:`Scene.classes`; 0 is the background."""
HELD_OUT_PAIRS = frozenset(
    (shape, COLOURS[(3 * i + 1) % len(COLOURS)]) for i, shape in enumerate(SHAPES)
)
SIDE = 96
"""Pixels of a scene's side unless said otherwise."""
RADII = {"small": (11.0, 14.0), "large": (17.0, 22.0)}
"""Radius of a shape's circumcircle in pixels, whatever the side of the scene."""

Split = Literal["train", "held-out"]
T = TypeVar("T")


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    shape: str
    colour: str
    texture: str
    size: str
    placed: Placed

    @property
    def pair(self) -> tuple[str, str]:
        """Shape and colour."""
        return self.shape, self.colour


@dataclass(frozen=True)
class Plan:
    """What a scene shows, before it is painted."""

    things: tuple[Thing, ...]
    """From the furthest to the nearest."""
    background: str
    side: int
    """Pixels of both sides."""
    grain: int
    """Seed of all that has no name: noise, distractors, phases of textures."""


@dataclass(frozen=True)
class Scene:
    """A painted scene with its truth."""

    image: NDArray[np.uint8]
    """[side, side, 3], RGB."""
    classes: NDArray[np.uint8]
    """[side, side]: 0 background, c + 1 where class c of :data:`CLASS_NAMES` is visible."""
    objects: NDArray[np.uint8]
    """[side, side]: 0 background, i + 1 where object i of the plan is visible."""
    plan: Plan

    @property
    def present(self) -> tuple[str, ...]:
        """Names of the classes in the scene, in the order of :data:`CLASS_NAMES`."""
        shapes = {thing.shape for thing in self.plan.things}
        return tuple(name for name in CLASS_NAMES if name in shapes)

    def mask(
        self, shape: str | None = None, colour: str | None = None, texture: str | None = None
    ) -> NDArray[np.bool_]:
        """[side, side]: where an object of this shape, colour and texture is visible."""
        wanted = [
            i + 1
            for i, thing in enumerate(self.plan.things)
            if shape in (None, thing.shape)
            and colour in (None, thing.colour)
            and texture in (None, thing.texture)
        ]
        return np.isin(self.objects, wanted)


def scenes(
    split: Split,
    seed: int,
    count: int | None,
    *,
    side: int = SIDE,
    things: tuple[int, int] = (1, 4),
) -> Iterator[Scene]:
    """Painted scenes of a split, in order.

    Args:
        split: ``train`` or ``held-out``.
        seed: another seed, other scenes.
        count: how many; None never ends.
        side: pixels of both sides, at least 48.
        things: least and largest number of objects (fewer where no more find room).
    """
    numbers = itertools.count() if count is None else range(count)
    for index in numbers:
        yield painted(plan(split, seed, index, side=side, things=things))


def plan(
    split: Split,
    seed: int,
    index: int,
    *,
    side: int = SIDE,
    things: tuple[int, int] = (1, 4),
    sizes: Sequence[str] = SIZES,
    textures: Sequence[str] = TEXTURES,
) -> Plan:
    """The plan of scene ``index`` of a split and seed.

    Arguments as for :func:`scenes`, and ``sizes`` and ``textures``: those that things may have.
    """
    rng = np.random.default_rng([seed, ("train", "held-out").index(split), index, side])
    wanted = int(rng.integers(things[0], things[1] + 1))
    found: list[Thing] = []
    for _ in range(wanted):
        pairs = _pairs(split, held_out=split == "held-out" and not found)
        thing = _thing(rng, pairs, found, side, sizes=sizes, textures=textures)
        if thing is not None:
            found.append(thing)
    # The first thing is the held-out one: it must not always be the furthest.
    order = rng.permutation(len(found))
    return Plan(
        things=tuple(found[i] for i in order),
        background=_pick(rng, BACKGROUNDS),
        side=side,
        grain=int(rng.integers(2**32)),
    )


def painted(plan: Plan) -> Scene:
    """The picture and the masks of a plan."""
    image, objects = paint(
        [(thing.placed, thing.shape, thing.colour, thing.texture) for thing in plan.things],
        plan.background,
        plan.side,
        np.random.default_rng(plan.grain),
    )
    values = [0] + [1 + CLASS_NAMES.index(thing.shape) for thing in plan.things]
    return Scene(image, np.array(values, np.uint8)[objects], objects, plan)


def altered(original: Plan, rng: np.random.Generator) -> Plan:
    """The same training scene but for one attribute of one thing, or two things' colours swapped.

    Pictures and captions of such twins differ in little else than what a word says, which makes
    them the hard negatives of training. Held-out pairs are never made.
    """
    while True:
        things = list(original.things)
        i = int(rng.integers(len(things)))
        kind = rng.choice(["shape", "colour", "texture", "swap"], p=[0.4, 0.25, 0.1, 0.25])
        if kind == "swap":
            j = int(rng.integers(len(things)))
            first, second = things[i].colour, things[j].colour
            things[i] = replace(things[i], colour=second)
            things[j] = replace(things[j], colour=first)
        else:
            names = {"shape": SHAPES, "colour": COLOURS, "texture": TEXTURES}[str(kind)]
            change: dict[str, Any] = {str(kind): _pick(rng, names)}
            things[i] = replace(things[i], **change)
        new = replace(original, things=tuple(things))
        if new != original and not any(t.pair in HELD_OUT_PAIRS for t in things):
            return new


@functools.cache
def _pairs(split: Split, *, held_out: bool) -> tuple[tuple[str, str], ...]:
    """The pairs of shape and colour that a thing may have."""
    every = itertools.product(SHAPES, COLOURS)
    if split == "held-out" and not held_out:
        return tuple(every)
    return tuple(pair for pair in every if (pair in HELD_OUT_PAIRS) == held_out)


def _thing(
    rng: np.random.Generator,
    pairs: Sequence[tuple[str, str]],
    others: Sequence[Thing],
    side: int,
    *,
    sizes: Sequence[str],
    textures: Sequence[str],
) -> Thing | None:
    """A new thing with room around it, or None when no room was found."""
    shape, colour = _pick(rng, pairs)
    texture, size = _pick(rng, textures), _pick(rng, sizes)
    radius = float(rng.uniform(*RADII[size]))
    for _ in range(30):
        x, y = (float(v) for v in rng.uniform(radius, side - radius, size=2))
        # Circumcircles may touch by a tenth: little of a shape is ever covered.
        clear = all(
            math.hypot(x - o.placed.x, y - o.placed.y) > 0.9 * (radius + o.placed.radius)
            for o in others
        )
        if clear:
            angle = float(rng.uniform(-0.35, 0.35))
            return Thing(shape, colour, texture, size, Placed(x, y, radius, angle))
    return None


def _pick(rng: np.random.Generator, names: Sequence[T]) -> T:
    return names[int(rng.integers(len(names)))]
