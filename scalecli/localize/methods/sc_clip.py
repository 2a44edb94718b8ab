"""SC-CLIP: outlier tokens are resolved, and middle blocks say which patches belong together.

Bai, Liu, Han, Zhang, Tang, "Self-Calibrated CLIP for Training-Free Open-Vocabulary Segmentation"
(2024), as its authors code it (SuleBai/SC-CLIP):

1. Before the last block, patches whose outlier factor is in the highest 5 % are replaced by the
   mean of their sound neighbours. Their factor is not the published LOF: reachability uses a
   point's *own* k-distance, which leaves the mean over neighbours of k-distance / theirs.
2. Patches are averaged by the cosines (≥ 0.4) of the features after block 9 of 12.
3. The last block attends by the mean of softmax(k kᵀ / √d) and of softmax(3 (cosine − mean)),
   which is cut off below 0; no residual, no MLP, but 0.3 of the class token is added.
4. The result is averaged by the cosines (≥ 0.4) of the features after block 4.
5. Steps 3 and 4 for the sum of the features after blocks 4 to 10 as well, and both are added.

In towers of other depths the blocks are those at the same relative depth (:mod:`.depth`). Their
indexing of outliers swaps rows and columns of images that are not square; here it does not.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.localize.methods.depth import blocks_before
from scalecli.localize.vit import Tower


def sc_clip(
    tower: Tower,
    image: Tensor,
    text: Tensor,
    *,
    neighbours: int = 30,
    outliers: float = 0.05,
    threshold: float = 0.4,
    class_share: float = 0.3,
) -> Tensor:
    """Cosines [B, P, gh, gw] of the calibrated patches with texts [P, E].

    Args:
        tower: the image tower.
        image: [B, 3, height, width].
        text: [P, E].
        neighbours: how many nearest patches an outlier is judged by; on a grid of fewer, half.
        outliers: share of patches that are replaced, 0…1.
        threshold: cosine below which two patches do not exchange anything.
        class_share: how much of the class token is added to every patch.
    """
    grid = tower.grid(image)
    passed = [step.x for step in tower.steps(image)]
    early, late = blocks_before(tower, 4), blocks_before(tower, 10)
    middle = passed[blocks_before(tower, 9)][:, 1:]
    last = passed[-1]

    factor = outlier_factor(last[:, 1:], neighbours)
    odd = factor > factor.quantile(1 - outliers, dim=-1, keepdim=True)
    alike = cosines(resolve(middle, odd, grid))
    alike_early = cosines(passed[early][:, 1:])
    calibrated = aggregate(resolve(last[:, 1:], odd, grid), alike, threshold)
    fused = torch.stack(passed[early : late + 1]).sum(dim=0)

    total = torch.zeros_like(calibrated)
    for patches, token in ((calibrated, last[:, :1]), (fused[:, 1:], fused[:, :1])):
        step = tower.enter(tower.blocks[-1], patches)
        values = calibrated_attention(step.heads.k, alike) @ step.heads.v
        out = tower.out(step.block, values) + class_share * token
        total = total + aggregate(out, alike_early, threshold)
    return tower.patch_cosines(total, text, grid)


def outlier_factor(patches: Tensor, neighbours: int) -> Tensor:
    """How much farther the k-th neighbour of each patch is than those of its neighbours.

    Args:
        patches: [B, N, D].
        neighbours: k, the patch itself not counted; half of the others where there are fewer.

    Returns:
        [B, N], float32; about 1 for a patch among its like. Distances are squared Euclidean.
    """
    patches = patches.float()
    others = patches.shape[1] - 1
    # All others as neighbours would tie the two that are farthest apart.
    k = neighbours if neighbours <= others else max(1, others // 2)
    distances = torch.cdist(patches, patches).square()
    nearest, who = distances.topk(k + 1, largest=False)
    # Copies of one patch are at distance 0; their ratio is 1, not 0 / 0.
    reach = nearest[..., -1].clamp_min(torch.finfo(torch.float32).tiny)
    theirs = reach[:, None].expand(-1, len(reach[0]), -1).gather(2, who[..., 1:])
    factor: Tensor = (reach[..., None] / theirs).mean(dim=-1)
    return factor


def resolve(patches: Tensor, odd: Tensor, grid: tuple[int, int]) -> Tensor:
    """Patches [B, N, D] where odd ones [B, N] are the mean of sound ones among 8 neighbours.

    An odd patch with no sound neighbour stays as it is.
    """
    ring = torch.ones(1, 1, 3, 3, dtype=patches.dtype, device=patches.device)
    ring[..., 1, 1] = 0
    sound = (~odd).to(patches.dtype).reshape(-1, 1, *grid)
    planes = patches.transpose(1, 2).reshape(len(patches), -1, *grid) * sound
    # One channel at a time through the same kernel: a depthwise convolution without its weights.
    sums = F.conv2d(planes.flatten(0, 1)[:, None], ring, padding=1).reshape(planes.shape)
    counts = F.conv2d(sound, ring, padding=1)
    means = (sums / counts.clamp_min(1)).flatten(2).transpose(1, 2)
    replaced = odd & (counts.flatten(1) > 0)
    return torch.where(replaced[..., None], means, patches)


def cosines(patches: Tensor) -> Tensor:
    """Cosines [B, N, N] of patches [B, N, D] with each other."""
    patches = F.normalize(patches, dim=-1)
    return patches @ patches.transpose(1, 2)


def aggregate(patches: Tensor, alike: Tensor, threshold: float) -> Tensor:
    """Patches [B, N, D] averaged by the cosines [B, N, N] that reach the threshold."""
    weights = alike * (alike >= threshold)
    return weights / (weights.sum(dim=-1, keepdim=True) + 1e-6) @ patches


def calibrated_attention(k: Tensor, alike: Tensor) -> Tensor:
    """Attention [B, H, N, N] of keys [B, H, N, d]: half k·k, half cosines [B, N, N]."""
    centred = 3 * (alike - alike.mean(dim=(1, 2), keepdim=True))
    by_cosine = centred.masked_fill(centred < 0, -torch.inf).softmax(dim=-1)
    by_key = (k @ k.transpose(2, 3) / math.sqrt(k.shape[-1])).softmax(dim=-1)
    return (by_key + by_cosine[:, None]) / 2
