"""SCLIP: the last block attends by q·q and by k·k, and their outputs are added.

Wang, Mei, Yuille, "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference" (ECCV
2024): Attn = softmax(q qᵀ / τ) + softmax(k kᵀ / τ), τ = √d, so that rows sum to 2. As in
the authors' code (wangf3014/SCLIP) the residual and the MLP of the block are kept.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.methods.last_block import last_block
from scalecli.localize.vit import Step, Tower


def sclip(tower: Tower, image: Tensor, text: Tensor) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E]."""
    return last_block(tower, image, text, correlative, residual=True)


def correlative(step: Step, _grid: tuple[int, int]) -> Tensor:
    """Correlative self-attention: values [B, H, T, d] attended twice, and added."""
    q, k, v = step.heads
    # The scale 1/√d is scaled_dot_product_attention's own.
    return F.scaled_dot_product_attention(q, q, v) + F.scaled_dot_product_attention(k, k, v)
