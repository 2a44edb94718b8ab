"""MaskCLIP: the last block passes values through, without attention, residual or MLP.

Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP" (ECCV 2022): out_proj(V) alone.
"""

from __future__ import annotations

from torch import Tensor

from scalecli.localize.methods.last_block import last_block
from scalecli.localize.vit import Tower


def maskclip(tower: Tower, image: Tensor, text: Tensor) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E]."""
    return last_block(tower, image, text, lambda step, _grid: step.heads.v)
