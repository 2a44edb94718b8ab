"""One image scored: labels from maps, and how every present class was localized.

Segmentation lets the classes compete at every pixel. The other measures look at one present class
at a time and ask only where its own map is high: pointing game (Zhang et al., "Top-down Neural
Attention by Excitation Backprop", 2016), mean score inside minus outside, and points (Benenson &
Ferrari, "From colouring-in to pointillism", 2022).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalecli.localize.evaluation.masks import IGNORE, Labels
from scalecli.localize.evaluation.protocol import Protocol, Vocabulary
from scalecli.localize.evaluation.views import Views, chunks

POINT_THRESHOLD = 0.5
"""A point is inside where its min–max map is above this, as GEM's authors score."""


@dataclass(frozen=True)
class Located:
    """How well one present class was found in one image."""

    index: int
    """The class."""
    hit: bool
    """Pointing game: the highest score lies in the mask."""
    contrast: float | None
    """Mean of the min–max map inside minus outside the mask, −1…1; None if all is inside."""
    points: tuple[int, int, int, int]
    """Annotated points: true positive, false positive, false negative, true negative."""


@dataclass(frozen=True)
class Scored:
    """One image under one method."""

    predicted: Labels
    """[H, W], class indices."""
    located: tuple[Located, ...]
    """One per present class, the background left out."""


def truth(labels: Labels, vocabulary: Vocabulary) -> Labels:
    """Class indices [H, W] of a dataset's labels: background kept or left out as asked."""
    if vocabulary.background:
        return labels
    return np.where(labels > 0, labels - 1, IGNORE).astype(np.int32)


def score(
    maps: Tensor,
    views: Views,
    labels: Labels,
    vocabulary: Vocabulary,
    protocol: Protocol,
    *,
    logit_scale: float,
    weights: Tensor | None = None,
    points: int,
    rng: np.random.Generator,
) -> Scored:
    """Score one image.

    Args:
        maps: [V, P, gh, gw] of every view and prompt.
        views: where the views lie.
        labels: [H, W] as the dataset gives them. Background is outside of every object even where
            it is no class to predict; only :data:`IGNORE` takes no part.
        vocabulary: the prompts and their classes.
        protocol: normalisation, threshold, least area.
        logit_scale: what scores are multiplied by before the softmax.
        weights: [P] of the prompts, which their min–max maps are multiplied by; None for scores
            that compete as they are, or as min–max maps where the protocol says so.
        points: points drawn inside and outside every present class.
        rng: draws them.
    """

    def compete(high: Tensor, span: slice) -> Tensor:
        if weights is not None:
            return _minmax(high) * weights[span, None, None].to(high.device)
        return _minmax(high) if protocol.normalise == "minmax" else high

    first = 0 if vocabulary.background else 1
    # Class index → label. Drawn before any is scored: points depend on the mask alone.
    objects = {label - first: label for label in np.unique(labels).tolist() if label > 0}
    drawn = {index: draw_points(labels, label, points, rng) for index, label in objects.items()}
    race = _Race(protocol, logit_scale)
    located: list[Located] = []
    valid = torch.from_numpy(labels != IGNORE).to(maps.device)
    for part, span, high in chunks(maps, views, vocabulary.groups()):
        race.enter(compete(high, span), span.start)
        for index, own in part:
            if index in drawn:
                local = slice(own.start - span.start, own.stop - span.start)
                inside = torch.from_numpy(labels == objects[index]).to(maps.device)
                # A class of several words is where any of them is.
                one = _minmax(high[local].amax(dim=0, keepdim=True))[0]
                located.append(locate(one, inside, valid, index, drawn[index]))
    owner = torch.tensor(vocabulary.owner, device=maps.device)
    predicted = race.result(owner, len(vocabulary.classes))
    if protocol.least_area:
        small = _small(predicted, len(vocabulary.classes), protocol.least_area)
        if small:
            barred = torch.isin(owner, torch.tensor(small, device=owner.device))
            again = _Race(protocol, logit_scale, barred=barred)
            for _part, span, high in chunks(maps, views, vocabulary.groups()):
                again.enter(compete(high, span), span.start)
            predicted = again.result(owner, len(vocabulary.classes))
    return Scored(predicted.cpu().numpy().astype(np.int32), tuple(located))


