"""NACLIP: the last block attends by k·k and to its neighbourhood.

Hajimiri, Ben Ayed, Dolz, "Pay Attention to Your Neighbours: Training-Free Open-Vocabulary
Semantic Segmentation" (WACV 2025): softmax(k kᵀ / √d + ω), where ω is a Gaussian over the distance
of patches, with peak 1, added to the scaled logits as it is; no residual, no MLP (authors' code:
sinahmr/NACLIP, strategy ``naclip``, architecture ``reduced``, standard deviation 5).
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.methods.last_block import last_block
from scalecli.localize.vit import Step, Tower


def naclip(tower: Tower, image: Tensor, text: Tensor, *, sigma: float = 5.0) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E].

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        sigma: standard deviation of the neighbourhood, in patches.
    """

    def neighbourly(step: Step, grid: tuple[int, int]) -> Tensor:
        _, k, v = step.heads
        return F.scaled_dot_product_attention(k, k, v, attn_mask=gaussian(grid, sigma).to(k))

    return last_block(tower, image, text, neighbourly)


@lru_cache(maxsize=8)
def gaussian(grid: tuple[int, int], sigma: float) -> Tensor:
    """ω [T, T]: exp(−distance² / 2σ²) between patches, 0 from and to the class token."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in grid)
    places = torch.cartesian_prod(rows, columns)
    squared = (places[:, None] - places[None]).square().sum(dim=-1)
    return F.pad(torch.exp(-squared / (2 * sigma**2)), (1, 0, 1, 0))
