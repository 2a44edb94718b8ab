"""ClearCLIP: the last block gives its attention output alone, and attends by q·q.

Lan, Chen, Ke, Wang, Feng, Zhang, "ClearCLIP: Decomposing CLIP Representations for Dense
Vision-Language Inference" (ECCV 2024): without the residual, whose large norm hides the patches,
and without the MLP; attention is softmax(q qᵀ / √d) (authors' code: mc-lan/ClearCLIP).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.methods.last_block import last_block
from scalecli.localize.vit import Step, Tower


def clearclip(tower: Tower, image: Tensor, text: Tensor) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E]."""
    return last_block(tower, image, text, query_query)


def query_query(step: Step, _grid: tuple[int, int]) -> Tensor:
    """Values [B, H, T, d] attended by q·q."""
    q, _, v = step.heads
    return F.scaled_dot_product_attention(q, q, v)
