"""MaskCLIP: the last block passes values through, without attention, residual or MLP.

Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP" (ECCV 2022): out_proj(V) alone.
"""

from __future__ import annotations

from torch import Tensor

from scalecli.localize.vit import Tower


def maskclip(tower: Tower, image: Tensor, text: Tensor) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E]."""
    step = tower.last(image)
    return tower.cosines(tower.out(step.block, step.heads.v), text, tower.grid(image))