def locate(
    heat: Tensor,
    inside: Tensor,
    valid: Tensor,
    index: int,
    points: tuple[NDArray[np.int64], NDArray[np.int64]],
) -> Located:
    """One class's min–max map [H, W] against its mask [H, W], where ``valid``."""
    outside = valid & ~inside
    best = int(torch.where(valid, heat, -1.0).argmax())
    contrast = float(heat[inside].mean() - heat[outside].mean()) if outside.any() else None
    positive, negative = (
        heat.flatten()[torch.from_numpy(p).to(heat.device)] > POINT_THRESHOLD for p in points
    )
    tp, fp = int(positive.sum()), int(negative.sum())
    return Located(
        index=index,
        hit=bool(inside.flatten()[best]),
        contrast=contrast,
        points=(tp, fp, len(positive) - tp, len(negative) - fp),
    )


def draw_points(
    labels: Labels, label: int, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat positions of at most ``count`` points inside and outside a label, without repeats."""
    flat = labels.ravel()
    inside, outside = np.flatnonzero(flat == label), np.flatnonzero((flat != label) & (flat >= 0))
    first, second = (rng.choice(p, min(count, len(p)), replace=False) for p in (inside, outside))
    return first, second


class _Race:
    """The best prompt of every pixel, and its softmax probability, prompts arriving in chunks.

    The running logarithm of the softmax's denominator is that of online softmax (Milakov &
    Gimelshein 2018): the result does not depend on the chunks.
    """

    def __init__(self, protocol: Protocol, scale: float, barred: Tensor | None = None) -> None:
        self.threshold = protocol.threshold
        self.scale = scale
        self.barred = barred
        self.best: Tensor | None = None
        self.winner: Tensor | None = None
        self.log_total: Tensor | None = None

    def enter(self, scores: Tensor, first: int) -> None:
        """Scores [p, H, W] of the prompts from number ``first`` on."""
        if self.threshold:
            part = torch.logsumexp(scores * self.scale, dim=0)
            self.log_total = (
                part if self.log_total is None else torch.logaddexp(self.log_total, part)
            )
        if self.barred is not None:
            out = self.barred[first : first + len(scores)]
            scores = scores.masked_fill(out[:, None, None], -torch.inf)
        best, winner = scores.max(dim=0)
        winner = winner + first
        if self.best is None or self.winner is None:
            self.best, self.winner = best, winner
        else:
            # Ties stay with the earlier prompt, as in one argmax over all.
            better = best > self.best
            self.best = torch.where(better, best, self.best)
            self.winner = torch.where(better, winner, self.winner)

    def result(self, owner: Tensor, classes: int) -> Tensor:
        """Class indices [H, W]."""
        assert self.best is not None
        assert self.winner is not None
        predicted = owner[self.winner]
        if self.threshold:
            assert self.log_total is not None
            probability = (self.best * self.scale - self.log_total).exp()
            predicted = torch.where(probability < self.threshold, 0, predicted)
        elif self.barred is not None:
            predicted = torch.where(torch.isinf(self.best), 0, predicted)
        return predicted


def _small(predicted: Tensor, classes: int, least: float) -> list[int]:
    """Classes that win less than a share ``least`` of all that is not background (SCLIP's rule)."""
    counts = torch.bincount(predicted.flatten(), minlength=classes)[1:]
    limit = least * int(counts.sum())
    return [i + 1 for i, count in enumerate(counts.tolist()) if 0 < count <= limit]


def _minmax(maps: Tensor) -> Tensor:
    """Every map [p, H, W] stretched to 0…1; a flat one becomes 0."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(torch.finfo(maps.dtype).tiny)
