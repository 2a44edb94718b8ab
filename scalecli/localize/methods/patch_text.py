"""Patch–text similarity: the cosine of every projected patch token with the text.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021)
train only the class token to match text; its patches often match the *background* better, the
"opposite visualization" of the article.
"""

from __future__ import annotations

from torch import Tensor

from scalecli.localize.timm_tower import TimmTower
from scalecli.localize.vit import Tower


def patch_text(tower: Tower, image: Tensor, text: Tensor) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E]."""
    return tower.cosines(tower.tokens(image), text, tower.grid(image))


def patch_alone(tower: TimmTower, image: Tensor, text: Tensor) -> Tensor:
    """Scores [B, P, gh, gw] of every position, put through the network's own head alone."""
    return tower.patch_scores(image, text)
