"""CLIP Surgery: value–value attention on a parallel path, then feature surgery over prompts.

Li, Wang, Duan, Li, "CLIP Surgery for Better Explainability with Enhancement in Open-Vocabulary
Tasks" (2023). The last blocks get a second path, softmax(v vᵀ / √d) v read from the ordinary one,
residual kept, MLP skipped. Feature surgery removes what all prompts share.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.vit import Tower


def clip_surgery(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    *,
    blocks: int = 6,
    empty: Tensor | None = None,
) -> Tensor:
    """Scores [B, P, gh, gw] of the surgered patches.

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        blocks: how many last blocks get the second path.
        empty: embedding [E] of the empty class name. Given, it is what prompts share; otherwise
            their mean is, and a single prompt, whose surgery would be identically zero, gets
            plain cosines.
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
    cosines = tower.cosines(path, text, tower.grid(image))
    if empty is not None:
        return cosines - tower.cosines(path, empty[None], tower.grid(image))
    if len(text) == 1:
        return cosines
    pooled = F.normalize(tower.pooled(tower.leave(step)).float(), dim=-1)
    return feature_surgery(cosines, pooled @ F.normalize(text.float(), dim=-1).T)


def feature_surgery(cosines: Tensor, image_level: Tensor) -> Tensor:
    """Subtract from each prompt's cosines [B, P, gh, gw] what all prompts have in common.

    The authors multiply features f and text t channel by channel, weigh by
    w = softmax(2 · image-level cosine) / mean, subtract the mean over prompts and sum channels;
    summing first gives the same without the [gh·gw, P, E] array.

    Args:
        cosines: [B, P, gh, gw].
        image_level: cosines [B, P] of the class token with each prompt.
    """
    probability = (2 * image_level).softmax(dim=-1)
    weight = probability / probability.mean(dim=-1, keepdim=True)
    weighted = cosines * weight[..., None, None]
    return weighted - weighted.mean(dim=1, keepdim=True)
