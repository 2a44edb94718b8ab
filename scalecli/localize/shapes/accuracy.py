"""Zero-shot accuracy of a shapes CLIP on held-out scenes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.shapes.captions import Caption, Mention
from scalecli.localize.shapes.model import pixels
from scalecli.localize.shapes.scenes import (
    COLOURS,
    HELD_OUT_PAIRS,
    SHAPES,
    Plan,
    painted,
    plan,
)
from scalecli.localize.shapes.tokenizer import tokenize

SEED = 2024
"""Of the scenes that measure; no other use draws from it."""


@dataclass(frozen=True)
class Accuracy:
    """Shares of right answers, 0 to 1, each with the chance of a guess."""

    held_out_pair: float
    """"a red star", never seen together in training, against every pair that is absent."""
    known_pair: float
    """The same for pairs that training showed."""
    pair_chance: float
    shape: float
    """"a star" against every shape that is absent."""
    shape_chance: float
    binding: float
    """"a red star and a blue ring" against the same with the colours swapped; chance is 0.5."""


def held_out_accuracy(model: Any, count: int, *, batch: int = 32) -> Accuracy:
    """Zero-shot accuracy over ``count`` held-out scenes."""
    plans = [plan("held-out", SEED, i) for i in range(count)]
    with torch.no_grad():
        parts = [pixels([painted(p) for p in plans[i : i + batch]]) for i in range(0, count, batch)]
        images = F.normalize(torch.cat([model.encode_image(part) for part in parts]), dim=-1)
        pairs = list(itertools.product(SHAPES, COLOURS))
        pair_scores = images @ _texts(model, [str(Mention(s, c)) for s, c in pairs]).T
        shape_scores = images @ _texts(model, [str(Mention(s)) for s in SHAPES]).T
    held_out: list[bool] = []
    known: list[bool] = []
    pair_chances, shape, shape_chances = [], [], []
    for i, p in enumerate(plans):
        present = {thing.pair for thing in p.things}
        for pair in present:
            right, chance = _found(pair_scores[i], pairs, pair, present)
            (held_out if pair in HELD_OUT_PAIRS else known).append(right)
            pair_chances.append(chance)
        shapes = {thing.shape for thing in p.things}
        for name in shapes:
            right, chance = _found(shape_scores[i], SHAPES, name, shapes)
            shape.append(right)
            shape_chances.append(chance)
    return Accuracy(
        held_out_pair=float(np.mean(held_out)),
        known_pair=float(np.mean(known)),
        pair_chance=float(np.mean(pair_chances)),
        shape=float(np.mean(shape)),
        shape_chance=float(np.mean(shape_chances)),
        binding=_binding(model, plans, images),
    )


def _found(
    scores: Tensor, names: Sequence[Any], right: Any, present: set[Any]
) -> tuple[bool, float]:
    """Whether ``right`` beats every absent name, and the chance of that for a guess."""
    rivals = [i for i, name in enumerate(names) if name not in present]
    best = scores[rivals].max()
    return bool(scores[names.index(right)] > best), 1 / (1 + len(rivals))


def _binding(model: Any, plans: Sequence[Plan], images: Tensor) -> float:
    """Colours bound to shapes: true captions of two things against their colours swapped."""
    rows, said, swapped = [], [], []
    for i, p in enumerate(plans):
        for one, two in itertools.combinations(p.things, 2):
            present = {thing.pair for thing in p.things}
            crossed = {(one.shape, two.colour), (two.shape, one.colour)}
            if one.shape == two.shape or crossed & present:
                continue
            rows.append(i)
            said.append(_two(one.pair, two.pair))
            swapped.append(_two((one.shape, two.colour), (two.shape, one.colour)))
    with torch.no_grad():
        right, wrong = ((images[rows] * _texts(model, t)).sum(dim=1) for t in (said, swapped))
    return float((right > wrong).float().mean())


def _two(first: tuple[str, str], second: tuple[str, str]) -> str:
    return str(Caption((Mention(*first), Mention(*second))))


def _texts(model: Any, texts: Sequence[str]) -> Tensor:
    return F.normalize(model.encode_text(tokenize(list(texts))), dim=-1)
