"""Deletion and insertion: does the model's own decision hang on what the heatmap shows?

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (BMVC
2018). Pixels are taken away (to grey) or brought back (from a blur) in the order of the heatmap,
while the probability of the class is watched; the figure is the area under that curve. A faithful
map has low deletion and high insertion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.encoder import Encoder

BLUR_SIZE, BLUR_SIGMA = 11, 5.0
"""RISE's blur, in pixels of a 224 input."""


@dataclass(frozen=True)
class Curves:
    """Probability of the class as pixels go (deletion) and come (insertion)."""

    deletion: Tensor
    """[steps + 1]."""
    insertion: Tensor
    """[steps + 1]."""

    @property
    def areas(self) -> tuple[float, float]:
        """Areas under deletion and insertion, 0…1."""
        steps = len(self.deletion) - 1
        gone, come = (float(torch.trapezoid(c)) / steps for c in (self.deletion, self.insertion))
        return gone, come


def curves(
    encoder: Encoder, pixels: Tensor, heat: Tensor, text: Tensor, prompts: slice, *, steps: int
) -> Curves:
    """Both curves of one heatmap.

    Args:
        encoder: whose decision is watched: softmax over the prompts of its scaled scores.
        pixels: one image [1, 3, height, width], normalised, so that grey is 0.
        heat: its map on any grid [gh, gw].
        text: [P, E].
        prompts: those of the class; its probability is the sum of theirs.
        steps: in how many equal parts pixels go and come.
    """
    height, width = pixels.shape[-2:]
    fine = F.interpolate(
        heat[None, None].float(), size=(height, width), mode="bilinear", align_corners=False
    ).flatten()
    # Stable: a flat map has one order, not one per machine.
    rank = torch.empty(len(fine), dtype=torch.long, device=fine.device)
    rank[fine.argsort(descending=True, stable=True)] = torch.arange(len(fine), device=fine.device)
    rank = rank.reshape(1, 1, height, width).to(pixels.device)
    cuts = [round(i * height * width / steps) for i in range(steps + 1)]
    gone = torch.cat([rank < cut for cut in cuts])
    blurred = blur(pixels)
    deleted = torch.where(gone, torch.zeros_like(pixels), pixels)
    inserted = torch.where(gone, pixels, blurred)
    found = []
    for batch in (deleted, inserted):
        scores = encoder.scores(batch, text) * encoder.logit_scale
        found.append(scores.softmax(dim=-1)[:, prompts].sum(dim=-1).cpu())
    return Curves(*found)


def blur(pixels: Tensor) -> Tensor:
    """RISE's Gaussian blur of images [B, 3, height, width], as wide as the image is large."""
    side = min(pixels.shape[-2:])
    scale = side / 224
    half = min(max(1, round(BLUR_SIZE * scale) // 2), side - 1)
    at = torch.arange(-half, half + 1, dtype=torch.float32, device=pixels.device)
    kernel = torch.exp(-0.5 * (at / (BLUR_SIGMA * max(scale, 0.2))) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    x = F.pad(pixels.float(), (half, half, half, half), mode="reflect")
    x = F.conv2d(x, kernel, groups=3)
    return F.conv2d(x, kernel.transpose(2, 3), groups=3).to(pixels.dtype)
