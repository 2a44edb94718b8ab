"""PEARL's Procrustes alignment: keys are rotated onto queries before they meet.

Pei, Jiang, Cai, Chen, Yao, Jeon, "PEARL: Geometry Aligns Semantics for Training-Free
Open-Vocabulary Semantic Segmentation" (CVPR 2026): per head R* = argmin ‖K_c R − Q_c‖ over
orthogonal R, the polar factor of M = K_cᵀ Q_c; attention is softmax((Q (K R)ᵀ + α K_c K_cᵀ) / √d).
Queries and keys are centred for M by the mean weighted with the norm of the queries, the class
token left out. As in the authors' code (PGSmall/PEARL): α = 0.08, five Newton–Schulz steps, which
do *not* reach an orthogonal matrix, no residual, no MLP.

Their second step, text-aware Laplacian propagation, refines any map: :mod:`.laplacian`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scalecli.localize.methods.last_block import last_block
from scalecli.localize.vit import Step, Tower


def pearl(
    tower: Tower, image: Tensor, text: Tensor, *, iterations: int = 5, alpha: float = 0.08
) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E].

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        iterations: Newton–Schulz steps towards the rotation.
        alpha: share of centred key–key logits.
    """

    def aligned(step: Step, _grid: tuple[int, int]) -> Tensor:
        q, k, v = (p.float() for p in step.heads)
        weight = torch.linalg.vector_norm(q, dim=-1, keepdim=True)
        weight[..., :1, :] = 0
        weight = weight / (weight.sum(dim=2, keepdim=True) + 1e-6)
        q_c = q - (weight * q).sum(dim=2, keepdim=True)
        k_c = k - (weight * k).sum(dim=2, keepdim=True)
        rotation = polar(k_c.transpose(2, 3) @ q_c, iterations)
        logits = q @ (k @ rotation).transpose(2, 3) + alpha * k_c @ k_c.transpose(2, 3)
        attention: Tensor = (logits / math.sqrt(q.shape[-1])).softmax(dim=-1)
        return (attention @ v).to(step.heads.v)

    return last_block(tower, image, text, aligned)


def polar(m: Tensor, iterations: int) -> Tensor:
    """M (MᵀM)^(−1/2) of m [..., d, d], its inverse root by Newton–Schulz iteration.

    The coupled iteration Y ← Y T, Z ← T Z with T = (3 − Z Y) / 2 starts from MᵀM over its
    Frobenius norm, where small singular values need many more than the authors' five steps.
    """
    eps = 1e-6
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    gram = m.transpose(-1, -2) @ m
    norm = torch.linalg.matrix_norm(gram, keepdim=True).clamp_min(eps)
    y, z = gram / norm + eps * eye, eye
    for _ in range(iterations):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    unitary: Tensor = m @ (z / norm.sqrt())
    return unitary
