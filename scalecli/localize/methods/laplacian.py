"""Text-aware Laplacian propagation, the second step of PEARL, for maps of any method.

Pei et al., "PEARL" (CVPR 2026; see :mod:`.pearl`): on a coarse grid the refined maps F minimise
½ Σ_i ρ_i ‖F_i − Z_i‖² + ½ Σ_(i,j) a_ij ‖F_i − F_j‖² over 4-connected cells, where Z are the maps, ρ
trusts confident cells, and a_ij is small across edges of the image and larger between cells that
agree in what they are. As in the authors' code, the similarity G of texts enters by its diagonal
alone, probabilities are a softmax of the *unscaled* maps, and 25 conjugate-gradient steps solve it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def refine(
    image: Tensor, maps: Tensor, text: Tensor, *, cells: int = 80, iterations: int = 25
) -> Tensor:
    """Maps brought to the size of the image and refined.

    Args:
        image: [B, 3, height, width].
        maps: [B, P, any, any] of all prompts together: they compete for every cell.
        text: [P, E].
        cells: about how many cells per side; the authors use 224 on Cityscapes.
        iterations: conjugate-gradient steps.

    Returns:
        [B, P, height, width], float32.
    """
    size = image.shape[-2:]
    coarse = tuple(max(1, round(side / cells)) for side in size)
    maps = F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)
    z = F.avg_pool2d(maps, coarse)
    grey = F.avg_pool2d(luminance(image.float()), coarse)

    probability = z.softmax(dim=1)
    similar = self_similarity(text)[:, None, None]
    agreement = (similar * probability.square()).sum(dim=1, keepdim=True).clamp(0, 1)
    trust = probability.amax(dim=1, keepdim=True).clamp_min(0.05).square() * (1 + agreement)
    across = edges(grey, probability, similar, dim=3)
    down = edges(grey, probability, similar, dim=2)

    def system(x: Tensor) -> Tensor:
        return trust * x + laplacian(x, across, dim=3) + laplacian(x, down, dim=2)

    solved = conjugate_gradients(system, trust * z, z, iterations)
    return F.interpolate(solved, size=size, mode="bilinear", align_corners=False)


def self_similarity(text: Tensor, temperature: float = 0.5, boost: float = 10.0) -> Tensor:
    """Diagonal [P] of the row-normalised softmax(cos / temperature) + boost · 1 of texts [P, E]."""
    text = F.normalize(text.float(), dim=-1)
    g = (text @ text.T / temperature).softmax(dim=1)
    g = g + boost * torch.eye(len(g), device=g.device)
    return (g / (g.sum(dim=1, keepdim=True) + 1e-6)).diagonal()


def luminance(image: Tensor) -> Tensor:
    """[B, 1, height, width] of an image [B, 3, height, width]; ITU-R BT.601 weights."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=image.device)
    return torch.einsum("bchw,c->bhw", image, weights)[:, None]


def edges(grey: Tensor, probability: Tensor, similar: Tensor, *, dim: int) -> Tensor:
    """Weights of the edges between neighbours along ``dim``, 0…1, one fewer than cells."""
    count = grey.shape[dim] - 1
    jump = grey.diff(dim=dim).abs()
    # The mean of no edge at all, on a grid of one row, would be undefined.
    jump = jump / (jump.mean(dim=(1, 2, 3), keepdim=True) + 1e-6) if count else jump
    here, there = probability.narrow(dim, 1, count), probability.narrow(dim, 0, count)
    agree = (similar * here * there).sum(dim=1, keepdim=True)
    return (torch.exp(-5 * jump) * (1 + agree.clamp(0, 1))).clamp(0, 1)


def laplacian(x: Tensor, weights: Tensor, *, dim: int) -> Tensor:
    """Graph Laplacian of x [B, P, h, w] along ``dim`` under the weights of its edges."""
    flow = weights * x.diff(dim=dim)
    before, after = ((0, 0, 1, 0), (0, 0, 0, 1)) if dim == 2 else ((1, 0), (0, 1))
    return F.pad(flow, before) - F.pad(flow, after)


def conjugate_gradients(
    system: Callable[[Tensor], Tensor], right: Tensor, start: Tensor, iterations: int
) -> Tensor:
    """Solve system(x) = right for each image of the batch, from ``start``."""
    x, residual = start, right - system(start)
    direction, error = residual, _square(residual)
    for _ in range(iterations):
        applied = system(direction)
        step = error / ((direction * applied).sum(dim=(1, 2, 3), keepdim=True) + 1e-12)
        x, residual = x + step * direction, residual - step * applied
        previous, error = error, _square(residual)
        direction = residual + error / (previous + 1e-12) * direction
    return x


def _square(x: Tensor) -> Tensor:
    return x.square().sum(dim=(1, 2, 3), keepdim=True)
