"""ResCLIP on NACLIP: middle blocks' attention, and a first segmentation, guide the last block.

Yang, Deng, Li, Duan, "ResCLIP: Residual Attention for Training-free Dense Vision-language
Inference" (CVPR 2025), as the authors code it on NACLIP (yvhangyang/ResCLIP):

- Residual cross-correlation self-attention: A ← τ ((1 − λ) A + λ C), where C is the mean of the
  ordinary attention of blocks 6 to 9 of 12 (:mod:`.depth` for other towers), head by head.
- Semantic feedback refinement: the maps so found are refined by PAMR, every patch takes its most
  frequent label, and patches of one label attract each other: logits ← τ ((1 − λ) k kᵀ/√d + λ S)
  before the Gaussian is added. S is 1 between patches of one label, less with the distance where
  another label lies between them, blurred along rows of the matrix and scaled to a maximum of 1.

The authors tune τ, λ and the threshold per benchmark; the defaults are those they use on COCO.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.methods import pamr
from scalecli.localize.methods.depth import blocks_before
from scalecli.localize.methods.naclip import gaussian
from scalecli.localize.vit import Heads, Tower


def resclip(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    *,
    feedback: bool = True,
    residual_share: float = 0.4,
    residual_scale: float = 2.0,
    feedback_share: float = 0.7,
    feedback_scale: float = 1.8,
    threshold: float = 0.11,
    logit_scale: float = 40.0,
    sigma: float = 5.0,
) -> Tensor:
    """Cosines [B, P, gh, gw] of an image [B, 3, height, width] with texts [P, E].

    With feedback the prompts matter to each other: the first segmentation is among them.

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        feedback: whether the first segmentation is fed back.
        residual_share: λ of the middle blocks' attention, 0…1.
        residual_scale: τ of the same.
        feedback_share: λ of the feedback, 0…1.
        feedback_scale: τ of the same.
        threshold: probability below which a pixel counts as the first prompt, which stands for
            the background.
        logit_scale: what cosines are multiplied by before the softmax.
        sigma: standard deviation of the Gaussians, in patches.
    """
    grid = tower.grid(image)
    middle = range(blocks_before(tower, 6) - 1, blocks_before(tower, 9))
    steps = list(tower.steps(image))
    crossed = torch.stack([ordinary_attention(steps[i].heads) for i in middle]).mean(dim=0)
    step = steps[-1]
    _, k, v = step.heads
    correlation = k @ k.transpose(2, 3) / math.sqrt(k.shape[-1])
    nearby = gaussian(grid, sigma).to(k)

    def maps(logits: Tensor) -> Tensor:
        attention = (logits + nearby).softmax(dim=-1)
        attention = residual_scale * torch.lerp(attention, crossed, residual_share)
        return tower.cosines(tower.out(step.block, attention @ v), text, grid)

    first = maps(correlation)
    if not feedback:
        return first
    labels = patch_labels(image, first, grid, threshold=threshold, logit_scale=logit_scale)
    attraction = semantic_attention(labels, sigma).to(k)[:, None]
    return maps(feedback_scale * torch.lerp(correlation, attraction, feedback_share))


def ordinary_attention(heads: Heads) -> Tensor:
    """softmax(q kᵀ / √d) [B, H, T, T]."""
    q, k, _ = heads
    return (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).softmax(dim=-1)


def patch_labels(
    image: Tensor, maps: Tensor, grid: tuple[int, int], *, threshold: float, logit_scale: float
) -> Tensor:
    """The most frequent label [B, gh, gw] among the pixels of each patch, for maps [B, P, …].

    Maps [B, P, gh, gw] are upsampled, refined by PAMR and compared per pixel.
    """
    size = image.shape[-2:]
    upsampled = F.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    best, label = (pamr.refine(image, upsampled) * logit_scale).softmax(dim=1).max(dim=1)
    label = label.masked_fill(best < threshold, 0)
    gh, gw = grid
    pixels = label.reshape(len(label), gh, size[0] // gh, gw, size[1] // gw).transpose(2, 3)
    return pixels.flatten(3).mode(dim=-1).values


def semantic_attention(labels: Tensor, sigma: float) -> Tensor:
    """S [B, T, T] of patch labels [B, gh, gw], 0…1; nothing from or to the class token."""
    batch, gh, gw = labels.shape
    count = gh * gw
    flat = labels.flatten(1)
    same = (flat[:, :, None] == flat[:, None]).float()
    steps, reachable = distances((gh, gw)), unbroken(labels)
    decay = torch.exp(-steps / steps.max().clamp_min(1)).to(same.device)
    same = torch.where(reachable, same, same * decay)

    width = min(count, int(6 * sigma + 1)) // 2 * 2 + 1
    offset = torch.arange(width, device=same.device) - width // 2
    kernel = torch.exp(-offset.square() / (2 * sigma**2))
    rows = same.reshape(batch * count, 1, count)
    blurred = F.conv1d(rows, (kernel / kernel.sum())[None, None], padding=width // 2)
    blurred = blurred / (blurred.sum(dim=-1, keepdim=True) + 1e-8)
    attention = blurred.reshape(batch, count, count)
    return F.pad(attention / attention.amax(dim=(1, 2), keepdim=True), (1, 0, 1, 0))


def unbroken(labels: Tensor) -> Tensor:
    """Whether no other label lies on the way between two patches: [B, N, N] of [B, gh, gw]."""
    flat, grid = labels.flatten(1), (labels.shape[1], labels.shape[2])
    # A few patches at a time: all ways of all pairs take N² · max(gh, gw) places.
    parts = []
    for start, way in ways(grid):
        on_way = flat[:, way.to(flat.device)]
        own = flat[:, start : start + len(way), None, None]
        parts.append((on_way == own).all(dim=-1))
    return torch.cat(parts, dim=1)


@lru_cache(maxsize=4)
def ways(grid: tuple[int, int], chunk: int = 64) -> list[tuple[int, Tensor]]:
    """Patches on the way from each patch to each other, in chunks: (first patch, [n, N, S]).

    The authors walk every pair in steps of 1 / (longest distance) of the way and look at as many
    of them as the pair is apart, so of a short way only the beginning is seen. The rest of the S
    places repeats the start.
    """
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in grid)
    places = torch.cartesian_prod(rows, columns)
    apart = distances(grid)
    longest = int(apart.max())
    t = torch.linspace(0, 1, longest + 1)[None, None, :, None]
    seen = torch.arange(longest + 1) <= apart[..., None]
    index = []
    for start in range(0, len(places), chunk):
        here = places[start : start + chunk, None, None]
        way = (here * (1 - t) + places[None, :, None] * t).round().long()
        number = way[..., 0] * grid[1] + way[..., 1]
        own = torch.arange(start, start + len(here))[:, None, None]
        index.append((start, torch.where(seen[start : start + chunk], number, own).int()))
    return index


def distances(grid: tuple[int, int]) -> Tensor:
    """Chebyshev distance [N, N] of patches, float32."""
    rows, columns = (torch.arange(side, dtype=torch.float32) for side in grid)
    places = torch.cartesian_prod(rows, columns)
    return (places[:, None] - places[None]).abs().amax(dim=-1)
