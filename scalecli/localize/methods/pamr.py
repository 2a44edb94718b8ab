"""PAMR: maps are smoothed where neighbouring pixels look alike.

Araslanov, Roth, "Single-Stage Semantic Segmentation from Image Labels" (CVPR 2020):
pixel-adaptive mask refinement. The affinity of a pixel with its neighbour is
−|difference| / (0.1 · local standard deviation), mean over channels, softmax over neighbours; maps
are averaged by it again and again. Ten rounds with the 16 neighbours at distances 8 and 16, as
SCLIP, NACLIP and those after them use it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def refine(
    image: Tensor, maps: Tensor, *, iterations: int = 10, dilations: Sequence[int] = (8, 16)
) -> Tensor:
    """Maps brought to the size of the image and refined along its edges.

    Args:
        image: [B, 3, height, width]; whether it is normalised hardly matters, since differences
            are measured in local standard deviations.
        maps: [B, P, any, any], for instance cosines on the grid of patches.
        iterations: rounds of averaging; 0 only upsamples.
        dilations: distances of the neighbours, in pixels.

    Returns:
        [B, P, height, width], float32; each value lies between the values it is averaged from.
    """
    image, maps = image.float(), maps.float()
    maps = F.interpolate(maps, size=image.shape[-2:], mode="bilinear", align_corners=True)
    weights = affinity(image, dilations)
    for _ in range(iterations):
        # One neighbour at a time: all of them together take 16 times the memory of the maps.
        averaged = torch.zeros_like(maps)
        for n, shifted in enumerate(neighbours(maps, dilations)):
            averaged.addcmul_(shifted, weights[:, n, None])
        maps = averaged
    return maps


def affinity(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weights [B, N, height, width] of the N = 8 · len(dilations) neighbours; they sum to 1."""
    around = torch.stack(list(neighbours(image, dilations)))
    # The pixel itself takes part in the deviation, once for each distance.
    window = torch.cat([around, image[None].expand(len(dilations), -1, -1, -1, -1)])
    deviation = window.std(dim=0)
    logits = -(image[None] - around).abs() / (1e-8 + 0.1 * deviation)
    return logits.mean(dim=2).softmax(dim=0).transpose(0, 1)


def neighbours(planes: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The planes [B, C, height, width] seen from each neighbour; border pixels are repeated."""
    height, width = planes.shape[-2:]
    for d in dilations:
        padded = F.pad(planes, [d] * 4, mode="replicate")
        for y in (0, d, 2 * d):
            for x in (0, d, 2 * d):
                if (y, x) != (d, d):
                    yield padded[..., y : y + height, x : x + width]
