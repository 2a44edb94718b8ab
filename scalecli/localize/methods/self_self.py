"""Self-self attention: queries, keys and values each attend to themselves, and are ensembled.

Bousselham et al., "Grounding Everything: Emerging Localization Properties in Vision-Language
Transformers" (CVPR 2024), equation for one block: p ← softmax(p pᵀ / τ) p with L2-normalised p,
for p ∈ {Q, K, V}. Each round draws a token towards those like it, a clustering.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.methods.last_block import last_block
from scalecli.localize.vit import Heads, Step, Tower


def inverse_temperature(step: Step) -> Tensor:
    """The authors' adaptive β [B, 1, 1, 1]: mean norm of ``ln_1`` over all tokens, over √d.

    The norm is over the full width D, the class token included, per image and block.
    """
    mean_norm: Tensor = torch.linalg.vector_norm(step.normed.float(), dim=-1).mean(dim=-1)
    width = step.heads.q.shape[-1]
    return (mean_norm / math.sqrt(width))[:, None, None, None].to(step.normed.dtype)


def attend(p: Tensor, values: Tensor, beta: Tensor | float) -> Tensor:
    """softmax(p̂ p̂ᵀ β) values, for L2-normalised p and values [B, H, T, d].

    The fused kernel never writes the T×T matrix: at 785 tokens that is a third of the time.
    """
    p = F.normalize(p, dim=-1)
    return F.scaled_dot_product_attention(p * beta, p, values, scale=1.0)


def cluster(p: Tensor, beta: Tensor | float, iterations: int) -> Tensor:
    """``iterations`` rounds of p ← softmax(p̂ p̂ᵀ β) p̂, for p [B, H, T, d]."""
    for _ in range(iterations):
        p = attend(p, F.normalize(p, dim=-1), beta)
    return p


def ensemble(heads: Heads, beta: Tensor | float, iterations: int) -> Tensor:
    """Values [B, H, T, d] attended by each of q, k, v with itself, averaged.

    One iteration means two applications: the last one attends to the values, un-normalised.
    """
    q, k, v = (attend(cluster(p, beta, iterations), heads.v, beta) for p in heads)
    return (q + k + v) / 3


def self_self(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    *,
    iterations: int = 1,
    temperature: float | None = None,
) -> Tensor:
    """Cosines [B, P, gh, gw] with the last block replaced by its self-self attention alone.

    Without the residual and the MLP: what the mechanism by itself says (GEM, which keeps the
    residual of several blocks, is in :mod:`.gem`).

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        iterations: rounds of clustering before values are attended, at least 0.
        temperature: the authors' *inverse* temperature β; by default adaptive.
    """

    def clustered(step: Step, _grid: tuple[int, int]) -> Tensor:
        beta = inverse_temperature(step) if temperature is None else temperature
        return ensemble(step.heads, beta, iterations)

    return last_block(tower, image, text, clustered)
