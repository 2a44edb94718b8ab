"""CLIP Surgery: value–value attention on a parallel path, then feature surgery over prompts.

Li, Wang, Duan, Li, "CLIP Surgery for Better Explainability with Enhancement in Open-Vocabulary
Tasks" (2023). The last blocks get a second path, softmax(v vᵀ / √d) v read from the ordinary one,
residual kept, MLP skipped. Feature surgery, which removes what all prompts share, is in
:mod:`.surgery`: the table of methods puts it on top.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.vit import Tower


def clip_surgery(tower: Tower, image: Tensor, text: Tensor, *, blocks: int = 6) -> Tensor:
    """Cosines [B, P, gh, gw] of the second path with texts [P, E].

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        blocks: how many last blocks get the second path.
    """
    if not 1 <= blocks <= len(tower.blocks):
        raise UsageError(f"blocks: {blocks} is outside 1…{len(tower.blocks)} of this tower")
    first = tower.blocks[-blocks]
    path: Tensor | None = None
    for step in tower.steps(image):
        if step.block is first:
            path = step.x
        if path is not None:
            v = step.heads.v
            # The scale 1/√d is scaled_dot_product_attention's own.
            path = path + tower.out(step.block, F.scaled_dot_product_attention(v, v, v))
    assert path is not None
    return tower.cosines(path, text, tower.grid(image))
