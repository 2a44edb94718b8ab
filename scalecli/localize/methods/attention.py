"""Attention of the anchor patch in the last block: query–key, or one of them with itself.

The anchor is the patch whose projected embedding has the highest cosine with the text. Its
query–key row (Vaswani et al., "Attention Is All You Need", 2017) is blotchy; its value–value row
(Li et al., "CLIP Surgery", 2023) is concentrated on related patches and nearly a delta at the
anchor, hence ``mask_anchor`` and ``log``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from scalecli.localize.vit import Tower

Pair = Literal["qk", "qq", "kk", "vv"]


def anchors(cosines: Tensor) -> Tensor:
    """Index [B, P] into the gh·gw patches of the highest cosine in each map [B, P, gh, gw]."""
    return cosines.flatten(2).argmax(dim=-1)


def attention(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    *,
    pair: Pair = "qk",
    mask_anchor: bool = False,
    log: bool = False,
) -> Tensor:
    """How much the anchor patch of each prompt attends to every patch, mean over heads.

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        pair: what is compared with what; ``vv`` is softmax(v vᵀ / √d).
        mask_anchor: give the anchor the highest value among the others, so that it does not
            hide them.
        log: natural logarithm of the attention.

    Returns:
        [B, P, gh, gw], float32. Attention of patches, not cosines; the class token takes part
        in the softmax.
    """
    step = tower.last(image)
    grid = tower.grid(image)
    chosen = anchors(tower.cosines(tower.leave(step), text, grid))
    left, right = (getattr(step.heads, name).float() for name in pair)
    # Token 0 is the class token. Only the anchors' rows are computed: [B, H, P, T], not T×T.
    rows = (chosen + 1)[:, None, :, None].expand(-1, left.shape[1], -1, left.shape[-1])
    logits = left.gather(2, rows) @ right.transpose(2, 3) / math.sqrt(left.shape[-1])
    row: Tensor = logits.softmax(dim=-1).mean(dim=1)[..., 1:]
    if mask_anchor and row.shape[-1] > 1:
        others = row.scatter(-1, chosen[..., None], -torch.inf).amax(dim=-1, keepdim=True)
        row = row.scatter(-1, chosen[..., None], others)
    if log:
        row = row.clamp_min(torch.finfo(row.dtype).tiny).log()
    return row.reshape(*row.shape[:2], *grid)
