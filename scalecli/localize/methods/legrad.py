"""LeGrad: where would more attention raise the score?

Bousselham, Boggust, Chaybouti, Strobelt, Kuehne, "LeGrad: An Explainability Method for Vision
Transformers via Feature Formation Sensitivity" (ICCV 2025): for each of the last blocks the score
of *its* output with the text, the gradient of that score with respect to *its* attention weights,
ReLU, mean over heads and queries; then the sum over blocks. As in the authors' package
(legrad_torch 1.1) two blocks take part, and every token is averaged into the score, the class
token included; their min–max at the end is left to whoever draws the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.gradcam import gradients
from scalecli.localize.vit import Step, Tower


def legrad(tower: Tower, image: Tensor, text: Tensor, *, blocks: int = 2) -> Tensor:
    """Relevance [B, P, gh, gw], float32, at least 0, of every patch for texts [P, E].

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        blocks: how many last blocks take part.
    """
    if not 1 <= blocks <= len(tower.blocks):
        raise UsageError(f"blocks: {blocks} is outside 1…{len(tower.blocks)} of this tower")
    steps = list(tower.steps(image))[-blocks:]
    relevance = torch.stack([sensitivity(tower, step, text) for step in steps]).sum(dim=0)
    return relevance[..., 1:].reshape(len(image), len(text), *tower.grid(image))


def sensitivity(tower: Tower, step: Step, text: Tensor) -> Tensor:
    """ReLU of d score / d attention of one block, mean over heads and queries: [B, P, T].

    The attention matrix itself is not differentiated: values are attended to as o = A v, so that
    the gradient with respect to A is (d score / d o) vᵀ.
    """
    values = F.scaled_dot_product_attention(*step.heads).detach()
    with torch.set_grad_enabled(True):
        attended = values.requires_grad_()
        mean = tower.leave(step, attended).mean(dim=1, keepdim=True)
        embedded = F.normalize(tower.project(mean)[:, 0].float(), dim=-1)
        scores = embedded @ F.normalize(text.detach().float(), dim=-1).T
    keys = step.heads.v.detach().float().transpose(2, 3)
    return torch.stack(
        [(slope.float() @ keys).relu().mean(dim=(1, 2)) for slope in gradients(scores, attended)],
        dim=1,
    )
