"""CAM: a network that averages its last features and applies one linear layer shows where.

Zhou, Khosla, Lapedriza, Oliva, Torralba, "Learning Deep Features for Discriminative Localization"
(CVPR 2016): heatmap(c) = Σ_i W(c)_i f_i(x, y).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalecli.core.errors import UsageError
from scalecli.localize.gradcam import gradcam_at
from scalecli.localize.timm_tower import LAST, TimmTower


def cam(tower: TimmTower, image: Tensor, text: Tensor, *, layer: str = LAST) -> Tensor:
    """CAM: what each position adds to the network's score of each text.

    It is exact where the mean over positions of what each says alone *is* what the network says:
    average pooling before linear layers.

    Args:
        tower: the network.
        image: [B, 3, height, width].
        text: [P, E].
        layer: at an earlier one, its generalisation is taken: signed Grad-CAM, times the number
            of positions.

    Returns:
        [B, P, h, w], float32, signed. Its mean is the inner product of image and text.

    Raises:
        UsageError: the head is another.
    """
    if layer != LAST:
        maps = gradcam_at(tower, image, text, layer=layer, relu=False)
        return maps * (maps.shape[-1] * maps.shape[-2])
    if not tower.additive:
        raise UsageError(
            "cam needs average pooling before linear layers, which "
            f"{type(tower.trunk).__name__} has not; use gradcam"
        )
    alone = tower.alone(tower.features(image), tower.grid(image))
    return torch.einsum("bhwe,pe->bphw", alone.float(), text.float())


def multiscale_cam(
    tower: TimmTower,
    image: Tensor,
    text: Tensor,
    *,
    layer: str = LAST,
    scales: tuple[float, ...] = (1.0, 2.0),
) -> Tensor:
    """CAM averaged over image sizes: sure of what it sees at one, fine at another.

    Args:
        tower: the network.
        image: [B, 3, height, width].
        text: [P, E].
        layer: as for :func:`cam`.
        scales: factors of the image's size, each rounded to the grid.

    Returns:
        [B, P, h, w] on the finest of the grids, float32, signed.

    Raises:
        UsageError: as :func:`cam`; a scale that is not positive.
    """
    if not scales or min(scales) <= 0:
        raise UsageError("scales: give at least one, all greater than 0")
    maps = [cam(tower, _scaled(tower, image, scale), text, layer=layer) for scale in scales]
    finest = max((m.shape[-2:] for m in maps), key=lambda grid: grid[0] * grid[1])
    resized = [F.interpolate(m, size=finest, mode="bilinear", align_corners=False) for m in maps]
    return torch.stack(resized).mean(dim=0)


def _scaled(tower: TimmTower, image: Tensor, scale: float) -> Tensor:
    sides = zip(image.shape[-2:], tower.patch, strict=True)
    height, width = (max(1, round(side * scale / patch)) * patch for side, patch in sides)
    if (height, width) == tuple(image.shape[-2:]):
        return image
    resized = F.interpolate(
        image.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return resized.to(image.dtype)
